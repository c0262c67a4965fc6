"""What another model or another alpha would have said of a station's records, which stay as they are."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inlier.errors import InlierError
from inlier.fleet import tables
from inlier.inspection.inspector import Inspector
from inlier.serve.models import file_hash
from inlier.serve.pictures import Pictures

if TYPE_CHECKING:
    import pyarrow as pa

BATCH = 1000  # records
COLUMNS = {
    **dict.fromkeys(("record", "time"), "int64"),  # time: microseconds since 1970, UTC
    **dict.fromkeys(("station", "part", "before", "verdict", "error"), "string"),
    **dict.fromkeys(("score", "p_value", "threshold"), "float64"),
    "changed": "bool_",
}


def rejudged(
    rows: Iterable[Mapping[str, Any]],
    pictures: Pictures,
    model: Inspector,
    path: Path,
    alpha: float | None = None,
    category: str | None = None,
) -> "Iterator[pa.Table]":
    """Tables of COLUMNS, a row for each record in order. rows: of the station's Store. path: of the model's file.

    A record of the very same model keeps its score, so only the rule is applied; of another one its picture is judged
    again, if it was kept. What cannot be judged is a row with the reason. Raises InlierError for an alpha that cannot
    be promised.
    """
    known = file_hash(path)
    rule = model.calibration_.rule(alpha, category=category)
    if rule is None:
        raise InlierError(f"{path}: has no calibration, so it gives no verdicts")
    source = iter(rows)
    while batch := list(itertools.islice(source, BATCH)):
        scores, errors = _scores(batch, pictures, model, known, category)
        found = []
        for row in batch:
            number = row["id"]
            score = scores.get(number)
            verdict = None if score is None else rule.verdict(score)
            found.append(
                {
                    "record": number,
                    "time": row["time"],
                    "station": row["station"],
                    "part": row["part"],
                    "before": row["verdict"],
                    "verdict": verdict,
                    "error": errors.get(number),
                    "score": score,
                    "p_value": None if score is None else float(model.calibration_.p_values(score, category)),
                    "threshold": rule.threshold,
                    "changed": verdict is not None and verdict != row["verdict"],
                }
            )
        yield tables.table(found, COLUMNS)


def _scores(
    rows: Iterable[Mapping[str, Any]], pictures: Pictures, model: Inspector, known: str, category: str | None
) -> tuple[dict[int, float], dict[int, str]]:
    """(scores, why there is none), by the numbers of the records."""
    scores, errors, again = dict[int, float](), dict[int, str](), dict[int, Path]()
    for row in rows:
        if row["model"] == known and row["score"] is not None:
            scores[row["id"]] = row["score"]
        elif row["kept"] is None:
            errors[row["id"]] = row["error"] or "its picture was not kept, and another model has judged it"
        else:
            again[row["id"]] = pictures.path(row["kept"])
    if again:
        found = model.predict(list(again.values()), category=category, errors="keep", maps=False)
        for number, p in zip(again, found, strict=True):
            if p.score is None:
                errors[number] = p.error or "cannot be judged"
            else:
                scores[number] = p.score
    return scores, errors
