"""`inlier predict --monitor`: one stream of pictures, watched over many runs."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from inlier import artifact
from inlier.cli.outputs import tell
from inlier.errors import InlierError

if TYPE_CHECKING:
    from inlier.inspection.inspector import Inspector

log = logging.getLogger("inlier")
DIGITS = 16  # of a digest: of a hundred thousand pictures no two share them


@contextmanager
def watched(state: Path, chart: Path | None, inspector: "Inspector") -> Iterator[Callable[[float, str], None]]:
    """Takes the scores of judged pictures, in order, and the digests of their files. A picture counts once.

    The state is read now and written at the end, or when stopped.

    Raises InlierError for a state of another model, and for one that another run changed meanwhile.
    """
    from inlier.data.datasets.sample import counted
    from inlier.drift import Monitor, fingerprint

    if len(inspector.categories_) > 1:
        raise InlierError(
            f"--monitor watches one kind of part, and this model judges {', '.join(inspector.categories_)}: "
            "train a model for each"
        )
    if chart and chart.suffix.lower() != ".png":
        raise InlierError(f"{chart}: the chart is a PNG picture; choose a name that ends in .png")
    for path in filter(None, (state, chart)):
        artifact.check_writable(path)
    calibration = inspector.calibration_.scores
    before = state.read_bytes() if state.exists() else None
    if before is None:
        monitor = Monitor.start(calibration)
        log.info("%s: a new stream, compared with the %d scores of the calibration", state, len(calibration))
    else:
        try:
            monitor = Monitor.from_dict(json.loads(before))
        except ValueError as error:  # InlierError too
            raise InlierError(f"{state}: cannot be used to go on: {error}") from None
        if monitor.calibration != fingerprint(calibration):
            raise InlierError(
                f"{state}: watches the stream of another model, or of this one before it was calibrated anew; "
                "give the name of a new file to start afresh"
            )
    already, given = monitor.pictures, 0

    def watch(score: float, digest: str) -> None:
        nonlocal given
        if alarm := monitor.update(score, digest[:DIGITS]):
            tell(f"alarm: {alarm}")
        given += 1

    try:
        yield watch
    finally:
        if monitor.pictures > already:
            if (state.read_bytes() if state.exists() else None) != before:
                raise InlierError(
                    f"{state}: another run changed it meanwhile, so the {monitor.pictures - already} pictures of this "
                    "one were not added; one stream, one run at a time"
                )
            artifact.write_bytes(state, json.dumps(monitor.to_dict(), allow_nan=False).encode())
        if chart:
            from inlier.drawing import evidence

            content, alarm = io.BytesIO(), monitor.alarm
            points = [*monitor.history, (monitor.pictures, monitor.evidence)]
            evidence(points, monitor.limit, (alarm.began, alarm.picture) if alarm else None).save(content, "png")
            artifact.write_bytes(chart, content.getvalue())
        if (again := given - (monitor.pictures - already)) > 0:
            same = counted(again, "<is byte-equal to one|are byte-equal to some> that counted before, and <does|do>")
            log.warning("%s: of %d pictures %s not count again", state, given, same)
        log.info("%s: %s", state, monitor)
