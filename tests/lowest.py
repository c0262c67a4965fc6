"""Prints pyproject.toml's lower bounds as constraints, so that `make test-lowest` can test that they are true."""

import re
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
groups = [project["dependencies"], *project["optional-dependencies"].values()]
for requirement in sorted({line for group in groups for line in group}):
    if found := re.fullmatch(r"([\w.-]+)>=([\w.]+)", requirement):
        print(f"{found[1]}=={found[2]}")
