"""The one visible training loop, and the run folder that lets a killed run go on where it stopped."""

import contextlib
import functools
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor, nn

from inlier import artifact, processes
from inlier.errors import ArtifactError, InlierError
from inlier.machine import free_memory
from inlier.progress import Pace, progress

log = logging.getLogger("inlier")
CHECKPOINT_EVERY = 30.0  # seconds
MEMORY_SHARE = 0.25  # of the free memory that a cache may take before it goes to a file
NUMPY = {
    torch.float32: np.float32,
    torch.float16: np.float16,
    torch.uint8: np.uint8,
    torch.uint16: np.uint16,
    torch.bool: np.bool_,
}
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
GIB = 2**30
MARK = "Software", "inlier"  # in pictures of the training, to know them again
LOG_SUFFIX = ".inlier"  # the same in the names of event files
Read = TypeVar("Read")


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
    log: str | None = None  # "tensorboard": event files in the run folder
    deadline: float | None = None  # of time.monotonic(): a fit that would not end before it raises OutOfTime
    to_come: int = 0  # trainings like this one that follow it, and have to end before the deadline, too
    tracker: Any = None  # TensorBoard's writer, while `train` runs
    # what this run put there, shared with its parts: checkpoints, with what tells them from another's, and folders
    written: dict[Path, tuple[int, int]] = field(default_factory=dict, repr=False, compare=False)
    folders: set[Path] = field(default_factory=set, repr=False, compare=False)

    @property
    def checkpoint(self) -> Path | None:
        return self.folder / "checkpoint.safetensors" if self.folder else None

    def new_folder(self) -> Path | None:
        """The run folder, made if need be: large scratch files live there, and go with it, even after a kill -9."""
        if self.folder:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.folders.add(self.folder)
        return self.folder

    def stage(self, name: str) -> "Run":
        """The same for one part of a fit that trains several things, one after the other."""
        return replace(self, folder=self.folder and self.folder / name)

    def member(self, k: int, of: int) -> "Run":
        """The same for one of several things that are trained alike: the first draws as a single one would, the others
        as with seeds of their own."""
        own = int(np.random.SeedSequence(self.seed, spawn_key=(k,)).generate_state(1, np.uint32)[0])
        run = replace(self.stage(f"member{k}"), seed=own) if k else self
        return replace(run, to_come=of - 1 - k)

    def fold(self, k: int) -> "Run":
        """The same for one of several fits on parts of the pictures."""
        return self.stage(f"fold{k}")

    def show(self, picture: Image.Image, name: str, step: int) -> None:
        """Keep a picture of the training: NAME-STEP.png in the run folder, and in the log."""
        if processes.rank() == 0 and (folder := self.new_folder()):
            mark = PngImagePlugin.PngInfo()
            mark.add_text(*MARK)
            picture.save(folder / f"{name}-{step:06}.png", pnginfo=mark)
        if self.tracker:
            self.tracker.add_image(name, np.asarray(picture), step, dataformats="HWC")

    def generator(self, *key: int) -> torch.Generator:
        """Randomness that depends on the seed and `key` alone, so step 1000 is the same after a restart.

        Streams of different keys are independent (numpy's SeedSequence). Parts of a key lie in [-2**62, 2**62).
        """
        # two words of 32 bits for each part, so that no two keys are the same row of words
        parts = (2 * part if part >= 0 else -2 * part - 1 for part in key)
        words = [word for part in parts for word in (part & 0xFFFFFFFF, part >> 32)]
        state = np.random.SeedSequence(self.seed, spawn_key=words).generate_state(1, np.uint64)
        return torch.Generator().manual_seed(int(state[0]))

    def noise(self, shape: Sequence[int], *key: int) -> Tensor:
        """Standard normal numbers on the run's device, of the seed and `key` alone.

        They are drawn there: of millions a step, a CPU's would take longer than the step. So each kind of device has
        its own.
        """
        drawn = torch.Generator(self.device).manual_seed(self.generator(*key).initial_seed())
        return torch.randn(tuple(shape), generator=drawn, device=self.device)

    def cache(self, shape: Sequence[int], dtype: torch.dtype, name: str) -> Tensor:
        """An empty tensor in memory or, where it would take much of what is free, in a file of the run folder.

        The file has no name from the start where the system allows it: it goes with the process, whatever ends that.
        """
        size = math.prod(shape) * dtype.itemsize
        in_memory = size < MEMORY_SHARE * free_memory()
        log.info("%s: %.2f GiB, kept in %s", name, size / GIB, "memory" if in_memory else "a temporary file")
        if in_memory:
            return torch.empty(*shape, dtype=dtype)
        file = tempfile.TemporaryFile(dir=self.new_folder())  # noqa: SIM115 (the map outlives this function)
        return torch.from_numpy(np.memmap(file, NUMPY[dtype], "w+", shape=tuple(shape)))

    def nearby(self, cache: Tensor) -> Tensor:
        """The cache on the run's device, where it takes little of that memory: else each step waits for its part."""
        is_small = cache.numel() * cache.element_size() < MEMORY_SHARE * free_memory(self.device)
        return cache.to(self.device) if is_small else cache

    def check_resumable(self) -> None:
        """Raise InlierError if a checkpoint in the folder is of another identity, as far as that is known yet."""
        for path in self.folder.rglob("checkpoint.safetensors") if self.folder and self.resume else ():
            _check_identity(path, _checkpoint(path, artifact.read_header), self.identity)

    def clear(self) -> None:
        """A fresh start: pictures and logs of an older run go, so that all that are there belong together."""
        if not self.folder or self.resume or processes.rank():
            return
        pictures = (path for path in self.folder.rglob(f"*-{6 * '[0-9]'}.png") if _is_marked(path))  # of `show`
        for path in (*pictures, *self.folder.rglob(f"events.out.tfevents.*{LOG_SUFFIX}")):
            path.unlink()

    def close(self) -> None:
        """The fit is done and saved: its checkpoints go; pictures and logs, and whatever is not of this run, stay."""
        if not self.folder or not self.folder.is_dir() or processes.rank():
            return
        for path, stamp in self.written.items():
            if path.is_file() and _stamp(path) == stamp:
                path.unlink()
        made = {folder for of in self.folders for folder in (of, *of.parents) if folder.is_relative_to(self.folder)}
        for folder in sorted({*made, self.folder}, reverse=True):  # inner ones first
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()
        if self.folder.is_dir():
            log.info("pictures and logs of the training: %s", self.folder)


