"""Scores and maps by PyTorch: the runtime of a fitted detector."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inlier.features import Backbone
from inlier.inspection.inspector import Output
from inlier.machine import own_torch_state


class Network(Protocol):
    """What a method builds: an `nn.Module` that turns RGB (B, 3, H, W) in [0, 1] into scores (B,) and maps (B, H, W).

    inspected: bool (B, H, W), True where pixels count for the score; None: everywhere. One that repaints pictures has
    `inspect(images, inspected)`, too: scores, maps and reconstructions (B, 3, H, W). One whose maps cost extra has
    `scores(images)` for scores alone.
    """

    backbone: Backbone

    def __call__(self, images: Tensor, inspected: Tensor | None = None, /) -> tuple[Tensor, Tensor]: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> Any: ...
    def to(self, device: torch.device, /) -> Any: ...
    def eval(self) -> Any: ...
    def requires_grad_(self, requires_grad: bool, /) -> Any: ...


class TorchRuntime:
    """A finished network on a device. It wants no gradients, so fitted and loaded ones take the same way to a number.

    repaints, maps_cost_extra: what the method declares of its network.
    """

    def __init__(self, network: Any, device: torch.device, *, repaints: bool = False, maps_cost_extra: bool = False):
        self.network = network.requires_grad_(False).eval().to(device)
        self.device, self.repaints, self.maps_cost_extra = device, repaints, maps_cost_extra

    def __call__(self, images: NDArray[np.float32], inspected: NDArray[np.bool_] | None, maps: bool) -> Output:
        with own_torch_state(), torch.inference_mode():
            counted = None if inspected is None else torch.from_numpy(inspected).to(self.device)
            result = self._run(torch.from_numpy(images).to(self.device), counted, maps)
        return Output(*(tensor.float().cpu().numpy() for tensor in result))

    def _run(self, images: Tensor, inspected: Tensor | None, maps: bool) -> tuple[Tensor, ...]:
        if maps and self.repaints:
            return self.network.inspect(images, inspected)  # type: ignore[no-any-return]
        if not maps and self.maps_cost_extra:
            return (self.network.scores(images),)
        found: tuple[Tensor, Tensor] = self.network(images, inspected)
        return found if maps else found[:1]
