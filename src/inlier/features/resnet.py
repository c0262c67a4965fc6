"""ResNet-18, ResNet-50 and WideResNet-50-2 without the classifier.

He et al., "Deep Residual Learning for Image Recognition", 2015, arXiv 1512.03385, with the stride of a bottleneck in
its 3x3 convolution; Zagoruyko and Komodakis, "Wide Residual Networks", 2016, arXiv 1605.07146. Layer names are the
public ones of the field (conv1, layer1.0.bn1, ...), so every published weight file fits.
"""

from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut."""

    expansion = 1

    def __init__(self, channels_in: int, width: int, stride: int, wide: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 (`wide` times as many channels) and 1x1 convolution around a shortcut."""

    expansion = 4

    def __init__(self, channels_in: int, width: int, stride: int, wide: int = 1):
        super().__init__()
        inner, channels_out = width * wide, width * self.expansion
        self.conv1 = nn.Conv2d(channels_in, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels_in, channels_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + self.downsample(x))


def _shortcut(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    if stride == 1 and channels_in == channels_out:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out))


def _resnet(block: type[BasicBlock] | type[Bottleneck], blocks: tuple[int, ...], wide: int = 1) -> nn.Sequential:
    net = nn.Sequential()
    net.add_module("conv1", nn.Conv2d(3, 64, 7, 2, padding=3, bias=False))
    net.add_module("bn1", nn.BatchNorm2d(64))
    net.add_module("relu", nn.ReLU())  # not in place: "bn1" may be tapped
    net.add_module("maxpool", nn.MaxPool2d(3, 2, padding=1))
    channels = 64
    for i, count in enumerate(blocks):
        width = 64 * 2**i
        layer = nn.Sequential()
        for j in range(count):
            layer.append(block(channels, width, stride=2 if i > 0 and j == 0 else 1, wide=wide))
            channels = width * block.expansion
        net.add_module(f"layer{i + 1}", layer)
    return net


def resnet18() -> nn.Sequential:
    return _resnet(BasicBlock, (2, 2, 2, 2))


def resnet50() -> nn.Sequential:
    return _resnet(Bottleneck, (3, 4, 6, 3))


def wide_resnet50_2() -> nn.Sequential:
    return _resnet(Bottleneck, (3, 4, 6, 3), wide=2)
