"""`inlier predict`: judge pictures."""

import hashlib
import logging
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from inlier import artifact
from inlier.cli.options import Alpha, Confidence, Device, Model, Runtime, Workers
from inlier.cli.outputs import Writer, check_given, check_stdout, hint_at_outlines, json_line, protect, tell, text_line
from inlier.cli.watched import watched
from inlier.errors import InlierError
from inlier.names import counted, shown

log = logging.getLogger("inlier")
SAID = ("good", "defect", "without a verdict", "unreadable")  # in the last line


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
    monitor: Annotated[
        Path | None,
        typer.Option(
            help="Watch whether parts, light or focus change: the stream's state, made at first, carried on by later "
            "runs. A picture that is given again does not count again."
        ),
    ] = None,
    monitor_chart: Annotated[Path | None, typer.Option(help="Draw what --monitor found so far (PNG).")] = None,
    alpha: Alpha = None,
    confidence: Confidence = None,
    category: Annotated[
        str | None, typer.Option(help="What the pictures show, where the model knows several categories.")
    ] = None,
    device: Device = "auto",
    runtime: Runtime = None,
    workers: Workers = 2,
) -> None:
    """Judge pictures. Goes on after one that cannot be read, names it, and ends with exit code 1."""
    from inlier.data.images import pictures_at
    from inlier.progress import progress
    from inlier.runtime.load import load

    if no_maps and (maps or overlays or reconstructions):
        raise InlierError("--no-maps leaves nothing to write for --maps, --overlays or --reconstructions")
    if monitor_chart and not monitor:
        raise InlierError("--monitor-chart draws what --monitor watches: give that, too")
    to_file = jsonl is not None and str(jsonl) != "-"
    if not to_file:
        check_stdout()
    check_given(images)
    inspector = load(model, device, runtime=runtime)
    if reconstructions and not inspector.repaints:
        raise InlierError(f"--reconstructions: {inspector.header()['method']} repaints nothing")
    if overlays:
        hint_at_outlines(inspector.geometry_.size)
    roots = {path: root for root in images for path in pictures_at(root)}
    write = Writer(roots, maps, overlays, reconstructions, inspector)
    files = filter(None, (jsonl if to_file else None, monitor, monitor_chart))
    protect([*files, *write.targets], [model, *images, *roots])
    if jsonl and to_file and (not jsonl.exists() or jsonl.is_dir()):  # a pipe will do: lines are written as they come
        artifact.check_writable(jsonl)
        jsonl.parent.mkdir(parents=True, exist_ok=True)
    for folder in filter(None, (maps, overlays, reconstructions)):
        artifact.check_writable(folder / "any.png")
    sources, failed, unwritten = list(roots), 0, 0
    said = Counter[str]()
    digests: list[str] = []
    with ExitStack() as stack:
        watch = stack.enter_context(watched(monitor, monitor_chart, inspector)) if monitor else None
        lines = stack.enter_context(jsonl.open("w", encoding="utf-8")) if jsonl and to_file else sys.stdout
        show = stack.enter_context(progress("predicting", len(sources))) if jsonl else None
        # a map that is not written is not computed: with some methods it costs far more than the score
        predictions = inspector.predict(
            sources,
            alpha=alpha,
            confidence=confidence,
            category=category,
            workers=workers,
            errors="keep",
            maps=bool(maps or overlays or reconstructions),
        )
        for done, p in enumerate(predictions, 1):
            if p.error:
                failed += 1
                tell(f"error: {shown(p.error)}")
            else:
                try:
                    write(p)
                except (InlierError, OSError) as error:
                    unwritten += 1
                    tell(f"error: {shown(p.path)}: judged, but its pictures were not all written: {shown(error)}")
            print(json_line(p, lines.encoding) if jsonl else text_line(p), file=lines, flush=True)
            said["unreadable" if p.error else p.verdict or "without a verdict"] += 1
            digests.append(digest(p.path))
            if watch and p.score is not None:
                watch(p, digests[-1])
            if show:
                show(done)
    if failed:
        tell(f"{failed} of {len(sources)} pictures could not be read")
    if unwritten:
        tell(f"the maps or overlays of {unwritten} of {len(sources)} pictures could not be written")
    if known := inspector.n_known(digests):
        log.warning(
            "%d of these %s are ones that %s was fitted on, and it knows them: how many of them are called defect says "
            "nothing about other parts",
            known,
            counted(len(sources), "picture<|s>"),
            model,
        )
    if len(sources) > 1:
        log.info("%d pictures: %s", len(sources), ", ".join(f"{said[words]} {words}" for words in SAID if said[words]))
    if failed or unwritten:
        raise typer.Exit(1)


def digest(path: str) -> str:
    """sha256, hexadecimal, of a picture's file; "" where it cannot be read again: a pipe, or a file that has gone."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest() if Path(path).is_file() else ""
    except OSError:
        return ""
