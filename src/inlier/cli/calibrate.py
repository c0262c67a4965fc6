"""`inlier calibrate`: a model's promise on new good pictures, without a new fit."""

from pathlib import Path
from typing import Annotated

import typer

from inlier import artifact
from inlier.cli.options import Categories, Data, Device, Group, Model, Runtime, Workers
from inlier.cli.outputs import protect, read_by, say
from inlier.errors import InlierError
from inlier.names import shown


def calibrate(
    model: Model,
    data: Data,
    category: Categories = None,
    extend: Annotated[
        bool, typer.Option("--extend", help="Add to the calibration that the model has, instead of replacing it.")
    ] = False,
    group: Group = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the model. Default: over MODEL.")] = None,
    device: Device = "auto",
    runtime: Runtime = None,
    workers: Workers = 2,
) -> None:
    """Renew a model's calibration on good pictures in DATA that it was not fitted on, and say what changes."""
    from inlier.data.datasets import open_dataset
    from inlier.runtime.load import READS, load

    target = out or model
    own, kind = READS.get(model.suffix.lower(), ("torch",))[0], READS.get(target.suffix.lower())
    if runtime not in (None, own):  # or the file would become one of another kind
        raise InlierError(
            f"{shown(model)}: is calibrated by its own runtime, {own}; leave --runtime out, and export the result if "
            "another one is to judge"
        )
    if kind != READS.get(model.suffix.lower()):
        raise InlierError(f"{shown(target)}: is calibrated as {shown(model)} is; give a name that ends as that does")
    dataset = open_dataset(data, category or [])
    protect([target], read_by(data, dataset))
    inspector = load(model, device, runtime=runtime)
    artifact.check_writable(target)
    before = inspector.calibration_
    inspector.calibrate(dataset, extend=extend, group=group, workers=workers)
    inspector.save(target)
    say(f"before: {before}")
    say(f"now:    {inspector.calibration_}")
    old, new = before.rule() if len(before) else None, inspector.calibration_.rule()
    for words, rule in (("before", old), ("now", new)):
        if rule:
            say(f"{words}: at alpha {rule.alpha:.4g} a defect above score {rule.threshold:.5g}; {rule}")
    say(f"{shown(target)}: written")
