"""`inlier export`: a model for another runtime, judged against the model before it is kept."""

from pathlib import Path
from typing import Annotated

import typer

from inlier import artifact
from inlier.cli.options import Model, Workers
from inlier.cli.outputs import protect, read_by, say
from inlier.errors import InlierError
from inlier.names import shown


def export(
    model: Model,
    to: Annotated[str | None, typer.Option(help="onnx, openvino or torch. Default: by the suffix of --out.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Default: MODEL with .onnx, .xml (openvino) or .pt2 (torch); onnx without --to.")
    ] = None,
    precision: Annotated[str, typer.Option(help="f32, f16, bf16 (openvino alone) or int8.")] = "f32",
    pixels: Annotated[
        str,
        typer.Option("--input", help="What the graph takes: float (B, 3, H, W) in [0, 1], or uint8 (B, H, W, 3)."),
    ] = "float",
    check: Annotated[
        str | None,
        typer.Option(help="Folder or data set that both judge. bf16 and int8 need it, where --keep kept no pictures."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write what judges differently, too; its figures are kept in the file.")
    ] = False,
    workers: Workers = 2,
) -> None:
    """Write MODEL for another runtime. What would judge differently is not written."""
    from inlier.data.datasets import open_dataset
    from inlier.detector import Detector
    from inlier.runtime.export import SUFFIXES
    from inlier.runtime.load import load
    from inlier.runtime.openvino import weights_file

    if out is None:
        suffixes = {name: suffix for suffix, name in SUFFIXES.items()}
        if to is not None and to not in suffixes:
            raise InlierError(f"--to {to}: must be one of {', '.join(suffixes)}")
        out = model.with_suffix(suffixes[to or "onnx"])
    detector = load(model, "cpu")
    if not isinstance(detector, Detector):
        raise InlierError(f"{shown(model)}: is exported already; export the .inlier file that it was made from")
    dataset = None if check is None else open_dataset(check)
    # OpenVINO's weights lie beside their .xml file
    targets = [out, weights_file(out)] if out.suffix.lower() == ".xml" else [out]
    protect(targets, [model, *(read_by(check, dataset) if check and dataset else [])])
    for target in targets:
        artifact.check_writable(target)
    parity = detector.export(
        out, to=to, precision=precision, pixels=pixels, check=dataset, force=force, workers=workers
    )
    say(f"{shown(out)}: {parity}")
