"""`inlier methods`: what there is, and every number of it."""

from dataclasses import fields
from typing import Annotated

import typer

from inlier import methods


def list_methods(name: Annotated[str | None, typer.Argument(help="Show this method's settings.")] = None) -> None:
    """List the methods, or one method's settings and presets."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if name is None:
        for known in methods.names():
            console.print(f"[bold]{known}[/bold]  {methods.summary(known)}", highlight=False)
        console.print("\n`inlier methods NAME` shows presets and settings.", highlight=False)
        return
    kind = methods.get(name)
    table = Table(title=f"{methods.summary(name)}", title_justify="left", box=None, pad_edge=False)
    for column in ("setting", *kind.presets, "meaning"):
        table.add_column(column, overflow="fold")
    for f in fields(next(iter(kind.presets.values()))):
        values = (str(getattr(settings, f.name)) for settings in kind.presets.values())
        table.add_row(f.name, *values, f.metadata["meaning"])
    console.print(table)
