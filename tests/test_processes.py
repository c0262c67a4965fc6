"""Two real processes train what one trains, up to rounding. This file is also the script that they run."""

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from conftest import FROM_NOTHING, part
from inlier import InlierError, methods, processes, training
from inlier.good import to_input
from inlier.training import Run, train

SMALL = {"size": 64, "steps": 2, "lr": 0.01}
DIAD = (
    FROM_NOTHING
    | SMALL
    | {
        "size": 32,
        "taps": (4,),
        "autoencoder_kind": "kl",
        "autoencoder_channels": (4, 8, 8),
        "autoencoder_layers": 1,
        "autoencoder_groups": 4,
        "autoencoder_steps": 2,
        "autoencoder_batch": 3,
        "autoencoder_accumulation": 2,
        "autoencoder_lr": 0.01,
        "discriminator_start": 1,
        "channels": (8, 8, 16),
        "groups": 4,
        "heads": 2,
        "context_width": 8,
        "hint_channels": (4, 8, 8),
        "batch_size": 3,
        "accumulation": 1,
        "warm_up": 1,
        "ema": 0.8,
    }
)
# most batches cannot be halved evenly
CASES = {
    "simplenet": {
        "size": 40,
        "taps": (8,),
        "features": 96,
        "steps": 4,
        "patches": 33,
        "precision": "fp32",
        "hidden": 16,
    },
    "memseg": SMALL | {"memory": 4, "decoder": 8, "batch_size": 5, "look_every": 2},
    "memseg frozen=false": SMALL | {"memory": 4, "decoder": 8, "batch_size": 4, "frozen": False, "keep": "best"},
    # more views than features: where they span no whole space, whitening turns the rest of it as rounding will have it
    "differnet": SMALL
    | {"taps": (2,), "deviations": False, "view_pool": 12, "width": 16, "blocks": 2, "batch_size": 3, "views": 1},
    "differnet view_pool=0": SMALL | {"taps": (16,), "width": 16, "blocks": 2, "view_pool": 0, "whiten": None},
    "diad": DIAD,
}


class Pictures:
    """What `learn` needs of detector.Images."""

    def __init__(self, n, size):
        rng = np.random.default_rng(0)
        made = [np.asarray(part(rng, size=size)[0].convert("RGB")) for _ in range(n)]
        self.pictures, self.categories = torch.from_numpy(np.stack(made)), ["plate"] * n
        self.groups = list(range(n))

    def __len__(self):
        return len(self.pictures)

    def batches(self, batch_size, device):
        return (to_input(pictures) for pictures in self.pictures.split(batch_size))

    def cache(self, run):
        return self.pictures, None


def learned(case):
    """The state of the network after a few steps along the gradient itself: Adam makes whole steps of the rounding
    where a gradient is zero, as that of a bias before a batch norm."""
    steepest = {name: lambda p, lr, **_: torch.optim.SGD(p, lr, momentum=0.5) for name in ("Adam", "AdamW")}
    settings = CASES[case] | ({"adapter_lr": 0.05, "discriminator_lr": 0.05} if case == "simplenet" else {})
    detector = methods.get(case.split()[0])("light", **settings)
    torch.manual_seed(0)
    network = detector.build(detector.settings)
    network.backbone.load()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.MonkeyPatch.context() as patch:
        for name, optimizer in steepest.items():
            patch.setattr(torch.optim, name, optimizer)
        detector.learn(network, Pictures(7, detector.settings.size), Run())
    after = network.state_dict()
    assert any(not torch.equal(before[name], value) for name, value in after.items())
    return after


def normalised(layer, shape):
    """Outputs, gradients and statistics of a batch norm whose batch is shared unevenly, and of its second half."""
    random = torch.Generator().manual_seed(0)
    x = 100 + torch.randn(*shape, generator=random)  # far from zero, where careless variances break
    wanted = torch.randn(*shape, generator=random)
    mine, weight = processes.share(len(x), "batch_size")
    own = x[mine].requires_grad_()
    with processes.whole_batch_norm(layer.train()):
        y = layer(own)
    (weight * (y * wanted[mine]).mean()).backward()
    processes.average_gradients(layer.parameters())
    gradients = {name: p.grad for name, p in layer.named_parameters()}
    return y.detach(), own.grad / processes.world_size(), gradients, layer.state_dict()


