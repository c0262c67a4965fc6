"""The one visible training loop, and the run folder that lets a killed run go on where it stopped."""

import logging
import math
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inlier import artifact
from inlier.errors import InlierError
from inlier.progress import progress

log = logging.getLogger("inlier")
CHECKPOINT_EVERY = 30.0  # seconds


@dataclass
class Run:
    """Where and how one fit runs. `folder` None: nothing is written, nothing can be resumed.

    identity: everything that decides the result (settings, seed, data); a checkpoint of another identity is refused.
    """

    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    folder: Path | None = None
    resume: bool = False
    identity: dict[str, Any] = field(default_factory=dict)
    workers: int = 2

    @property
    def checkpoint(self) -> Path | None:
        return self.folder / "checkpoint.safetensors" if self.folder else None

    def new_folder(self) -> Path | None:
        """The run folder, made if need be: large scratch files live there, and go with it, even after a kill -9."""
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder

    def generator(self, *key: int) -> torch.Generator:
        """Randomness that depends on the seed and `key` alone, so step 1000 is the same after a restart."""
        mixed = 0
        for part in (self.seed, *key):
            mixed = (mixed * 1_000_003 + part + 1) % (2**63)
        return torch.Generator().manual_seed(mixed)

    def close(self) -> None:
        """The fit is done: the run folder has served."""
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def train(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    loss: Callable[[nn.Module, int], Tensor],
    steps: int,
    run: Run,
    label: str = "training",
) -> nn.Module:
    """Take `steps` steps; `loss(model, step)` draws its batch and noise from `run.generator(step)`.

    A checkpoint is kept in the run folder every half minute and on Ctrl-C or SIGTERM; with `run.resume` the loop goes
    on from it and ends, bit for bit, where an unbroken run would. A loss that is not finite raises InlierError with the
    step; the last good checkpoint stays. The last step is the model: no step is picked by looking at anything.
    """
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=run.device.type == "cpu")
    model, *optimizers = accelerator.prepare(model.train(), *optimizers)
    if run.checkpoint and run.checkpoint.is_file() and not run.resume:
        log.warning("%s: left by a stopped run, replaced by this one (--resume would go on with it)", run.checkpoint)
    step = _restore(model, optimizers, run) if run.resume else 0
    saved = time.monotonic()
    with progress(label, steps) as show, _interrupt_between_steps() as interrupted:
        while step < steps and not interrupted():
            value = loss(model, step)
            if not math.isfinite(value.item()):
                raise InlierError(
                    f"the loss became {value.item()} at step {step + 1} of {steps}: lower the learning rates"
                    + (f"; the last good checkpoint is {run.checkpoint}" if run.checkpoint else "")
                )
            for optimizer in optimizers:
                optimizer.zero_grad()
            accelerator.backward(value)
            for optimizer in optimizers:
                optimizer.step()
            step += 1
            show(step, f"loss {value.item():.4f}")
            if time.monotonic() - saved > CHECKPOINT_EVERY:
                _save(model, optimizers, step, run)
                saved = time.monotonic()
    if step < steps:
        _save(model, optimizers, step, run)
        log.warning("stopped at step %d of %d%s", step, steps, ", kept for --resume" if run.folder else "")
        raise KeyboardInterrupt
    return accelerator.unwrap_model(model).eval()


@contextmanager
def _interrupt_between_steps() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM wait for the end of the step, so that what is saved is the state between two steps."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets signals
        yield lambda: False
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, lambda number, _frame: seen.append(number)) for number in signals]
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in zip(signals, previous):
            signal.signal(number, handler)


def _save(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], step: int, run: Run) -> None:
    if run.checkpoint is None:
        return
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for i, optimizer in enumerate(optimizers):
        for j, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{j}.{name}": tensor for name, tensor in state.items()}
    artifact.write(run.checkpoint, tensors, {"step": step, "identity": run.identity})


def _restore(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], run: Run) -> int:
    if run.checkpoint is None or not run.checkpoint.is_file():
        log.info("nothing to resume: starting from the first step")
        return 0
    try:
        tensors, header = artifact.read(run.checkpoint)
    except artifact.ArtifactError as error:
        raise InlierError(f"{error}; train without --resume to start again") from error
    changed = [key for key, value in run.identity.items() if header["identity"].get(key) != value]
    if changed:
        raise InlierError(
            f"{run.checkpoint}: belongs to a run with other {', '.join(changed)}; "
            f"use the same ones, or train without --resume"
        )
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, _, rest = name.partition(".")
        groups.setdefault(group, {})[rest] = tensor
    model.load_state_dict(groups["model"])
    for i, optimizer in enumerate(optimizers):
        states: dict[int, dict[str, Tensor]] = {}
        for name, tensor in groups.get("optimizer", {}).items():
            number, parameter, key = name.split(".", 2)
            if int(number) == i:
                states.setdefault(int(parameter), {})[key] = tensor
        optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    log.info("resumed at step %d", header["step"])
    return int(header["step"])
