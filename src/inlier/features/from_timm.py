"""Networks of the package timm, plain vision transformers (DINOv2, DINOv3) included, under the name `timm:NAME`."""

import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inlier.errors import InlierError
from inlier.features.weights import SUFFIXES, Weights, in_folder

PREFIX = "timm:"
# what makes a transformer take pictures of other sizes than it was trained on, where it can: position embeddings are
# resampled for the picture at hand, windows are padded
ANY_SIZE = {"dynamic_img_size": True, "strict_img_size": False}


class FromTimm(nn.Module):
    """Feature maps (B, C, h, w) of the tapped levels of a network of timm. taps: strides or layer names.

    Raises InlierError where timm is missing, knows no such model, or the model has no such taps.
    """

    def __init__(self, name: str, taps: Sequence[int | str]):
        super().__init__()
        timm = import_timm(name)
        self.name = name.removeprefix(PREFIX)
        if not timm.is_model(self.name):
            raise InlierError(f"timm knows no model '{self.name}': see timm.list_models()")
        with torch.device("meta"):
            whole = timm.create_model(self.name)
        known = inspect.signature(type(whole).__init__).parameters
        self.options: dict[str, Any] = {key: value for key, value in ANY_SIZE.items() if key in known}
        # of a plain transformer: the side of its patches, of which a picture must hold a whole number
        self.patch = int(whole.patch_embed.patch_size[0]) if "dynamic_img_size" in self.options else 1
        # timm shows the last three blocks of a plain transformer, if it is not asked for all
        every = {"out_indices": range(len(whole.feature_info))} if self.patch > 1 else {}
        with torch.device("meta"):
            info = timm.create_model(self.name, features_only=True, **self.options, **every).feature_info
        strides, layers = info.reduction(), info.module_name()
        for tap in taps:
            if tap not in strides and tap not in layers:
                raise InlierError(f"{name} has no tap point {tap!r}. Strides: {strides}; layers: {layers}")
        # several levels may share a stride (plain vision transformers): the last one counts
        index = [max(i for i, level in enumerate(zip(strides, layers)) if tap in level) for tap in taps]
        if sorted(set(index)) != index:
            raise InlierError(f"{name}: give the taps from shallow to deep, each once, not {list(taps)}")
        self.options["out_indices"] = index
        self.layers = [layers[i] for i in index]
        self.net = timm.create_model(self.name, features_only=True, **self.options)
        self.channels: list[int] = self.net.feature_info.channels()
        config = timm.get_pretrained_cfg(self.name)
        self.mean: tuple[float, ...] | None = tuple(config.mean) if config else None
        self.std: tuple[float, ...] | None = tuple(config.std) if config else None

    def forward(self, x: Tensor) -> list[Tensor]:
        height, width = x.shape[-2:]
        if height % self.patch or width % self.patch:
            fits = max(1, height // self.patch) * self.patch
            raise InlierError(
                f"setting 'size': {PREFIX}{self.name} cuts pictures into patches of {self.patch} pixels, which "
                f"{height} x {width} pixels are no multiple of; take {fits} or {fits + self.patch}"
            )
        # some networks (Swin) put the channels last
        return [m if m.shape[1] == c else m.permute(0, 3, 1, 2) for m, c in zip(self.net(x), self.channels)]

    def load(self, path: str | os.PathLike[str] | None = None) -> Weights:
        """Fill in weights: a given file as timm saves it, one in INLIER_WEIGHTS, else timm's own from the hub."""
        timm = import_timm(self.name)
        places = in_folder(*(f"{self.name}{suffix}" for suffix in SUFFIXES))
        file = Path(path) if path else next(filter(Path.is_file, places), None)
        if file and not file.is_file():
            raise InlierError(f"{file}: no such weight file")
        given = {"pretrained_cfg_overlay": {"file": str(file)}} if file else {}
        try:
            loaded = timm.create_model(self.name, pretrained=True, features_only=True, **self.options, **given)
        except (OSError, RuntimeError, KeyError, ValueError) as error:  # offline, not found, another network's file
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InlierError(
                f"no weights for {PREFIX}{self.name} from {file or 'the Hugging Face hub'}: {reason}\nOn a machine "
                f"without internet: copy the model's file there as FOLDER/{self.name}.safetensors and set "
                "INLIER_WEIGHTS=FOLDER, or pass --weights FILE"
            ) from error
        self.net.load_state_dict(loaded.state_dict())
        config = timm.get_pretrained_cfg(self.name)
        licence = (config and config.license) or "see the model's page"
        return Weights(dict(loaded.state_dict()), str(file or f"hf.co/timm/{self.name}"), str(licence))


def import_timm(name: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise InlierError(f"the backbone '{name}' needs timm: pip install 'inlier[timm]' ({error})") from error
    except RuntimeError as error:  # torchvision's own library could not be opened
        raise InlierError(
            f"the backbone '{name}' needs timm, whose torchvision must be of the same build as torch: install both "
            f"from one index, such as https://download.pytorch.org/whl/cpu ({error})"
        ) from error
    return timm
