"""`inlier predict --monitor`: one stream of pictures, watched over many runs."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from inlier import artifact
from inlier.cli.outputs import tell
from inlier.errors import InlierError
from inlier.names import counted

if TYPE_CHECKING:
    from inlier.inspection.inspector import Inspector
    from inlier.inspection.result import Prediction

log = logging.getLogger("inlier")
AFRESH = "put a copy of it back, or give the name of a new file to start afresh"


@contextmanager
def watched(state: Path, chart: Path | None, inspector: "Inspector") -> Iterator[Callable[["Prediction", str], None]]:
    """Takes judged pictures, in order, and the digests of their files. A picture counts once.

    The state is read now and written at the end, or when stopped.

    Raises InlierError for a state of another model, and for one that another run changed meanwhile.
    """
    from inlier.data.cues import CUES, WATCHED, cues
    from inlier.data.images import read_image
    from inlier.drift import SCORE, Stream, fingerprint

    if len(inspector.categories_) > 1:
        raise InlierError(
            f"--monitor watches one kind of part, and this model judges {', '.join(inspector.categories_)}: "
            "train a model for each"
        )
    if chart and chart.suffix.lower() != ".png":
        raise InlierError(f"{chart}: the chart is a PNG picture; choose a name that ends in .png")
    for path in filter(None, (state, chart)):
        artifact.check_writable(path)
    calibration = {SCORE: inspector.calibration_.scores}
    if len(inspector.cues_):
        calibration |= dict(zip(WATCHED, inspector.cues_.T, strict=True))
    before = state.read_bytes() if state.exists() else None
    if before is None:
        stream = Stream.start(calibration)
        log.info("%s: a new stream, compared with the %d scores of the calibration", state, len(calibration[SCORE]))
        if len(calibration) == 1:
            log.warning("%s: watches scores alone, as the model is of before brightness, contrast and sharpness", state)
    else:
        try:
            stream = Stream.from_json(before)
        except InlierError as error:
            raise InlierError(f"{state}: cannot be used to go on: {error}; {AFRESH}") from None
        if (
            not stream.fingerprints.items()
            <= {what: fingerprint(values) for what, values in calibration.items()}.items()
        ):
            raise InlierError(
                f"{state}: watches the stream of another model, or of this one before it was calibrated anew; "
                "give the name of a new file to start afresh"
            )
        starts = (calibration, {SCORE: calibration[SCORE]})  # the latter before cues were watched
        if not any(stream.goes_on_from(Stream.start(known)) for known in starts):
            raise InlierError(
                f"{state}: cannot be used to go on: its scores or bets are not those of its model; {AFRESH}"
            )
    already, given = stream.pictures, 0

    def watch(judged: "Prediction", digest: str) -> None:
        nonlocal given
        values = {SCORE: float(judged.score or 0.0)}
        if len(stream.monitors) > 1:
            assert judged.source is not None
            try:
                values |= dict(zip(CUES, cues(read_image(judged.source, judged.path))))
            except InlierError as error:  # it was moved after its verdict
                log.warning("%s: does not count, as it cannot be looked at again: %s", state, error)
                return
        for alarm in stream.update(values, digest):
            tell(f"alarm: {alarm}")
        given += 1

    try:
        yield watch
    finally:
        if stream.pictures > already:
            if (state.read_bytes() if state.exists() else None) != before:
                raise InlierError(
                    f"{state}: another run changed it meanwhile, so the {stream.pictures - already} pictures of this "
                    "one were not added; one stream, one run at a time"
                )
            artifact.write_bytes(state, json.dumps(stream.to_dict(), allow_nan=False).encode())
        if chart:
            from inlier.drawing import as_file, evidence

            monitor, alarm = stream.strongest, stream.alarm
            drawn = evidence(monitor.points, monitor.limit, (alarm.began, alarm.picture) if alarm else None)
            artifact.write_bytes(chart, as_file(drawn, "png"))
        if (again := given - (stream.pictures - already)) > 0:
            same = counted(again, "<is byte-equal to one|are byte-equal to some> that counted before, and <does|do>")
            log.warning("%s: of %d pictures %s not count again", state, given, same)
        log.info("%s: %s", state, stream)
