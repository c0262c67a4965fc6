"""One paper, one file. Every module here that does not start with an underscore is a method of that name."""

import ast
import difflib
import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING

from inlier.errors import InlierError

if TYPE_CHECKING:
    from inlier.detector import Detector


def names() -> list[str]:
    """Names of all methods, without importing them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def summary(name: str) -> str:
    """First line of the method's file, without importing it."""
    path = Path(__path__[0]) / name
    source = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
    return (ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def get(name: str) -> type["Detector"]:
    """The detector class of a method. Raises InlierError for an unknown name."""
    if name not in names():
        close = difflib.get_close_matches(name, names(), n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise InlierError(f"unknown method '{name}'.{hint} Known: {', '.join(names())}")
    from inlier.detector import Detector

    module = importlib.import_module(f"{__name__}.{name}")
    return next(
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Detector) and value.__module__ == module.__name__
    )
