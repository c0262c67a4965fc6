"""Several processes that train one model together, started by `torchrun --nproc_per_node=2 ...`.

A batch is shared among them (`share`), gradients are averaged, batch norm sees the whole batch: the result is that
of one process, up to rounding. Without torchrun there is one process, and nothing here changes anything.
"""

import atexit
import contextlib
import functools
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from inlier.errors import InlierError

log = logging.getLogger("inlier")
Value = TypeVar("Value", float, Tensor)


def world_size() -> int:
    """How many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this one, from 0. Number 0 writes files and logs."""
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def join() -> None:
    """Meet the other processes, if there are any and that has not happened. Raises InlierError where it fails."""
    if world_size() == 1 or dist.is_initialized():
        return
    if rank():  # one of them reports
        log.setLevel(logging.ERROR)
    try:  # gloo works on the CPU, also for the few numbers that training on a GPU exchanges there
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    except (RuntimeError, ValueError) as error:
        raise InlierError(f"the {world_size()} processes cannot meet ({error}): start them with torchrun") from error
    atexit.register(lambda: dist.is_initialized() and dist.destroy_process_group())


def share(n: int, setting: str) -> tuple[slice, float]:
    """This process's part of a batch of n, and the weight of its mean loss: 1, unless parts differ in size.

    Every process draws the whole batch and all of its noise, and works on its part. Raises InlierError where a part
    would be empty. setting: the name of the batch size, for the error.
    """
    k, of = rank(), world_size()
    if n < of:
        raise InlierError(
            f"setting '{setting}': a batch of {n} cannot be shared among {of} processes; make it larger, or start fewer"
        )
    part = slice(k * n // of, (k + 1) * n // of)
    return part, (part.stop - part.start) * of / n


def average(value: Value) -> Value:
    """The mean of a number, or of each number of a tensor, over all processes; the same bits in all of them."""
    if world_size() == 1:
        return value
    if isinstance(value, Tensor):
        return _sum_(value.detach().clone(memory_format=torch.contiguous_format)) / world_size()
    return average(torch.tensor(value, dtype=torch.float64)).item()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace the gradients by their means over all processes, by one exchange for each number format."""
    if world_size() == 1:
        return
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            kinds.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for gradients in kinds.values():
        flat = _sum_(torch.cat([gradient.flatten() for gradient in gradients])).div_(world_size())
        for gradient, part in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
            gradient.copy_(part.view_as(gradient))


@contextmanager
def interrupt_between_steps() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM wait for the end of the step, so that what is saved is the state between two steps.

    A second one raises KeyboardInterrupt at once.
    """
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield lambda: False
        return

    def note(number: int, _frame: Any) -> None:
        seen.append(number)
        if len(seen) > 1:
            raise KeyboardInterrupt
        with contextlib.suppress(RuntimeError):  # the signal came in the middle of another line
            log.warning("stopping after this step; a second signal stops at once")

    signals = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, note) for number in signals]
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in zip(signals, previous):
            signal.signal(number, handler)


@contextmanager
def whole_batch_norm(model: nn.Module) -> Iterator[None]:
    """For a while the batch norms of the model, where they train, see the whole batch: the parts of all processes.

    Not torch's SyncBatchNorm, which needs a GPU.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)] if world_size() > 1 else []
    for norm in norms:
        vars(norm)["forward"] = functools.partial(_normalise, norm)
    try:
        yield
    finally:
        for norm in norms:
            del vars(norm)["forward"]


def _normalise(norm: Any, x: Tensor) -> Tensor:
    """(N, C, ...) -> the same, as a batch norm does it. Parts may differ in size."""
    if not norm.training:
        return type(norm).forward(norm, x)  # type: ignore[no-any-return]
    axes, shape = [0, *range(2, x.dim())], (1, -1, *[1] * (x.dim() - 2))
    n = average(x.numel() / x.shape[1]) * world_size()
    mean = _Sum.apply(x.sum(axes, dtype=torch.float64)) / n
    centred = x.float() - mean.float().view(shape)
    variance = _Sum.apply(centred.square().sum(axes, dtype=torch.float64)) / n
    with torch.no_grad():
        if norm.track_running_stats:
            norm.num_batches_tracked += 1
            momentum = norm.momentum if norm.momentum is not None else 1 / norm.num_batches_tracked.item()
            norm.running_mean.lerp_(mean.float(), momentum)
            norm.running_var.lerp_((variance * n / (n - 1)).float(), momentum)
    y = centred * torch.rsqrt(variance + norm.eps).float().view(shape)
    if norm.affine:
        y = y * norm.weight.view(shape) + norm.bias.view(shape)
    return y.to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum over processes. Every process's loss depends on it, so its gradient is their sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _sum_(x.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _sum_(gradients[0].clone(memory_format=torch.contiguous_format))


def _sum_(x: Tensor) -> Tensor:
    """In place. x: in one piece, of the same shape in all processes."""
    join()
    dist.all_reduce(x)
    return x
