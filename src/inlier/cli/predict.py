"""`inlier predict`: judge pictures."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from inlier import artifact
from inlier.cli.options import Alpha, Device, Model, Workers
from inlier.cli.outputs import Writer, json_line, protect, text_line
from inlier.errors import InlierError


def predict(
    model: Model,
    images: Annotated[list[Path], typer.Argument(help="Pictures, or folders of pictures.")],
    jsonl: Annotated[
        Path | None, typer.Option(help="Write a JSON line per picture to this file ('-': stdout).")
    ] = None,
    maps: Annotated[Path | None, typer.Option(help="Write raw anomaly maps (32-bit TIFF) to this folder.")] = None,
    overlays: Annotated[
        Path | None, typer.Option(help="Write pictures with map and outlined region to this folder.")
    ] = None,
    no_maps: Annotated[
        bool, typer.Option("--no-maps", help="Scores only, as always where neither --maps nor --overlays is given.")
    ] = False,
    reconstructions: Annotated[
        Path | None, typer.Option(help="Write the pictures repainted as good to this folder, of methods that repaint.")
    ] = None,
    alpha: Alpha = None,
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Judge pictures. Goes on after one that cannot be read, names it, and ends with exit code 1."""
    from inlier.data.images import SUFFIX_LIST, list_images
    from inlier.progress import progress
    from inlier.runtime.load import load

    if no_maps and (maps or overlays or reconstructions):
        raise InlierError("--no-maps leaves nothing to write for --maps, --overlays or --reconstructions")
    inspector = load(model, device)
    if reconstructions and not inspector.repaints:
        raise InlierError(f"--reconstructions: {inspector.header()['method']} repaints nothing")
    found = {root: list_images(root) if root.is_dir() else [root] for root in images}
    for root, paths in found.items():
        if not paths:
            raise InlierError(f"{root}: holds no pictures {SUFFIX_LIST}")
    roots = {path: root for root, paths in found.items() for path in paths}
    if jsonl and str(jsonl) != "-":
        protect([jsonl], [model, *images, *roots])
        if not jsonl.exists() or jsonl.is_dir():  # a pipe will do: lines are written as they come
            artifact.check_writable(jsonl)
    for folder in filter(None, (maps, overlays, reconstructions)):
        protect([folder / "any.png"], [root for root in images if root.is_dir()])
        artifact.check_writable(folder / "any.png")
    sources, failed = list(roots), 0
    with ExitStack() as stack:
        lines = sys.stdout
        if jsonl and str(jsonl) != "-":
            # names that are no valid text are written with backslashes
            lines = stack.enter_context(jsonl.open("w", encoding="utf-8", errors="backslashreplace"))
        show = stack.enter_context(progress("predicting", len(sources))) if jsonl else None
        write = Writer(roots, maps, overlays, reconstructions, inspector)
        # a map that is not written is not computed: with some methods it costs far more than the score
        predictions = inspector.predict(
            sources, alpha=alpha, workers=workers, errors="keep", maps=bool(maps or overlays or reconstructions)
        )
        for done, p in enumerate(predictions, 1):
            if p.error:
                failed += 1
                print(f"error: {p.error}", file=sys.stderr)
            else:
                write(p)
            print(json_line(p) if jsonl else text_line(p), file=lines, flush=lines is not sys.stdout)
            if show:
                show(done)
    if failed:
        print(f"{failed} of {len(sources)} pictures could not be read", file=sys.stderr)
        raise typer.Exit(1)
