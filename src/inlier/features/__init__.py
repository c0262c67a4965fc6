"""Frozen pretrained networks that turn pictures into feature maps."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from inlier.errors import InlierError
from inlier.features.alexnet import alexnet
from inlier.features.efficientnet_lite import efficientnet_lite0
from inlier.features.from_timm import PREFIX, FromTimm
from inlier.features.resnet import resnet18, resnet50, wide_resnet50_2
from inlier.features.weights import Weights, find_weights

# Builder of each network, and the layer whose output is the last one at each stride.
BACKBONES: dict[str, tuple[Callable[[], nn.Sequential], dict[int, str]]] = {
    "efficientnet_lite0": (
        efficientnet_lite0,
        {2: "blocks.0", 4: "blocks.1", 8: "blocks.2", 16: "blocks.4", 32: "blocks.6"},
    ),
    "resnet18": (resnet18, {2: "relu", 4: "layer1", 8: "layer2", 16: "layer3", 32: "layer4"}),
    "resnet50": (resnet50, {2: "relu", 4: "layer1", 8: "layer2", 16: "layer3", 32: "layer4"}),
    "resnet50_a1": (resnet50, {2: "relu", 4: "layer1", 8: "layer2", 16: "layer3", 32: "layer4"}),
    "wide_resnet50_2": (wide_resnet50_2, {2: "relu", 4: "layer1", 8: "layer2", 16: "layer3", 32: "layer4"}),
    "alexnet": (alexnet, {4: "features.1", 8: "features.2", 16: "features.5", 32: "features.12"}),
}
CONTAINERS = ("features", "blocks")  # children that are a row of stages themselves
# What the weights were trained with, for pixels in [0, 1]: torchvision's numbers, and those of EfficientNet-Lite
# ((x - 127) / 128 in TensorFlow's own code, rounded to 0.5 by timm).
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LITE_MEAN, LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3


class Backbone(nn.Module):
    """Feature maps of a frozen network; work stops after the last tapped layer, later layers are not even built.

    name: one of BACKBONES, or `timm:NAME` with the extra `timm`. taps: strides (4, 8, ...) or layer names
    ("layer2"), in any order. forward takes RGB (B, 3, H, W) in [0, 1], normalises it, and returns one map
    (B, channels, h, w) per tap, in the order of `taps`.

    The network starts with random weights (an artifact brings its own); `load` fetches the pretrained ones.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, taps: Sequence[int | str]):
        super().__init__()
        self.name = name
        is_lite = name == "efficientnet_lite0"
        mean: tuple[float, ...] = LITE_MEAN if is_lite else IMAGENET_MEAN
        std: tuple[float, ...] = LITE_STD if is_lite else IMAGENET_STD
        self.is_timm = name.startswith(PREFIX)
        self.net: nn.Module
        if self.is_timm:
            self.net = found = FromTimm(name, taps)
            self.layers, mean, std = found.layers, found.mean or mean, found.std or std
        elif name in BACKBONES:
            build, strides = BACKBONES[name]
            self.net = build()
            self.layers = [_layer_name(name, tap, strides, [layer for layer, _ in _stages(self.net)]) for tap in taps]
            _truncate(self.net, self.layers)
        else:
            raise InlierError(
                f"unknown backbone '{name}'. Known: {', '.join(BACKBONES)}, or timm:NAME with inlier[timm]"
            )
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        # a third faster on a CPU, the same numbers up to rounding
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.learning, self.batch_statistics = set[str](), False
        self.requires_grad_(False).eval()
        if isinstance(self.net, FromTimm):
            self.channels = self.net.channels
        else:
            self.channels = [shape[0] for shape in self.shapes(128)]

    def forward(self, images: Tensor) -> list[Tensor]:
        x = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        if self.is_timm:
            return list(self.net(x))
        maps: dict[str, Tensor] = {}
        for layer, stage in _stages(self.net):
            x = stage(x)
            maps[layer] = x
        return [maps[layer] for layer in self.layers]

    def shapes(self, size: int) -> list[torch.Size]:
        """(channels, h, w) of the maps of a picture of size x size pixels."""
        with torch.no_grad():
            return [m.shape[1:] for m in self(torch.zeros(1, 3, size, size))]

    def stages(self) -> list[str]:
        """Names of all layers in the order of computation; a network of timm is one frozen whole and names none."""
        return [] if self.is_timm else [layer for layer, _ in _stages(self.net)]

    def unfreeze(self, layers: Iterable[str], batch_statistics: bool = False) -> None:
        """Let some layers learn; `load` accepts that a file lacks them, they start afresh then.

        batch_statistics: in training every batch norm uses its batch and its running statistics drift, frozen or not.
        """
        self.learning, self.batch_statistics = set(layers), batch_statistics
        for layer, stage in _stages(self.net):
            stage.requires_grad_(layer in self.learning)

    def train(self, mode: bool = True) -> "Backbone":
        """Frozen layers stay so: their batch norm keeps its pretrained statistics whatever mode the owner is in."""
        super().train(False)
        for layer, stage in _stages(self.net):
            stage.train(mode and (self.batch_statistics or layer in self.learning))
        return self

    def load(self, path: str | os.PathLike[str] | None = None) -> Weights:
        """Fill in pretrained weights (see weights.find_weights); a needed tensor that is missing is an error.

        Layers that learn may be missing as a whole: they keep their fresh weights and are named in `Weights.fresh`.
        """
        if isinstance(self.net, FromTimm):
            return self.net.load(path)
        weights = find_weights(self.name, path)
        fresh = sorted(
            layer for layer in self.learning if not any(key.startswith(f"{layer}.") for key in weights.tensors)
        )
        wanted = {
            key: tensor
            for key, tensor in self.net.state_dict().items()
            if not key.startswith(tuple(f"{layer}." for layer in fresh))
        }
        missing = [key for key in wanted if key not in weights.tensors and not key.endswith("num_batches_tracked")]
        if missing:
            raise InlierError(
                f"{weights.source}: lacks {len(missing)} tensors that {self.name} needs up to {self.layers[-1]}, first "
                f"'{missing[0]}'. The file holds {', '.join(list(weights.tensors)[:3])}, ..."
            )
        for key, tensor in wanted.items():
            if key in weights.tensors and tensor.shape != weights.tensors[key].shape:
                shape = tuple(weights.tensors[key].shape)
                raise InlierError(
                    f"{weights.source}: '{key}' has the shape {shape}, {self.name} needs {tuple(tensor.shape)}"
                )
        self.net.load_state_dict({key: weights.tensors[key] for key in wanted if key in weights.tensors}, strict=False)
        with_weights = [layer for layer, stage in _stages(self.net) if any(True for _ in stage.parameters())]
        return replace(weights, fresh=tuple(layer for layer in fresh if layer in with_weights))


def _stages(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The network as a row of (layer name, module), in the order of computation."""
    for name, child in net.named_children():
        if name in CONTAINERS:
            yield from ((f"{name}.{i}", stage) for i, stage in child.named_children())
        else:
            yield name, child


def _layer_name(backbone: str, tap: int | str, strides: dict[int, str], layers: list[str]) -> str:
    if isinstance(tap, int) and tap in strides:
        return strides[tap]
    if isinstance(tap, str) and tap in layers:
        return tap
    raise InlierError(
        f"{backbone} has no tap point {tap!r}. Strides: {', '.join(map(str, strides))}; layers: {', '.join(layers)}. "
        f"Choose with --set taps=8,16"
    )


def _truncate(net: nn.Sequential, taps: list[str]) -> None:
    """Drop every stage after the last tap."""
    layers = [layer for layer, _ in _stages(net)]
    for layer in layers[max(layers.index(tap) for tap in taps) + 1 :]:
        container, _, index = layer.rpartition(".")
        del net.get_submodule(container)._modules[index]
