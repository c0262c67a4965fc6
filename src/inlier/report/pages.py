"""How every page is made from its template: everything escaped, no name left out that the template asks for."""

import importlib.util
from typing import Any

from inlier.errors import InlierError
from inlier.names import shown


def check_installed(*packages: str) -> None:
    """Raise InlierError if a report could not be drawn, before the work that it is about. Default: one with charts."""
    missing = [name for name in packages or ("matplotlib", "jinja2") if not importlib.util.find_spec(name)]
    if missing:
        raise InlierError(f"a report needs {' and '.join(missing)}: pip install 'inlier[report]'")


def render(template: str, package: str = "inlier.report", **values: Any) -> str:
    """A page. package: where its template lies; it may include what lies in this one."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name, "") for name in dict.fromkeys((package, "inlier.report"))]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "interval": interval, "number": lambda value: f"{value:.4g}"}
    return environment.get_template(template).render(**values)


def percent(value: float | None) -> str:
    """A share as a number of percent with one decimal; a dash where there is none."""
    return "\N{EN DASH}" if value is None else f"{100 * value:.1f}"


def interval(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else f"{percent(bounds[0])}\N{EN DASH}{percent(bounds[1])}"


def _finalize(value: Any) -> Any:
    """Names hold anything; what is already a piece of the page stays."""
    return shown(value) if type(value) is str else value
