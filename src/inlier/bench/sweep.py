"""The sweep: each cell once, its rows on the disk before the next one starts."""

import logging
import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from inlier import artifact, machine
from inlier.bench import rows as stored
from inlier.bench.cell import run_apart
from inlier.bench.plan import Cell
from inlier.bench.rows import Row
from inlier.errors import InlierError
from inlier.lock import alone
from inlier.names import counted
from inlier.version import __version__

log = logging.getLogger("inlier")
Like = tuple[str, str, str]


def check_folder(folder: Path, resume: bool) -> None:
    """Raise InlierError if the rows of another sweep lie there, or nothing can be written."""
    if (n := len(stored.read(folder))) and not resume:
        raise InlierError(
            f"{folder}: holds {counted(n, 'row<|s>')} of an earlier benchmark; --resume goes on with it and runs "
            "nothing twice, or choose another folder"
        )
    artifact.check_writable(folder / stored.FILE)


def sweep(cells: Sequence[Cell], folder: Path, device: str = "auto", workers: int = 2) -> Iterator[list[Row]]:
    """Run the cells that are not finished, and give the rows of each, which are on the disk by then.

    A cell that fails gives rows with an `error`, and the next one runs. Raises InlierError where another sweep runs in
    the folder, ArtifactError when it cannot be written.
    """
    with alone(folder):
        if not (folder / stored.FILE).exists():
            artifact.write_bytes(folder / stored.FILE, b"")  # known to the folder's own entry on the disk, too
        known = stored.read(folder)
        left = [cell for cell in cells if stored.missing(cell.rows(), known)]
        if len(left) < len(cells):
            log.info("%d of %d models are finished already", len(cells) - len(left), len(cells))
        about = {"commit": commit(), "library": __version__, **machine.about()}
        said: set[str] = set()
        took: dict[Like, list[float]] = {}
        for number, cell in enumerate(left):
            rest = remaining(took, left[number:])
            to_go = "" if rest is None else f", about {_duration(rest)} to go"
            log.info("%d of %d%s: %s", number + 1, len(left), to_go, cell.name)
            start = time.monotonic()
            outcome = run_apart(cell, folder, device, workers)
            if outcome.rows:  # one that failed may have ended early
                took.setdefault(like(cell), []).append(time.monotonic() - start)
            for warning in outcome.warnings:
                if warning not in said:
                    log.warning("%s", warning)
                said.add(warning)
            found = outcome.rows or [row | {"error": outcome.error} for row in cell.rows()]
            found = [row | about | {"warnings": list(dict.fromkeys(outcome.warnings))} for row in found]
            stored.append(folder, found)
            yield found


def like(cell: Cell) -> Like:
    """What takes about as long: methods differ by far."""
    return cell.kind, cell.variant.method, cell.variant.preset


def remaining(took: Mapping[Like, Sequence[float]], left: Sequence[Cell]) -> float | None:
    """Seconds that cells will take if each takes what its like took; None where the like of one is not known yet."""
    if not all(like(cell) in took for cell in left):
        return None
    return sum(statistics.mean(took[like(cell)]) for cell in left)


def commit() -> str | None:
    """The commit of this very code, with a plus where files were changed since; None where it is not in git."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", here.parent, *arguments], capture_output=True, text=True, check=False)
        except OSError:  # no git
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # an installed package may lie in a folder of somebody else's repository
    if git("ls-files", "--error-unmatch", here.name) is None:
        return None
    found, changed = git("rev-parse", "--short", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    return f"{found}+" if changed else found


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )
