"""A backbone of a few thousand weights, so that the suite's fits take moments. Importing it makes it known to inlier.

Its weights were drawn once (`python tests/tiny_backbone/__init__.py` draws the same again) and lie beside this file.
"""

import itertools

from torch import nn

from inlier.features import BACKBONES
from inlier.features.weights import ORIGINS, Origin

WIDTHS = (8, 12, 16, 24, 24)


def tiny() -> nn.Sequential:
    """Five stages, each of half the size of the one before; no channel is ever dead."""

    def stage(inputs, outputs):
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.1)
        )

    net = nn.Sequential()
    net.add_module("stem", stage(3, WIDTHS[0]))
    net.add_module("blocks", nn.Sequential(*(stage(i, o) for i, o in itertools.pairwise(WIDTHS))))
    return net


BACKBONES["tiny"] = (tiny, {2: "stem", 4: "blocks.0", 8: "blocks.1", 16: "blocks.2", 32: "blocks.3"})
ORIGINS["tiny"] = Origin("made for tests", package="tiny-backbone", package_file="tiny.safetensors")


if __name__ == "__main__":
    from pathlib import Path

    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(tiny().state_dict(), Path(__file__).with_name("tiny.safetensors"))
