"""Gradients as operations of a graph, for formats that cannot differentiate."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.nn.functional import hardtanh


def with_backward(function: Callable[[Tensor], Any], example: Tensor) -> nn.Module:
    """`function` as plain operations, those of its `torch.autograd.grad` among them; the first dimension is free."""
    context: Any = StatelessSymbolicContext(
        dynamic_sizes=[DimDynamic.DYNAMIC, *[DimDynamic.STATIC] * (example.dim() - 1)]
    )  # type: ignore[call-arg]
    with FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True) as mode:
        shaped = mode.from_tensor(example, symbolic_context=context)
    table: Any = {
        torch.ops.aten.convolution_backward.default: _convolution_backward,
        torch.ops.aten.hardtanh_backward.default: _clip_backward,
        torch.ops.aten.threshold_backward.default: _relu_backward,
    }
    with enable_python_dispatcher(), torch.enable_grad():
        made: nn.Module = make_fx(function, decomposition_table=table, _allow_non_fake_inputs=True)(shaped)
    return made


def _convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, bias_sizes: Any, stride: Any, padding: Any, dilation: Any, *rest: Any
) -> tuple[Tensor, None, None]:
    """Of the input alone, as a transposed convolution, which exporters know."""
    _, _, groups, _ = rest  # transposed, output padding, groups, what is wanted
    if set(stride) == {1}:  # a plain convolution, which runtimes compute faster than a transposed one
        turned = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1).flip(2, 3)
        around = [d * (k - 1) - p for d, k, p in zip(dilation, weight.shape[2:], padding)]
        back = torch.ops.aten.convolution(gradient, turned, None, stride, around, dilation, False, [0, 0], groups)
        return back, None, None
    known = [
        (n - 1) * s - 2 * p + d * (k - 1) + 1
        for n, s, p, d, k in zip(gradient.shape[2:], stride, padding, dilation, weight.shape[2:])
    ]
    extra = [int(have - n) for have, n in zip(x.shape[2:], known)]
    back = torch.ops.aten.convolution(gradient, weight, None, stride, padding, dilation, True, extra, groups)
    return back, None, None


STEEP = 1e30  # what is 0 stays it, and any other number that a network computes becomes larger than 1


def _clip_backward(gradient: Tensor, x: Tensor, low: float, high: float) -> Tensor:
    """Multiplied by 1 between the bounds and by 0 elsewhere. Plain arithmetic: runtimes take several times as long to
    choose between two numbers."""
    y = hardtanh(x, low, high)
    return gradient * hardtanh((y - low if low else y) * (high - y) * STEEP, 0.0, 1.0)


def _relu_backward(gradient: Tensor, x: Tensor, threshold: float) -> Tensor:
    return gradient * hardtanh((x - threshold if threshold else x) * STEEP, 0.0, 1.0)
