"""`inlier profile`: where the time of a verdict goes."""

from pathlib import Path
from typing import Annotated

import typer

from inlier import artifact
from inlier.cli.options import Device, Model
from inlier.cli.outputs import check_given, protect, say, tell
from inlier.errors import ArtifactError, InlierError
from inlier.names import shown

PICTURES = 8


def profile(
    model: Model,
    data: Annotated[
        Path | None, typer.Argument(help="A picture or a folder of pictures. Default: a drawn JPEG of a megapixel.")
    ] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(help="torch, onnx, openvino; repeat for several. Default: all that are installed and read MODEL."),
    ] = None,
    chart: Annotated[Path | None, typer.Option(help="Draw it, too (SVG).")] = None,
    device: Device = "auto",
) -> None:
    """Milliseconds a picture takes, stage by stage, in batches of 1 and 8, and the least that the machine allows."""
    from inlier.bench import profile as bench
    from inlier.data.images import pictures_at
    from inlier.report.pages import check_installed
    from inlier.runtime.load import load, runtimes_for

    sources: list[Path | bytes] = [bench.drawn_picture()]
    if data is not None:
        check_given([data])
        sources = list(pictures_at(data)[:PICTURES])
    if chart:
        if chart.suffix.lower() != ".svg":
            raise InlierError(f"{shown(chart)}: the chart is an SVG picture; choose a name that ends in .svg")
        check_installed("matplotlib")
        protect([chart], [model, *([data] if data else [])])
        artifact.check_writable(chart)
    timings, limit, refused = [], None, None
    for name in runtime or runtimes_for(model):
        try:
            inspector = load(model, device if name == "torch" else "cpu", runtime=name)
        except ArtifactError:
            raise
        except InlierError as error:  # of an export that judges differently; the others are measured all the same
            refused = error
            tell(f"{name}: not measured: {error}")
            continue
        timings += bench.profile(inspector, name, sources)
        limit = limit or bench.limit(inspector)
        tell(f"{name}: measured")
    if refused and not timings:
        raise refused
    say("milliseconds a picture; verdict: all but drawing")
    say(bench.table(timings))
    if limit:
        say(bench.in_words(limit, timings))
    if chart:
        artifact.write_bytes(chart, bench.drawn(timings).encode())
        say(f"{shown(chart)}: written")
