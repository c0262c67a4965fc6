"""Golden numbers made with the authors' released code, and the rule that fills both sides' weights.

The files in tests/golden/ hold inputs ("in.*") and results ("out.*"), float32 or int64, and a metadata entry `golden`
that names the code, its commit and the sizes. Weights are not stored: every tensor is drawn from its own key.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

FOLDER = Path(__file__).parent / "golden"


def _rng(name, seed):
    return np.random.RandomState(zlib.crc32((name + str(seed)).encode()) & 0xFFFFFFFF)


def noise(name, shape, seed=7):
    return torch.from_numpy(_rng(name, seed).standard_normal(tuple(shape)).astype(np.float32))


def fill(key, shape, seed=7, gain=1.0):
    shape, r = tuple(shape), _rng(key, seed)
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    if key.endswith("running_var"):
        value = r.uniform(0.5, 1.5, shape)
    elif key.endswith(("running_mean", "bias")):
        value = 0.1 * r.standard_normal(shape)
    elif len(shape) == 1:
        value = r.uniform(0.5, 1.5, shape)
    else:
        value = r.standard_normal(shape) * (gain / np.sqrt(np.prod(shape[1:])))
    return torch.from_numpy(np.asarray(value, np.float32))


def fill_module(module, rename=lambda key: key, gain=1.0):
    """Fill a module's state dict; `rename` gives the reference's key for each of ours."""
    module.load_state_dict({k: fill(rename(k), v.shape, gain=gain) for k, v in module.state_dict().items()})
    return module


def load(name):
    """(config, {name: tensor}) of one golden file, rule-made inputs included."""
    with safe_open(FOLDER / f"{name}.safetensors", "pt") as file:
        case = json.loads(file.metadata()["golden"])
        data = {key: file.get_tensor(key) for key in list(file.keys())}
    data |= {f"in.{key}": noise(key, shape, case["seed"]) for key, shape in case["rule_inputs"].items()}
    return case, data


def close(actual, expected, tolerance):
    difference = (torch.as_tensor(actual).double() - expected.double()).abs().max().item()
    assert actual.shape == expected.shape and difference <= tolerance, f"off by {difference:.3g}, allowed {tolerance:g}"


def built(detector):
    """The unfitted network of a detector, as it scores."""
    return detector.build(detector.settings).eval()
