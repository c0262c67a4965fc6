"""One paper, one file. Every module here that does not start with an underscore is a method of that name.

Other packages add methods through the entry point `inlier.methods`, NAME = "package.module:DetectorClass".
"""

import ast
import difflib
import fnmatch
import importlib
import importlib.util
import pkgutil
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inlier.errors import InlierError

if TYPE_CHECKING:
    from inlier.detector import Detector

DEMONSTRATED = ("padim", "simplenet")  # quick enough for `inlier demo`
PREVIEWED = "memseg"  # by `inlier preview`, where no method is named


def names() -> list[str]:
    """Names of all methods, without importing them."""
    return sorted({*_built_in(), *(point.name for point in entry_points(group="inlier.methods"))})


def list_methods(pattern: str = "*") -> list[str]:
    """Names of the methods that fit a pattern.

    >>> list_methods("pa*")
    ['padim']
    """
    return fnmatch.filter(names(), pattern)


def summary(name: str) -> str:
    """First line of the method's file, without importing it."""
    spec = importlib.util.find_spec(_module(name))
    source = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def get(name: str) -> "type[Detector[Any, Any]]":
    """The detector class of a method. Raises InlierError for an unknown name."""
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise InlierError(f"unknown method '{name}'.{hint} Known: {', '.join(names())}")
    if name not in _built_in():
        return _entry_point(name).load()
    from inlier.detector import Detector

    module = importlib.import_module(_module(name))
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Detector) and value.__module__ == module.__name__
    )


def create(name: str, preset: str = "light", **settings: Any) -> "Detector[Any, Any]":
    """A detector by its method's name; `settings` as its constructor takes them.

    >>> create("padim", size=128)
    PaDiM(preset='light', size=128)
    """
    return get(name)(preset, **settings)


def _built_in() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]


def _entry_point(name: str) -> Any:
    return next(point for point in entry_points(group="inlier.methods") if point.name == name)


def _module(name: str) -> str:
    return f"{__name__}.{name}" if name in _built_in() else _entry_point(name).module
