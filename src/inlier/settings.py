"""Settings of a method: frozen dataclasses whose every field has a meaning and a range.

A method subclasses `Settings`, adds its own numbers with `setting(...)`, and lists its presets as instances.
"""

import dataclasses
import difflib
import math
import numbers
import os
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from inlier.errors import InlierError


def setting(
    default: Any,
    meaning: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
    place: bool = False,
    instead_of: str | None = None,
) -> Any:
    """A dataclass field with its meaning (shown by `inlier methods NAME`) and its valid range, ends included.

    place: names a file or folder, of which model files tell the last part only. instead_of: another setting, which
    changes nothing unless this one is none.
    """
    known = {"meaning": meaning, "low": low, "high": high, "choices": tuple(choices), "place": place}
    known["instead_of"] = instead_of
    return field(default=default, metadata=known)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What every method that looks at pictures through a backbone needs to know."""

    backbone: str = setting("efficientnet_lite0", "pretrained network; timm:NAME opens every other one")
    taps: tuple[int | str, ...] = setting((8, 16), "layers read, as strides or layer names, shallow to deep")
    size: int = setting(256, "height and width of the network's input, pixels", low=32, high=4096)
    shorter_side: int | None = setting(
        None, "resize the shorter side to this, then crop the centre; none: stretch the whole image", low=32, high=8192
    )
    tile: int | None = setting(
        None,
        "cut pictures into tiles of so many of their own pixels, each an input; none: the whole",
        low=16,
        high=65536,
    )
    overlap: float = setting(0.25, "share of a tile that overlaps the next, at least", low=0.0, high=0.9)
    filter: str = setting("bilinear", "resampling of the picture", choices=("bilinear", "bicubic", "lanczos"))
    scaled_jpeg: bool = setting(
        False,
        "decode JPEG files no larger than needed, twice the input: faster for large pictures, scores differ slightly",
    )

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for f in fields(self):
            value, hint = _plain(getattr(self, f.name), hints[f.name]), hints[f.name]
            object.__setattr__(self, f.name, value)
            if not _fits(value, hint):
                raise InlierError(
                    f"setting '{f.name}': {_told(value)} is not {_describe(hint)} ({f.metadata['meaning']})"
                )
            self._check_range(f.name, value, f.metadata)

    def _check_range(self, name: str, value: Any, metadata: Mapping[str, Any]) -> None:
        low, high, choices = metadata["low"], metadata["high"], metadata["choices"]
        if choices and value not in choices:
            raise InlierError(f"setting '{name}': {_told(value)} is not one of {', '.join(choices)}")
        if isinstance(value, tuple):
            for part in value:
                self._check_range(name, part, metadata)
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            return
        wrong = f"setting '{name}': {_told(value)} is out of range, it must be"
        if not (math.isfinite(value) if isinstance(value, float) else abs(value) < 2**63):
            raise InlierError(f"{wrong} finite, and below 2**63 if it is whole ({metadata['meaning']})")
        if not ((low is None or value >= low) and (high is None or value <= high)):
            raise InlierError(f"{wrong} {_bounds(low, high)} ({metadata['meaning']})")

    def replace(self, **changes: Any) -> Self:
        """A copy with some settings changed. Unknown names raise InlierError that lists the known ones."""
        known = [f.name for f in fields(self)]
        for name in changes:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f" Did you mean '{close[0]}'?" if close else ""
                raise InlierError(f"unknown setting '{name}'.{hint} Known: {', '.join(known)}")
        changed = dataclasses.replace(self, **changes)
        for f in fields(self):
            ruled = f.metadata["instead_of"]
            value = getattr(changed, f.name)
            if ruled in changes and f.name not in changes and value is not None:
                raise InlierError(
                    f"setting '{ruled}' changes nothing where '{f.name}' is {value}: change that, or set it to none too"
                )
        return changed

    def public(self) -> dict[str, Any]:
        """All of them as a model file tells them: it may travel, so of files and folders just the names."""
        values = dataclasses.asdict(self)
        places = [f.name for f in fields(self) if f.metadata["place"] and values[f.name]]
        return values | {name: os.path.basename(os.path.abspath(values[name])) for name in places}

    @classmethod
    def describe(cls) -> str:
        """A line for each setting: name, type, default, meaning, and what may be chosen."""
        hints = typing.get_type_hints(cls)
        lines = []
        for f in fields(cls):
            known = f.metadata
            bounds = _bounds(known["low"], known["high"])
            choices = f"; one of {', '.join(known['choices'])}" if known["choices"] else f"; {bounds}" if bounds else ""
            lines.append(f"{f.name}: {_describe(hints[f.name])} = {f.default!r}. {known['meaning']}{choices}")
        return "\n".join(lines)

    @classmethod
    def parse(cls, texts: Sequence[str]) -> dict[str, Any]:
        """`["epochs=40", "taps=8,16"]` -> values of the right types. Raises InlierError that names the setting."""
        hints = typing.get_type_hints(cls)
        values = {}
        for text in texts:
            name, equals, value = text.partition("=")
            if not equals:
                raise InlierError(f"'{text}' is not KEY=VALUE")
            values[name.strip()] = _parse(value.strip(), hints[name.strip()]) if name.strip() in hints else value
        return values


def as_text(value: Any) -> str:
    """A value as `parse` takes it back.

    >>> as_text((8, 16)), as_text("bilinear")
    ('8,16', 'bilinear')
    """
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _told(value: Any) -> str:
    """A value in a message, whatever it is."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole numbers of more than 4300 digits
        text = "a number of thousands of digits"
    return text if len(text) <= 200 else f"{text[:200]}..."


