"""What this machine offers: devices and memory. Nothing heavy is imported before it is asked for."""

import os
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inlier.errors import InlierError

if TYPE_CHECKING:
    import torch

CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
PROCESSOR, OWN_STATUS = Path("/proc/cpuinfo"), Path("/proc/self/status")
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")  # limit, used, cached files
V2 = ("memory.max", "memory.current", "inactive_file")


def find_device(name: str) -> "torch.device":
    """The device of a name: auto, cpu, cuda, cuda:1, mps, ... Raises InlierError where it cannot be used."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:  # one of several processes: each has its own
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        probe = torch.zeros(1, device=name)
        probe.cpu()  # "meta" holds no numbers
    except (RuntimeError, AssertionError) as error:  # an unknown name, or a build without that device
        raise InlierError(f"device '{name}' cannot be used here: {str(error).splitlines()[0]}") from error
    return probe.device


def device_name(device: "torch.device") -> str:
    """The device as it is asked for, and what a GPU calls itself: "cpu", "cuda:0, NVIDIA H100 80GB HBM3"."""
    import torch

    return f"{device}, {torch.cuda.get_device_name(device)}" if device.type == "cuda" else str(device)


def free_memory(device: "torch.device | None" = None) -> int:
    """Bytes that may be taken: of a GPU, or of this machine or the container that holds this process."""
    import psutil

    if device is not None and device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    own = OWN_CGROUPS.read_text() if OWN_CGROUPS.is_file() else ""
    limit = container_memory(CGROUPS, own)
    free = int(psutil.virtual_memory().available)
    return free if limit is None else min(free, limit)


def container_memory(folder: Path, own: str = "") -> int | None:
    """Bytes that are left below a container's limit (control groups of Linux, version 2 or 1); None without a limit.

    own: what /proc/self/cgroup says, lines "0::/a/b" or "4:memory:/a/b". Groups lie in each other, and the tightest
    counts. What a container's own cached files take can be had back, so it counts as free.
    """
    places = {folder: V2, folder / "memory": V1}
    for line in own.splitlines():
        _, kinds, path = line.split(":", 2)
        if kinds == "" or "memory" in kinds.split(","):
            top, names = (folder / "memory", V1) if kinds else (folder, V2)
            inner = top / path.lstrip("/")
            places |= {group: names for group in (inner, *inner.parents) if group.is_relative_to(top)}
    left = []
    for group, (limit, used, cache) in places.items():
        try:
            most, now = (group / limit).read_text().strip(), int((group / used).read_text())
            stats = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        except OSError:
            continue
        if most != "max" and int(most) < 2**60:  # version 1 writes a huge number for no limit
            left.append(max(0, int(most) - now + int(stats.get(cache, 0))))
    return min(left, default=None)


def peak_memory() -> int:
    """Bytes of memory that this process has held at most since it started."""
    if OWN_STATUS.is_file():  # getrusage would also count what the process that started this one held
        found = re.search(r"^VmHWM:\s*(\d+) kB", OWN_STATUS.read_text(), re.MULTILINE)
        if found:
            return 1024 * int(found[1])
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def about() -> dict[str, Any]:
    """What a measured time depends on: processor, threads, and the versions of what computes."""
    import torch

    found = re.search(r"(?:MKL-DNN|oneDNN) v?([\d.]+)", torch.__config__.show())
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "onednn": found[1] if found else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def processor() -> str:
    """The processor's name, as it calls itself where the system tells."""
    told = PROCESSOR.read_text(errors="replace") if PROCESSOR.is_file() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", told, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def arithmetic(precision: str, device: "torch.device") -> str:
    """fp32 or bf16 for "auto": bf16 where the processor has instructions that multiply it; others are slower with it.

    Else what was asked for. Other devices than the CPU: fp32.
    """
    import torch

    if precision != "auto":
        return precision
    has = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return "bf16" if has.get("avx512_bf16") or has.get("amx_bf16") else "fp32"


def in_double(tensor: "torch.Tensor") -> "torch.Tensor":
    """float64 on the same device; on the CPU where the device is Apple's mps, which has no float64."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


@contextmanager
def own_torch_state() -> Iterator[None]:
    """Contexts of the caller change nothing inside: autocast is off, gradients may be had, new tensors are float32 and
    on the CPU. Not around a generator's `yield`, which would carry the state out to the caller."""
    import torch

    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        for kind in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        yield


def threads() -> int:
    """Threads that the environment allows for arithmetic (OMP_NUM_THREADS); 0 leaves it to the runtime."""
    told = os.environ.get("OMP_NUM_THREADS", "")
    return int(told) if told.isdigit() else 0
