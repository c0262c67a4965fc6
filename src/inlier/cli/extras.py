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


def words_of(error: BaseException) -> str | None:
    """One line where a package of an extra was not found; None for any other error, which is a fault of ours.

    Several extras may bring it: the one whose code asked for it, from the command inwards, else the smallest.
    """
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    module = error.name.split(".")[0]
    package = _plain(PACKAGES.get(module, module))
    extras = _extras()
    able = [name for name, packages in extras.items() if package in packages]
    if not able:
        return None
    asked = (part for name in _modules(error.__traceback__) for part in name.split(".")[1:])
    extra = next((part for part in asked if part in able), None) or min(able, key=lambda name: len(extras[name]))
    return f"this needs {package}, which is not installed here: pip install 'inlier[{extra}]'"


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
    """Those of this package that the error went through, the command's first."""
    found = []
    while traceback:
        name = str(traceback.tb_frame.f_globals.get("__name__"))
        if name.startswith("inlier."):
            found.append(name)
        traceback = traceback.tb_next
    return found
