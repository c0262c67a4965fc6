"""Which extra brings a package that is not installed here, from what this package itself says it needs."""

import re
from importlib import metadata
from types import TracebackType

PACKAGES = {  # of modules that have another name than the package that brings them
    "cv2": "opencv-python-headless",
    "multipart": "python-multipart",
    "paho": "paho-mqtt",
    "skimage": "scikit-image",
}
BROUGHT = {"markupsafe": "jinja2", "starlette": "fastapi"}  # what this package asks for, too, by what brings it


def words_of(error: BaseException) -> str | None:
    """One line where a package of an extra was not found, or one that such a package needs itself; None for any other
    error, which is a fault of ours.

    Several extras may bring it: the one whose code asked for it, from the command inwards, else the smallest.
    """
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    module, *inside = error.name.split(".")
    modules = _modules(error.__traceback__)
    askers = [module]
    if not inside:  # else it is there, and a part of it is not: nothing that an installation would mend
        others = (name.split(".")[0] for name in reversed(modules))
        askers += [BROUGHT.get(module, module), *(name for name in others if name != "inlier")]
    extras = _extras()
    brought = ([name for name, packages in extras.items() if _package(asker) in packages] for asker in askers)
    able = next(filter(None, brought), None)
    if not able:
        return None
    asked = (part for name in modules if name.startswith("inlier.") for part in name.split(".")[1:])
    extra = next((part for part in asked if part in able), None) or min(able, key=lambda name: len(extras[name]))
    return f"this needs {_package(module)}, which is not installed here: pip install 'inlier[{extra}]'"


def _package(module: str) -> str:
    return _plain(PACKAGES.get(module, module))


def _extras() -> dict[str, set[str]]:
    """Packages by extra; what another extra brings is among them. None where this package was not installed."""
    try:
        lines = metadata.requires("inlier") or []
    except metadata.PackageNotFoundError:
        return {}
    found: dict[str, set[str]] = {}
    for line in lines:
        if (name := re.match(r"[\w.-]+", line)) and (extra := re.search(r"""extra\s*==\s*['"]([\w.-]+)""", line)):
            found.setdefault(extra[1], set()).add(_plain(name[0]))
    return found


def _plain(package: str) -> str:
    """As package registries compare names."""
    return re.sub(r"[-_.]+", "-", package).lower()


def _modules(traceback: TracebackType | None) -> list[str]:
    """Those that the error went through, the command's first."""
    found = []
    while traceback:
        found.append(str(traceback.tb_frame.f_globals.get("__name__")))
        traceback = traceback.tb_next
    return found
