"""What this machine offers: devices and memory. Nothing heavy is imported before it is asked for."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from inlier.errors import InlierError

if TYPE_CHECKING:
    import torch

CGROUPS = Path("/sys/fs/cgroup")


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


def free_memory(device: "torch.device | None" = None) -> int:
    """Bytes that may be taken: of a GPU, or of this machine or the container that holds this process."""
    import psutil

    if device is not None and device.type == "cuda":
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    limit = container_memory(CGROUPS)
    free = int(psutil.virtual_memory().available)
    return free if limit is None else min(free, limit)


def container_memory(folder: Path) -> int | None:
    """Bytes that are left below a container's limit (control groups of Linux, version 2 or 1); None without a limit.

    What a container's own cached files take can be had back, so it counts as free.
    """
    for limit, used, cache in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, now = (folder / limit).read_text().strip(), int((folder / used).read_text())
            lines = (folder / used).with_name("memory.stat").read_text().splitlines()
        except OSError:
            continue
        if most == "max" or int(most) >= 2**60:  # version 1 writes a huge number for no limit
            return None
        stats = dict(line.split() for line in lines)
        return max(0, int(most) - now + int(stats.get(cache, 0)))
    return None


def in_double(tensor: "torch.Tensor") -> "torch.Tensor":
    """float64 on the same device; on the CPU where the device is Apple's mps, which has no float64."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


@contextmanager
def own_torch_state() -> Iterator[None]:
    """Contexts of the caller change nothing inside: autocast is off, gradients may be had, numbers are float32."""
    import torch

    dtype = torch.get_default_dtype()
    devices = [kind for kind in ("cpu", "cuda", "mps") if torch.is_autocast_enabled(kind)]
    torch.set_default_dtype(torch.float32)
    autocast = [torch.autocast(kind, enabled=False) for kind in devices]
    try:
        for context in autocast:
            context.__enter__()
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for context in reversed(autocast):
            context.__exit__(None, None, None)
        torch.set_default_dtype(dtype)