def batches(n: int, size: int, run: Run, key: Callable[[int], int] = lambda epoch: epoch) -> Callable[[int], Tensor]:
    """Which of n pictures pass i sees, (size,): every one once, in a new order, before any comes again.

    key: of the generator that draws the order of an epoch.
    """

    @functools.lru_cache(4)
    def order(epoch: int) -> Tensor:
        return torch.randperm(n, generator=run.generator(key(epoch)))

    def batch(i: int) -> Tensor:
        places = (divmod(place, n) for place in range(i * size, (i + 1) * size))
        return torch.stack([order(epoch)[place] for epoch, place in places])

    return batch


def half_cosine(step: int, steps: int) -> float:
    """From 1 to 0, first slowly, then fast, then slowly."""
    return (1 + math.cos(math.pi * step / steps)) / 2


def fill(cache: Tensor, parts: Iterable[Tensor], words: str) -> None:
    """Write parts (B, ...) into a cache (N, ...) as they are computed. words: of the progress bar."""
    done = 0
    with progress(words, len(cache)) as show:
        for part in parts:
            cache[done : done + len(part)] = part
            show(done := done + len(part))


def _is_marked(path: Path) -> bool:
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            return picture.info.get(MARK[0]) == MARK[1]
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for what is no picture
        return False