def _bounds(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"from {low} to {high}"
    return f"at least {low}" if low is not None else f"at most {high}" if high is not None else ""


def _plain(value: Any, hint: Any) -> Any:
    """NumPy's numbers, paths and lists as the plain values that a file can hold; whole numbers as numbers."""
    options = _options(hint)
    if isinstance(value, (list, tuple)):
        inner = next((typing.get_args(option)[0] for option in options if typing.get_origin(option) is tuple), Any)
        plain = tuple(_plain(part, inner) for part in value)
        return value if value == plain and isinstance(value, tuple) else plain
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        value = value.item()
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and float in options and int not in options:
        try:
            return value if isinstance(value, float) else float(value)
        except OverflowError:
            return math.inf  # which is out of range
    return value


def _options(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _fits(value: Any, hint: Any) -> bool:
    for option in _options(hint):
        if typing.get_origin(option) is tuple:
            if isinstance(value, tuple) and value and all(_fits(v, typing.get_args(option)[0]) for v in value):
                return True
        elif type(value) is option:
            return True
    return False


def _parse(text: str, hint: Any) -> Any:
    """The first of the hint's types that the text fits; the text itself where none does (`_fits` will complain)."""
    for option in _options(hint):
        if option is type(None) and text.lower() in ("none", "null"):
            return None
        if option is bool and text.lower() in ("true", "false", "yes", "no"):
            return text.lower() in ("true", "yes")
        if typing.get_origin(option) is tuple:
            inner = typing.get_args(option)[0]
            whole = text[1:-1] if text[:1] + text[-1:] in ("()", "[]") else text
            if set(whole) & set("()[]"):  # a bracket that is not closed, or a list in a list
                return text
            return tuple(_parse(part.strip(), inner) for part in whole.split(",") if part.strip())
        if option in (int, float):
            try:
                return option(text)
            except ValueError:
                continue
    return text


def _describe(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "none"}
    return " or ".join(
        f"a list of ({_describe(typing.get_args(o)[0])})" if typing.get_origin(o) is tuple else names.get(o, str(o))
        for o in _options(hint)
    )