NORMS = {
    "1d": (functools.partial(nn.BatchNorm1d, 3), (5, 3)),
    "2d": (functools.partial(nn.BatchNorm2d, 3), (3, 3, 4, 5)),
}


def stopped(folder, event):
    """What ends a training when the second process alone does `event` in its third step."""
    model = nn.Linear(3, 1)

    def loss(network, i):
        if i == 2 and processes.rank() == 1:
            event()
            return (
                network(torch.full((1, 3), torch.nan)).mean() if event is nothing else network(torch.ones(1, 3)).mean()
            )
        return network(torch.ones(1, 3)).mean()

    try:
        train(model, [torch.optim.SGD(model.parameters(), 0.1)], loss, 5, Run(folder=folder))
    except (InlierError, KeyboardInterrupt) as error:
        return type(error).__name__, str(error)
    return "nothing", ""


def nothing():
    pass


def main(folder):
    torch.set_num_threads(1)
    saved = []  # by this process
    write, training.artifact.write = (
        training.artifact.write,
        lambda *given: (saved.append(given[0].name), write(*given)),
    )
    found = {
        "learned": {case: learned(case) for case in CASES},
        "normalised": {kind: normalised(make(), shape) for kind, (make, shape) in NORMS.items()},
        "not finite": stopped(None, nothing),
        "signal": stopped(folder / "run", lambda: os.kill(os.getpid(), signal.SIGTERM)),
        "saved": saved,
    }
    try:
        processes.share(1, "autoencoder_batch")
    except InlierError as error:
        found["empty"] = str(error)
    torch.save(found, folder / f"{processes.rank()}.pt")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("pair")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, folder]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_learn_what_one_learns(pair, case):
    ours, theirs = (found["learned"][case] for found in pair)
    alone = learned(case)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    for name, value in alone.items():
        # another order of summation, through dozens of layers and three large steps; a number near zero is rounded as
        # its larger neighbours are
        difference, largest = (ours[name] - value).abs().max(), value.abs().max()
        assert difference <= 2e-5 + 1e-4 * largest, f"{name}: off by {difference:.2g} of {largest:.2g}"


@pytest.mark.parametrize("kind", NORMS)
def test_a_shared_batch_norm_is_one_batch_norm(pair, kind):
    make, shape = NORMS[kind]
    y, gradient, gradients, state = normalised(make(), shape)
    halves = [found["normalised"][kind] for found in pair]
    torch.testing.assert_close(torch.cat([half[0] for half in halves]), y, rtol=1e-4, atol=1e-4)  # of 100, in float32
    torch.testing.assert_close(torch.cat([half[1] for half in halves]), gradient, rtol=1e-4, atol=1e-4)
    for half in halves:
        torch.testing.assert_close(half[2], gradients, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(half[3], state)


def test_all_stop_when_the_loss_of_one_is_not_finite(pair):
    assert {found["not finite"][0] for found in pair} == {"InlierError"}
    assert all("became nan at step 3 of 5" in found["not finite"][1] for found in pair)


def test_all_stop_after_the_same_step_when_one_is_told_to(pair):
    assert [found["signal"][0] for found in pair] == ["KeyboardInterrupt"] * 2


def test_one_process_writes(pair):
    assert [found["saved"] for found in pair] == [["checkpoint.safetensors"], []]


def test_a_batch_smaller_than_the_number_of_processes(pair):
    wanted = "setting 'autoencoder_batch': a batch of 1 cannot be shared among 2 processes"
    assert all(found["empty"].startswith(wanted) for found in pair)


if __name__ == "__main__":
    # what torchrun does, but for the fork: to import torch and diffusers in each takes longer than all their trainings
    import torch._dynamo
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel  # noqa: F401
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(1, 1, 2, rdzv_backend="c10d", rdzv_endpoint="localhost:0", start_method="fork")
    elastic_launch(config, main)(Path(sys.argv[1]))
