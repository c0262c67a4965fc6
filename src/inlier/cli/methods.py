"""`inlier methods`: what there is, and every number of it."""

from dataclasses import fields
from typing import Annotated

import typer

from inlier import methods
from inlier.cli.outputs import check_stdout, print_table, say


def list_methods(name: Annotated[str | None, typer.Argument(help="Show this method's settings.")] = None) -> None:
    """List the methods, or one method's settings and presets."""
    check_stdout()
    if name is None:
        for known in methods.names():
            say(f"{known:10}  {methods.summary(known)}")
        say("\n`inlier methods NAME` shows presets and settings.")
        return
    kind = methods.get(name)
    rows = []
    for f in fields(next(iter(kind.presets.values()))):
        values = (str(getattr(settings, f.name)) for settings in kind.presets.values())
        rows.append((f.name, *values, f.metadata["meaning"]))
    print_table(methods.summary(name), ("setting", *kind.presets, "meaning"), rows, words=True)
