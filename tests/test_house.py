"""Imports go downwards only, without circles; judging needs no torch. `python tests/test_house.py` draws the house."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).parent.parent / "src"
# from the ground up; a module stands on the floor of its longest name here and may use its own floor and those below
FLOORS = (
    ("errors", "names", "version"),
    (
        "apart",
        "artifact",
        "calibration",
        "drawing",
        "drift",
        "gaussians",
        "lock",
        "machine",
        "maps",
        "metrics",
        "processes",
        "progress",
        "settings",
    ),
    ("data", "features", "training", "good"),
    ("inspection",),
    ("runtime.torch", "runtime.graph", "runtime.exported", "runtime.onnx", "runtime.openvino", "runtime.protobuf"),
    ("runtime.export", "runtime.parity", "runtime.backward"),
    ("detector",),
    ("methods",),
    ("runtime.load",),
    ("evaluation", "results", "trivial", "bench.trial", "bench.seen", "bench.examples", "bench.choice"),
    ("report",),
    ("bench", "study"),
    ("serve",),
    ("fleet",),
    ("cli",),
)
ROOF = ("", "__main__")  # the package itself gives the public names, and may use everything


def modules():
    """Name inside the package -> file."""
    files = {file.relative_to(SRC / "inlier").with_suffix(""): file for file in (SRC / "inlier").rglob("*.py")}
    return {".".join(path.parts).removesuffix("__init__").removesuffix("."): file for path, file in files.items()}


def arrows():
    """Module -> modules of ours that it imports anywhere: at the top, inside functions, or for types only."""
    known, found = modules(), {}
    for name, file in known.items():
        found[name] = set()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "inlier":
                inside = node.module.removeprefix("inlier").removeprefix(".")
                parts = {f"{inside}.{alias.name}".removeprefix(".") for alias in node.names}
                # `from inlier import x`: the module x where there is one, else a public name of the package
                found[name] |= {part if part in known else inside for part in parts}
            elif isinstance(node, ast.Import):
                inlier = [alias.name for alias in node.names if alias.name.split(".")[0] == "inlier"]
                found[name] |= {alias.removeprefix("inlier").removeprefix(".") for alias in inlier}
        found[name] -= {name}
    return found


def floor(name):
    places = {entry: level for level, entries in enumerate(FLOORS) for entry in entries}
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        if ".".join(parts[:n]) in places:
            return places[".".join(parts[:n])]
    raise AssertionError(f"{name}: stands on no floor; give it one in FLOORS")


def test_imports_go_downwards_only():
    upwards = [
        f"{name} -> {other or 'inlier'}"
        for name, others in arrows().items()
        if name not in ROOF and name != "runtime"
        for other in others
        if other in ROOF or floor(other) > floor(name)
    ]
    assert not upwards


def test_there_is_no_circle():
    graph, state, circles = arrows(), {}, []

    def visit(name, path):
        state[name] = "open"
        for other in graph[name] - set(ROOF):
            if state.get(other) == "open":
                circles.append(" -> ".join([*path[path.index(other) :], other]))
            elif other not in state:
                visit(other, [*path, other])
        state[name] = "done"

    for name in graph:
        if name not in state and name not in ROOF:
            visit(name, [name])
    assert not circles


def test_no_method_imports_another():
    """methods/x/... may import inside x only."""
    for name, others in arrows().items():
        if name.startswith("methods."):
            own = name.split(".")[1]
            assert not [other for other in others if other.startswith("methods.") and other.split(".")[1] != own], name


def test_no_method_is_named_outside_of_methods():
    names = {name.split(".")[1] for name in modules() if name.startswith("methods.")}
    for module, file in modules().items():
        if module.startswith("methods") or module in ROOF:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value not in names, f"{module} knows the method {node.value}"


def test_capabilities_are_declared_and_not_probed():
    probes = [name for name, file in modules().items() if "hasattr(" in file.read_text(encoding="utf-8")]
    assert set(probes) <= {"artifact"}, "hasattr asks what an operating system has, and nothing else"


@pytest.mark.parametrize(
    "module",
    ["inlier.inspection.inspector", "inlier.inspection.result", "inlier.drawing", "inlier.drift", "inlier.data.check"],
)
def test_judging_needs_no_torch(module):
    code = f"import sys; sys.modules['torch'] = None; import {module}; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def rooms():
    """Floor by floor, what each room uses, with the modules of a package as one room."""
    graph = arrows()
    lines = []
    for level, entries in reversed(list(enumerate(FLOORS))):
        for entry in sorted(entries):
            inside = [name for name in graph if name == entry or name.startswith(entry + ".")]
            used = {other for name in inside for other in graph[name] if other not in ROOF}
            below = {e for names in FLOORS for e in names for o in used if o == e or o.startswith(e + ".")} - {entry}
            lines.append(f"{level:2}  {entry:14} -> {', '.join(sorted(below)) or '-'}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(rooms())
