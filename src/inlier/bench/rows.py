"""The rows of a sweep: one JSON line for each model and category, appended so that a crash costs no finished one."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from inlier.errors import ArtifactError, InlierError

Row = dict[str, Any]
Key = tuple[Any, ...]
Kind = Callable[[Any], bool]
Kinds = Mapping[str, Kind]
FILE = "rows.jsonl"


def key(row: Mapping[str, Any]) -> Key:
    """What a row is about; of two rows with the same, the later one counts.

    The data is known by its fingerprint, so a set may move; rows of before there were any, by its name.
    """
    judged = row.get("at_alpha") or {}
    return (
        row.get("kind", "test"),
        row.get("fingerprint") or row["data"],
        row["category"],
        json.dumps(row.get("joint"), sort_keys=True),
        row["method"],
        row["preset"],
        json.dumps(row["settings"], sort_keys=True),
        row.get("alpha", judged.get("alpha")),
        row["seed"],
    )


def read(folder: Path) -> list[Row]:
    """The rows of a folder, in the order in which they were written first; none where there are none.

    A last line without its end is what a crash leaves, and is no row. Raises InlierError for any other damage.
    """
    found: dict[Key, Row] = {}
    for number, line in enumerate(_whole(folder / FILE).splitlines(), 1):
        try:
            row = json.loads(line, parse_constant=_no_number)
            check(row)
            found[key(row)] = row
        except (ValueError, TypeError, RecursionError) as error:  # the latter where brackets are nested without end
            why = f" ({error})" if isinstance(error, InlierError) else ""
            raise InlierError(
                f"{folder / FILE}: line {number} is no row of a benchmark{why}; mend or remove it, or choose another "
                "folder"
            ) from None
    return list(found.values())


def append(folder: Path, rows: Sequence[Row]) -> None:
    """Add rows, all in one piece, and have them on the disk before this returns. Raises ArtifactError if it refuses."""
    path = folder / FILE
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = len(_whole(path))
        with path.open("ab") as file:
            file.truncate(whole)  # half a line would spoil the next one
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written ({error.strerror or error})") from error


def missing(wanted: Iterable[Row], rows: Iterable[Row]) -> list[Row]:
    """Those of the wanted rows (what `key` needs of them) that are not finished. What failed is run again: it may have
    been a full disk, or too little memory."""
    done = {key(row): row for row in rows if not row.get("error")}

    def is_done(row: Row) -> bool:
        found = done.get(key(row)) or done.get(key({**row, "fingerprint": None}))
        if found is None:
            return False
        # a preset may have changed since; a setting that is new changes nothing, or it would have another default
        old, new = found.get("all_settings", {}), row.get("all_settings", {})
        return all(old[name] == new[name] for name in old.keys() & new.keys())

    return [row for row in wanted if not is_done(row)]


def about_same(wanted: Iterable[Row], rows: Iterable[Row]) -> list[Row]:
    """The rows that are about the same as the wanted ones."""
    keys = {key(row) for row in wanted}
    return [row for row in rows if key(row) in keys]


def _whole(path: Path) -> bytes:
    """What is in the file, up to the end of its last whole line."""
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]


# -- what is in a row -------------------------------------------------------------------------------------------------


def check(row: Any) -> None:
    """Raise InlierError where tables and pages could not show a row, or would show what cannot be.

    Rows of before lack some entries; what they have is as in all others.
    """
    if not _is_table(row):
        raise InlierError("it is no table of names and values")
    _check(row, "", ABOUT, ABOUT_NEW)
    if row.get("error"):
        return
    if row.get("kind") == "trial":
        _check(row, "", {"joint": ABOUT_NEW["joint"], "trial": _is_table})
        _check(row["trial"], "trial.", dict.fromkeys(("ap", "detection"), _is_share))
        return
    _check(row, "", TESTED, MEASURED)
    _check(row["image"], "image.", dict.fromkeys(("auroc", "ap"), _or_none(_is_share)))
    if row["pixel"]:
        _check(row["pixel"], "pixel.", dict.fromkeys(("auroc", "aupro"), _or_none(_is_share)))
    if row["at_alpha"]:
        rates = dict.fromkeys(("false_alarm_rate", "detection_rate"), _or_none(_is_share))
        _check(row["at_alpha"], "at_alpha.", {"alpha": _is_share, **rates})
    for name in ("fit", "predict"):
        if name in row:
            _check(row[name], f"{name}.", dict.fromkeys(("wall", "processor"), _is_amount))
    for cue, values in row.get("trivial", {}).items():
        _check({cue: values}, "trivial.", {cue: lambda value: _is_table(value) and len(value) == 2})
        _check(values, f"trivial.{cue}.", dict.fromkeys(("detector", "leak"), _or_none(_is_share)))


def _check(row: Mapping[str, Any], where: str, needed: Kinds, optional: Kinds | None = None) -> None:
    if missing := [name for name in needed if name not in row]:
        raise InlierError(f"it has no {where}{missing[0]}")
    for name, is_one in {**needed, **(optional or {})}.items():
        if name in row and not is_one(row[name]):
            text = json.dumps(row[name])
            raise InlierError(f"its {where}{name} cannot be {text if len(text) <= 40 else f'{text[:40]}...'}")


def _no_number(text: str) -> NoReturn:
    raise InlierError(f"it holds {text}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _is_amount(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e300


def _is_share(value: Any) -> bool:
    return _is_amount(value) and bool(value <= 1)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and _is_amount(value)


def _is_path_inside(value: Any) -> bool:
    return _is_text(value) and value != "" and not {"..", "/"} & set(PurePosixPath(value).parts)


def _or_none(is_one: Kind) -> Kind:
    return lambda value: value is None or is_one(value)


# what the entries of a row are; rows of before lack those of ABOUT_NEW and MEASURED
ABOUT: Kinds = {
    **dict.fromkeys(("data", "category", "method", "preset"), _is_text),
    "settings": _is_table,
    "seed": _is_count,
}
ABOUT_NEW: Kinds = {
    "kind": lambda value: value in ("test", "trial"),
    **dict.fromkeys(("joint", "at_alpha"), _or_none(_is_table)),
    **dict.fromkeys(("fingerprint", "error"), _or_none(_is_text)),
    "alpha": _or_none(_is_share),
    "all_settings": _is_table,
    "warnings": lambda value: isinstance(value, list) and all(map(_is_text, value)),
}
TESTED: Kinds = {
    **dict.fromkeys(("n_good", "n_defect"), _is_count),
    "image": _is_table,
    **dict.fromkeys(("pixel", "at_alpha"), _or_none(_is_table)),
}
MEASURED: Kinds = {
    **dict.fromkeys(("fit", "predict", "trivial"), _is_table),
    **dict.fromkeys(("fit_seconds", "peak_memory", "artifact_bytes"), _or_none(_is_amount)),
    "scores": _is_path_inside,  # in the folder of the rows
}
