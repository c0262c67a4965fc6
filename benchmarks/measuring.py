"""What the benchmarks of speed measure with. Needs no inlier, so that other libraries are measured alike."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")  # Linux only
ONE_THREAD = os.environ.get("OMP_NUM_THREADS") == "1"
# with one thread the processor's own time, which what else the machine does changes least
clock = time.process_time if ONE_THREAD else time.perf_counter
MIB = 2**20


@dataclass(frozen=True)
class Row:
    """A line of the table: what was measured, beside what. times: how the two compare, in words of `how`."""

    what: str
    ours: str
    beside: str = ""
    times: float | None = None
    how: str = "x"  # "x as long", "x faster", "x less memory"
    wanted: str = ""  # "<= 1.15" or ">= 8"

    @property
    def reached(self) -> bool | None:
        if not self.wanted or self.times is None:
            return None
        sign, limit = self.wanted.split()
        return self.times <= float(limit) if sign == "<=" else self.times >= float(limit)

    def cells(self) -> list[str]:
        times = "" if self.times is None else f"{self.times:.3g} {self.how}"
        verdict = {None: "", True: ": yes", False: ": **no**"}[self.reached]
        return [self.what, self.ours, self.beside, times, self.wanted + verdict]


def shortest(*functions: Callable[[], object], repeats: int = 11) -> list[float]:
    """Seconds of each, as timeit advises the least of some: whatever else the machine does only adds. They take turns,
    so that a slow minute of the machine is shared by all; the first round warms up."""
    best = [float("inf")] * len(functions)
    for repeat in range(repeats + 1):
        for i, function in enumerate(functions):
            start = clock()
            function()
            if repeat:
                best[i] = min(best[i], clock() - start)
    return best


def memory(of: str = "VmRSS") -> float:
    """MiB that this process holds (VmRSS), or held at most since `forget_peak` (VmHWM)."""
    found = re.search(rf"{of}:\s*(\d+) kB", STATUS.read_text())
    assert found is not None
    return int(found[1]) / 1024


def forget_peak() -> float:
    """Count the peak anew; what the process holds now, in MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory()


def grown(function: Callable[[], object]) -> tuple[float, float]:
    """(seconds, MiB beyond what was held before) of one call."""
    before, start = forget_peak(), clock()
    function()
    return clock() - start, memory("VmHWM") - before


def own_process(script: str, *arguments: str, python: str = sys.executable, **environment: str) -> Any:
    """What the JSON on the last line of a script's output says, run in a process of its own."""
    command = [python, str(Path(__file__).with_name(script)), *arguments]
    ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
    return json.loads(ran.stdout.splitlines()[-1])


def print_rows(rows: Sequence[Row]) -> None:
    print(json.dumps([asdict(row) for row in rows]))


def rows_of(stored: Sequence[Mapping[str, Any]]) -> list[Row]:
    return [Row(**one) for one in stored]