def _stamp(path: Path) -> tuple[int, int]:
    """Tells a file from another that was put in its place."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


@dataclass
class Check:
    """A look at the model every so many steps, at anything but test pictures.

    look(model, step) returns how good it is, higher = better. keep: "last" (the model is what the last step left) or
    "best" (what the best look saw; the last step is looked at too, whatever `every`). patience: stop after so many
    looks in a row without a better one; 0: never.
    """

    look: Callable[[nn.Module, int], float]
    every: int
    keep: str = "last"
    patience: int = 0
    name: str = "simulated defects"  # of the looks in the log

    def is_due(self, step: int, steps: int) -> bool:
        return step % self.every == 0 or (step == steps and self.keep == "best")


def train(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    loss: Callable[[nn.Module, int], Tensor],
    steps: int,
    run: Run,
    *,
    schedule: Callable[[int], float] | None = None,
    check: Check | None = None,
    accumulation: int = 1,
    precision: str = "fp32",
    ema: float | None = None,
    rates: str = "lr",
) -> nn.Module:
    """Take `steps` steps; `loss(model, i)` draws the batch and noise of pass i from `run.generator(i)`.

    A step is `accumulation` passes, whose gradients are averaged. Several processes (started by torchrun) share each
    pass: `loss` is the weighted mean of this one's part (`processes.share`), and the result does not depend on how many
    there are, up to rounding. precision: fp32, or autocast to bf16 or fp16. ema: the model is a moving average of the
    weights with this decay (looks see the average too). schedule(step) is the share of their learning rates
    that the optimizers use (default: all). A checkpoint is kept in the run folder every half minute, on Ctrl-C or
    SIGTERM, and at the end; with `run.resume` the loop goes on from it and ends, bit for bit, where an unbroken run
    would. A second Ctrl-C stops at once. A loss that is not finite raises InlierError with the step and the name of the
    setting to lower, `rates`; the last good checkpoint stays. Where the first steps show that the last one would come
    after `run.deadline`, OutOfTime is raised at once. Without a check that says otherwise the last step is the model.
    """
    processes.join()
    highest_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    # without its cache, which lives as long as the outermost autocast, perhaps the caller's: weights would stay as cast
    # in the first step
    half = functools.partial(
        torch.autocast, run.device.type, HALF.get(precision), enabled=precision in HALF, cache_enabled=False
    )
    scaler = torch.amp.GradScaler(run.device.type, enabled=precision == "fp16")
    learning = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    model.train()
    if run.checkpoint and run.checkpoint.is_file() and not run.resume:
        log.warning("%s: left by a stopped run, replaced by this one (--resume would go on with it)", run.checkpoint)
    state = _restore(model, optimizers, run, scaler) if run.resume else _State()
    if processes.average(float(state.step)) != state.step:
        raise InlierError(f"{run.checkpoint}: another process does not see it; all need the same run folder")
    averaged = {name: p for name, p in model.named_parameters() if p.requires_grad} if ema else {}
    state.ema = state.ema or {name: p.detach().clone() for name, p in averaged.items()}

    def record(name: str, value: float) -> None:
        if run.tracker:
            run.tracker.add_scalar(name, value, state.step)

    saved, pause = time.monotonic(), CHECKPOINT_EVERY
    pace = Pace(run.deadline, steps * (1 + run.to_come))
    with (
        _tracking(run),
        progress("training", steps) as show,
        processes.interrupt_between_steps() as interrupted,
        processes.whole_batch_norm(model),
    ):
        # what one process knows, of a signal or a loss, all must know: they stop together
        while state.step < steps and not processes.average(float(interrupted())) and not state.is_over(check):
            if schedule:
                for optimizer, highest_of_groups in zip(optimizers, highest_rates, strict=True):
                    for group, highest in zip(optimizer.param_groups, highest_of_groups, strict=True):
                        group["lr"] = highest * schedule(state.step)
            for optimizer in optimizers:
                optimizer.zero_grad()
            mean = 0.0
            for i in range(state.step * accumulation, (state.step + 1) * accumulation):
                with half():
                    value = loss(model, i)
                of_all = processes.average(value.item())
                if not math.isfinite(of_all):
                    is_kept = run.checkpoint and run.checkpoint.is_file()
                    raise InlierError(
                        f"the loss became {of_all} at step {state.step + 1} of {steps}: lower the setting {rates}"
                        + (f"; the last good checkpoint is {run.checkpoint}" if is_kept else "")
                    )
                scaler.scale(value / accumulation).backward()
                mean += of_all / accumulation
            processes.average_gradients(learning)
            for optimizer in optimizers:
                scaler.step(optimizer)
            scaler.update()
            for name, p in averaged.items():  # early steps count more, or the average would remember the start
                state.ema[name].lerp_(p.detach(), 1 - min(ema or 0.0, (1 + state.step) / (10 + state.step)))
            state.step += 1
            rate = optimizers[0].param_groups[0]["lr"]
            show(state.step, f"loss {mean:.4f}, learning rate {rate:.2g}")
            record("loss", mean)
            record("learning rate", rate)
            if check and check.is_due(state.step, steps):
                with _swapped(averaged, state.ema):
                    state.note(processes.average(check.look(model.eval(), state.step)), model, check)
                model.train()
                record(check.name, state.values[-1])
            if time.monotonic() - saved > pause:
                start = time.monotonic()
                _save(model, optimizers, state, run, scaler)
                saved = time.monotonic()
                pause = max(CHECKPOINT_EVERY, 20 * (saved - start))  # large models take long to write
            if run.deadline is not None and processes.average(float(pace.is_late(state.step))):
                raise pace.error()
    _save(model, optimizers, state, run, scaler)  # also at the end: what comes after can be interrupted too
    if state.step < steps and not state.is_over(check):
        log.warning("stopped at step %d of %d%s", state.step, steps, ", kept for --resume" if run.folder else "")
        raise KeyboardInterrupt
    model.eval()
    with torch.no_grad():
        for name, p in averaged.items():
            p.copy_(state.ema[name])
    if state.best:
        model.load_state_dict(state.best)
    return model


@contextmanager
def _tracking(run: Run) -> Iterator[None]:
    """The log of the run, if it has one, closed whatever happens."""
    if run.log == "tensorboard" and processes.rank() == 0 and (folder := run.new_folder()):
        from torch.utils.tensorboard import SummaryWriter

        run.tracker = SummaryWriter(folder / "log", flush_secs=10, filename_suffix=LOG_SUFFIX)
    try:
        yield
    finally:
        if run.tracker:
            run.tracker.close()
        run.tracker = None


@contextmanager
def _swapped(parameters: dict[str, nn.Parameter], values: dict[str, Tensor]) -> Iterator[None]:
    """Other values for a while."""
    own = {name: p.data for name, p in parameters.items()}
    try:
        for name, p in parameters.items():
            p.data = values[name]
        yield
    finally:
        for name, p in parameters.items():
            p.data = own[name]


@dataclass
class _State:
    """What, beside model and optimizers, decides how a run goes on."""

    step: int = 0
    values: list[float] = field(default_factory=list)  # of all looks so far
    best: dict[str, Tensor] = field(default_factory=dict)  # the model at the best of them
    ema: dict[str, Tensor] = field(default_factory=dict)  # moving average of what learns

    def note(self, value: float, model: nn.Module, check: Check) -> None:
        if check.keep == "best" and value > max(self.values, default=-math.inf):
            self.best = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        self.values.append(value)

    def is_over(self, check: Check | None) -> bool:
        """The last `patience` looks were no better than one before."""
        if not check or not check.patience or not self.values:
            return False
        return len(self.values) - 1 - self.values.index(max(self.values)) >= check.patience


def _save(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], state: _State, run: Run, scaler: Any) -> None:
    if run.checkpoint is None or processes.rank():
        return
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in state.best.items()}
    tensors |= {f"ema.{name}": tensor for name, tensor in state.ema.items()}
    for i, optimizer in enumerate(optimizers):
        for j, moments in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{j}.{name}": tensor for name, tensor in moments.items()}
    header = {"step": state.step, "values": state.values, "identity": run.identity}
    run.new_folder()
    artifact.write(run.checkpoint, tensors, header | {"scaler": scaler.state_dict()})
    run.written[run.checkpoint] = _stamp(run.checkpoint)


def _restore(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], run: Run, scaler: Any) -> _State:
    if run.checkpoint is None or not run.checkpoint.is_file():
        log.info("nothing to resume%s: starting from the first step", f" in {run.folder}" if run.folder else "")
        return _State()
    tensors, header = _checkpoint(run.checkpoint, artifact.read)
    _check_identity(run.checkpoint, header, run.identity)
    try:
        state = _restored(model, optimizers, scaler, tensors, header)
    except Exception as error:  # torch and optimizers raise all kinds for what does not fit them
        raise InlierError(
            f"{run.checkpoint}: does not fit this training ({error}); train without --resume to start again"
        ) from error
    log.info("resumed at step %d", state.step)
    return state


def _restored(
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    scaler: Any,
    tensors: dict[str, Tensor],
    header: dict[str, Any],
) -> _State:
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
    if header.get("scaler"):
        scaler.load_state_dict(header["scaler"])
    device = next(model.parameters()).device
    ema = {name: tensor.to(device) for name, tensor in groups.get("ema", {}).items()}
    return _State(int(header["step"]), list(map(float, header["values"])), groups.get("best", {}), ema)


def _checkpoint(path: Path, read: Callable[[Path], Read]) -> Read:
    try:
        return read(path)
    except ArtifactError as error:
        raise InlierError(f"{error}; train without --resume to start again") from error


def _check_identity(path: Path, header: dict[str, Any], identity: dict[str, Any]) -> None:
    stored = header.get("identity")
    changed = [k for k, value in identity.items() if not isinstance(stored, dict) or stored.get(k) != value]
    if changed:
        raise InlierError(
            f"{path}: belongs to a run with other {', '.join(changed)}; use the same ones, or train without --resume"
        )
