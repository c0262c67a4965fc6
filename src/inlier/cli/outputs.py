"""What commands write: lines, maps, overlays and repainted pictures, and never over what they read."""

import contextlib
import functools
import itertools
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inlier import artifact
from inlier.errors import InlierError
from inlier.names import shorten, shown, shown_message

if TYPE_CHECKING:
    from inlier.data.datasets.sample import Dataset
    from inlier.detector import Detector
    from inlier.inspection.inspector import Inspector
    from inlier.inspection.result import Prediction

log = logging.getLogger("inlier")
COARSE = 128  # pixels: networks of fewer see a picture with their deep features as a whole, not part by part


def read_by(
    data: Any,
    dataset: "Dataset",
    detector: "Detector[Any, Any] | None" = None,
    roi: Mapping[str, str] | None = None,
) -> list[Path]:
    """Files and folders that a command reads."""
    paths = [Path(data), *map(Path, (roi or {}).values())]
    for sample in dataset.samples:
        paths += [path for path in (sample.source, *sample.masks) if isinstance(path, Path)]
    if detector:  # weights, textures, what others trained
        texts = [detector.weights, *vars(detector.settings).values()]
        paths += [Path(text) for text in texts if isinstance(text, (str, Path)) and Path(text).exists()]
    return paths


def protect(targets: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse to write over what is read, two files to one place, and a picture into a folder that is read.

    The first would destroy a picture of a part; of the second only the last would be left; the third would pass for one
    the next time. Anything but a picture may lie in such a folder, so that `inlier train .` works. targets: all files
    that a command writes, together. A file that has several names, such as hard links, is one place.
    """
    from inlier.data.images import SUFFIXES

    read = set()
    for path in inputs:
        with contextlib.suppress(ValueError):  # a table may name what no path can be; reading it will say so
            read.add(_identity(_place(path)))
    written: dict[Path, Path] = {}
    taken = set()
    for target in targets:
        if str(target) == "-":
            raise InlierError("-: only results can go to stdout; this is kept in a file, give its name")
        real = _place(target)
        if (identity := _identity(real)) in read:
            raise InlierError(f"{target}: is an input of this command and would be overwritten; choose another name")
        folder = next((parent for parent in real.parents if _identity(parent) in read), None)
        if folder and folder.is_file():
            raise InlierError(f"{target}: {folder} is a file that is read, not a folder; choose another name")
        if folder and real.suffix.lower() in SUFFIXES:
            raise InlierError(
                f"{target}: lies in {folder}, whose pictures this command reads: it would overwrite one of them, or be "
                "taken for one the next time; choose a place outside"
            )
        if identity in taken:
            raise InlierError(f"{target}: two outputs of this command would be written there; give each its own name")
        written[real] = target
        taken.add(identity)
    for real, target in written.items():
        if above := next((parent for parent in real.parents if parent in written), None):
            raise InlierError(
                f"{written[above]}: cannot be a file and the folder of another output, {target}; give each its own name"
            )


def check_given(paths: Iterable[Path]) -> None:
    """Raise InlierError for names on the command line where nothing lies, not even a link: they are mistyped."""
    missing = []
    for path in paths:
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            missing.append(shown(path))
        except (OSError, ValueError):  # links in a circle, or what no path can be: reading it will say so
            pass
    if missing:
        raise InlierError(f"{', '.join(missing)}: no such file or folder")


def check_page(path: Path) -> None:
    """Raise InlierError for a name that no page has: rather a mistaken place than a wish."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise InlierError(f"{path}: the page is HTML; choose a name that ends in .html")


def _place(path: Path) -> Path:
    """Where a path leads to. Links that lead in a circle stay as they are: reading or writing will say so."""
    return Path(os.path.realpath(path))


def _identity(place: Path) -> Path | tuple[int, int]:
    """The same for all names of what exists; another for everything else."""
    with contextlib.suppress(OSError):
        found = place.stat()
        if found.st_ino:  # not all file systems number their files
            return found.st_dev, found.st_ino
    return place


def tell(message: str) -> None:
    """A message on stderr. Where stderr has gone the message is lost, and nothing else is."""
    with contextlib.suppress(OSError):
        print(shown_message(message), file=sys.stderr, flush=True)


def say(text: str) -> None:
    """A result on stdout, at once. Names in it must be `shown`."""
    print(text, flush=True)


def in_place(out: Path) -> str:
    """What to add to the words about a model that is about to be written, where one lies there."""
    return ", in place of the one that was there" if out.exists() else ""


def say_model(detector: "Detector[Any, Any]", out: Path, words: str, talk: Callable[[str], None] = say) -> None:
    """What a new model file is, and what it promises."""
    size = out.stat().st_size / 2**20
    talk(f"{shown(out)}: {detector.name} ({detector.preset}), {size:.1f} MiB, {words}")
    rule = detector.calibration_.rule()
    promise = "no calibration, so no verdicts" if rule is None else f"at alpha {rule.alpha:.4g}, {rule}"
    talk(f"{shown(out)}: {promise}")


def hint_at_outlines(size: int) -> None:
    """Say why outlines are wide, where the network sees little of a picture. size: of its input."""
    if size < COARSE:
        log.info(
            "hint: at size=%d a few features span the whole picture, so the outline of a strong defect may enclose "
            "nearly all of it; train with a larger size where the place matters",
            size,
        )


def check_stdout() -> None:
    """Raise InlierError if results could not be printed, before the work."""
    if sys.stdout is None:
        raise InlierError("stdout is closed, so the results would be lost: open it, or have them written to a file")


def json_text(value: Any, encoding: str = "utf-8", indent: int | None = None) -> str:
    """JSON that can be printed and cut into lines: what is no plain text in this encoding is escaped."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    try:
        text.encode(encoding)
        plain = all(map(str.isprintable, text.split("\n")))
    except UnicodeEncodeError:
        plain = False
    return text if plain else json.dumps(value, allow_nan=False, indent=indent)


def json_line(p: "Prediction", encoding: str) -> str:
    keys = ("path", "error") if p.error else ("path", "score", "p_value", "verdict")
    return json_text({key: getattr(p, key) for key in keys}, encoding)


def text_line(p: "Prediction") -> str:
    if p.error:
        return f"unreadable                           {shown(p.path)}"
    judged = "-       p -     " if p.p_value is None else f"{p.verdict:<7} p {p.p_value:<6.4f}"
    return f"{judged}  score {p.score:<11.5g}  {shown(p.path)}"


class Numbers:
    """What `--json FILE` asks for: a file of all numbers, or '-': stdout, where people then read nothing."""

    def __init__(self, path: Path | None):
        self.to_stdout = str(path) == "-"
        self.file = None if self.to_stdout else path

    def check(self, inputs: Iterable[Path], *others: Path | None) -> None:
        """Raise InlierError before the work where they, or other files that it writes, could not be written."""
        if not self.file:
            check_stdout()
        targets = [path for path in (*others, self.file) if path]
        protect(targets, inputs)
        for target in targets:
            artifact.check_writable(target)

    def say(self, text: str) -> None:
        """To people: on stdout, or on stderr where the numbers are there."""
        (tell if self.to_stdout else say)(text)

    def write(self, value: Any) -> None:
        if self.to_stdout:
            say(json_text(value, sys.stdout.encoding, indent=1))
        elif self.file:
            artifact.write_bytes(self.file, f"{json_text(value, indent=1)}\n".encode())
            say(f"numbers: {shown(self.file)}")


class Writer:
    """Writes maps, overlays and repainted pictures under the pictures' own names.

    roots: each picture, and the folder that was given for it (or itself).
    """

    def __init__(
        self,
        roots: dict[Path, Path],
        maps: Path | None,
        overlays: Path | None,
        reconstructions: Path | None,
        inspector: "Inspector",
    ):
        from inlier.drawing import drawable

        self.drawn = functools.partial(drawable, logarithmic=inspector.log_maps)
        self.scale = inspector.calibration_.map_scale(self.drawn)
        self.maps = _targets(roots, maps, ".tiff")
        self.overlays = _targets(roots, overlays, ".png")
        self.reconstructions = _targets(roots, reconstructions, ".png")

    @property
    def targets(self) -> list[Path]:
        """All files that it may write."""
        return [*self.maps.values(), *self.overlays.values(), *self.reconstructions.values()]

    def __call__(self, p: "Prediction") -> None:
        """Raises InlierError for what cannot be written."""
        path = Path(p.path)
        assert p.map is not None or not (self.maps or self.overlays)
        if self.maps and p.map is not None:
            from PIL import Image

            _save(Image.fromarray(p.map), self.maps[path])
        if self.reconstructions and p.reconstruction is not None:
            from PIL import Image

            _save(Image.fromarray(p.reconstruction), self.reconstructions[path])
        if self.overlays:
            from inlier.data.images import read_image
            from inlier.drawing import overlay

            map_ = self.drawn(p.map)
            picture = overlay(read_image(p.path), map_, self.drawn(p.pixel_threshold), self.scale or _range(map_))
            _save(picture, self.overlays[path])


def _targets(roots: dict[Path, Path], folder: Path | None, suffix: str) -> dict[Path, Path]:
    """Picture -> the file in `folder` for it, never two for one; none without a folder."""
    found: dict[Path, Path] = {}
    used: set[Path] = set()
    for path, root in roots.items() if folder else ():
        relative = path.relative_to(root) if path != root else Path(path.name)
        names = itertools.chain(
            (relative.with_suffix(suffix).name, relative.name + suffix),  # the second for a.png beside a.jpg
            (f"{relative.stem}-{number}{suffix}" for number in itertools.count(2)),  # the same name from two folders
        )
        candidates = (folder / relative.parent / shorten(name) for name in names)  # type: ignore[operator]
        target = next(candidate for candidate in candidates if candidate not in used)
        used.add(target)
        found[path] = target
    return found


def _save(picture: Any, path: Path) -> None:
    from inlier.drawing import as_file

    # of a PNG: at a fifth of the default's time as small as it, where there is noise in a picture
    artifact.write_bytes(path, as_file(picture, path.suffix[1:], compress_level=1))


def _range(map_: Any) -> tuple[float, float]:
    import numpy as np

    return float(np.nanmin(map_)), float(np.nanmax(map_))


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], words: bool = False) -> None:
    """A table on stdout, whose first column names the rows. A terminal that is too narrow gets it in several parts.

    Nothing is ever cut. columns: their heads, which may have two lines. words: the cells are texts and stand to the
    left, those of the last column over several lines if need be; else they are numbers.
    """
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table

    cells = [[shown(cell) for cell in row] for row in rows]
    heads = [max(column.split("\n"), key=cell_len) for column in columns]
    widths = [max(map(cell_len, column)) + 3 for column in zip(heads, *cells)]  # with what rich puts around
    if words:
        widths[-1] = min(widths[-1], 40)
    room = shutil.get_terminal_size().columns if sys.stdout and sys.stdout.isatty() else sum(widths) + 120
    parts: list[list[int]] = [[]]
    for number in range(1, len(columns)):
        if parts[-1] and 1 + widths[0] + sum(widths[n] for n in [*parts[-1], number]) > room:
            parts.append([])
        parts[-1].append(number)
    for number, part in enumerate(parts):
        chosen = [0, *part]
        table = Table(title=None if number else shown(title), title_justify="left")
        for n in chosen:
            wraps = words and n == len(columns) - 1
            table.add_column(columns[n], justify="left" if words or n == 0 else "right", no_wrap=not wraps)
        for row in cells:
            table.add_row(*(row[n] for n in chosen))
        # names are no markup
        width = max(room, 1 + sum(widths[n] for n in chosen))
        Console(width=width, markup=False, emoji=False, highlight=False).print(table)
