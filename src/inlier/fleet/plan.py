"""A plan is data: the parts of a plant, from a TOML file or a folder of folders, checked before anything runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from inlier import methods
from inlier.errors import WRITTEN, InlierError
from inlier.serve.config import read_toml

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"  # part of the paths in the store
AUTO = "auto"  # instead of a method: the one that finds most planted defects
PLACES = ("data", "good", "pictures", "roi", "weights")  # relative to the plan's file


class Part(BaseModel):
    """One kind of part, and how its model is made; the words are those of `inlier train`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=NAME)]
    data: str  # good pictures, or a data set
    category: str | None = None  # of the data set, where it holds several
    method: str = AUTO
    preset: str = "light"
    settings: dict[str, Any] = {}  # of the method, where they differ from the preset
    roi: str | None = None
    alpha: Annotated[float, Field(gt=0, lt=1)] | None = None
    calibration: str | None = None  # split, folds or none; default: the method's own
    group: str | None = None
    weights: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    budget: str = "10min"  # of `auto`
    processes: Annotated[int, Field(ge=1)] = 1  # that train one model together, as torchrun starts them
    good: str | None = None  # good pictures that are kept from fitting: they calibrate, and judge new models
    pictures: str | None = None  # what `fleet predict` judges


class Plan(BaseModel):
    """All parts. `defaults` holds for each that says nothing else."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parts: tuple[Part, ...]

    def select(self, names: list[str]) -> "Plan":
        """Some of the parts; none named: all. Raises InlierError for an unknown name."""
        known = {part.name: part for part in self.parts}
        if unknown := [name for name in names if name not in known]:
            raise InlierError(f"the plan has no part {', '.join(unknown)}; `inlier fleet plan` lists those it has")
        return Plan(parts=tuple(known[name] for name in names)) if names else self

    def shard(self, i: int, n: int) -> "Plan":
        """The i-th of n shares, i from 1. What each machine does follows from the plan alone, so all is done once."""
        return Plan(parts=tuple(sorted(self.parts, key=lambda part: part.name))[i - 1 :: n])


@dataclass(frozen=True)
class Order:
    """What is to be done with every part."""

    verb: str
    promote: Literal["auto", "ask"] = "auto"  # a new model that nothing speaks against, or wait for a person
    to: str = "onnx"  # of an export
    run: str = ""  # the run's name in the ledger


@dataclass(frozen=True)
class Task:
    """An order for one part."""

    order: Order
    part: Part


def read_plan(place: Path) -> Plan:
    """From a .toml file, or from a folder, each folder in which is a part. Raises InlierError with a line a mistake.

    Method, preset and settings are checked by `check_methods`, pictures by the verb "check".
    """
    content = _of_folder(place) if place.is_dir() else read_toml(place)
    defaults, parts = content.pop("defaults", {}), content.pop("parts", [])
    if not isinstance(defaults, dict) or not isinstance(parts, list) or not all(isinstance(one, dict) for one in parts):
        raise InlierError(f"{place}: expected a table [defaults], if any, and a table [[parts]] for each part")
    if not parts:
        raise InlierError(f"{place}: holds no part; a plan has a table [[parts]] for each, with name and data")
    try:
        plan = Plan.model_validate(content | {"parts": [_with(defaults, one) for one in parts]})
    except ValidationError as error:
        lines = [f"{place}: {_place(e['loc'], parts)}{_words(e)}" for e in error.errors()]
        raise InlierError("\n  ".join(lines)) from None
    names = [part.name for part in plan.parts]
    if twice := sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []:
        raise InlierError(f"{place}: several parts have the name {', '.join(twice)}")
    return Plan(parts=tuple(_at(place if place.is_dir() else place.parent, part) for part in plan.parts))


def check_methods(plan: Plan) -> None:
    """Raise InlierError, with a line for each, where a method, preset or setting is none. Loads PyTorch."""
    lines = []
    said: dict[str, str] = {}
    for part in plan.parts:
        key = repr((part.method, part.preset, part.settings, part.calibration))
        if key not in said:
            said[key] = ""
            try:
                _check_method(part)
            except InlierError as error:
                said[key] = str(error)
        lines += [f"{part.name}: {said[key]}"] if said[key] else []
    if lines:
        more = [f"... and {len(lines) - 20} more"] if len(lines) > 20 else []
        raise InlierError("\n  ".join(["the plan cannot be carried out:", *lines[:20], *more]))


def _check_method(part: Part) -> None:
    from inlier.bench.auto import seconds
    from inlier.calibration import KINDS

    if part.calibration is not None and part.calibration not in KINDS:
        raise InlierError(f"unknown calibration '{part.calibration}'. Known: {', '.join(KINDS)}")
    if part.method != AUTO:
        methods.create(part.method, part.preset, **part.settings)
        return
    seconds(part.budget)
    given = {name: getattr(part, name) for name in ("settings", "calibration", "weights")}
    if told := [name for name, value in given.items() if value]:
        raise InlierError(f"method 'auto' chooses them itself: leave out {', '.join(told)}, or name a method")


def _of_folder(folder: Path) -> dict[str, Any]:
    """Folders whose names cannot stand in a path or an address are refused by the check of names."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return {"parts": [{"name": name, "data": name} for name in names]}


def _with(defaults: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """A part's own settings are added to those of all parts, where it is of the same method."""
    both = part.get("method", defaults.get("method")) == defaults.get("method")
    shared, own = defaults.get("settings", {}) if both else {}, part.get("settings", {})
    if not isinstance(shared, dict) or not isinstance(own, dict):
        return {**defaults, **part}  # the model says what is wrong
    settings = {**shared, **own}
    return {**defaults, **part} | ({"settings": settings} if settings or "settings" in defaults else {})


def _at(folder: Path, part: Part) -> Part:
    """Paths as they are from anywhere. What is no path here, such as the name of a data set, stays."""

    def found(text: str) -> str:
        path = folder / Path(text).expanduser()
        return str(path.absolute()) if path.exists() or "/" in text or text.startswith(".") else text

    return part.model_copy(update={name: found(text) for name in PLACES if (text := getattr(part, name)) is not None})


def _place(loc: tuple[int | str, ...], parts: list[dict[str, Any]]) -> str:
    """bolt.alpha; parts are told by their names."""
    if len(loc) > 1 and loc[0] == "parts" and isinstance(loc[1], int):
        name = parts[loc[1]].get("name", f"parts[{loc[1]}]")
        return ".".join(map(str, (name, *loc[2:]))) + ": "
    return f"{'.'.join(map(str, loc))}: " if loc else ""


def _words(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "no such entry"
    if error["type"] == "missing":
        return "is missing"
    if error["loc"][-1] == "name" and error["type"] == "string_pattern_mismatch":
        return (
            f"{error['input']!r} must be 1 to 64 of A to Z, a to z, 0 to 9, '-', '_' and '.', a letter or digit first"
        )
    hint = f"; {written}" if (written := WRITTEN.get(error["loc"][-1])) else ""
    return f"{error['msg']}, not {error.get('input')!r}{hint}"
