"""The page about a shift: what a station said in some hours, for people who were not there."""

from typing import Any

from inlier.errors import InlierError
from inlier.report.charts import data_uri, histogram
from inlier.report.pages import render
from inlier.serve import statistics
from inlier.serve.looks import outlined
from inlier.serve.pictures import Pictures
from inlier.serve.store import VERIFY, Filter, Row, Store, now, plain_time

SHOWN = 12  # defects with their pictures
SCORES = 20_000  # of the histogram
SIDE = 320  # pixels


def page(store: Store, pictures: Pictures, chosen: Filter) -> str:
    """HTML that needs no other file."""
    names = [chosen.station] if chosen.station else store.stations()
    if not names:
        raise InlierError("there are no records yet")
    sections = [_section(store, pictures, _of(chosen, name)) for name in names]
    span = [plain_time(t)[:16] if t is not None else "" for t in (chosen.since, chosen.until)]
    number, hash_ = store.end()
    faults = list(store.verify())
    return render(
        "shift.html.j2",
        "inlier.serve",
        sections=sections,
        since=span[0],
        until=span[1] or plain_time(now())[:16],
        number=number,
        hash=hash_,
        faults=faults,
    )


def _of(chosen: Filter, station: str) -> Filter:
    return Filter(station, chosen.since, chosen.until)


def _section(store: Store, pictures: Pictures, chosen: Filter) -> dict[str, Any]:
    counts = store.counts(chosen)
    rows = store.columns(chosen, ("score", "verdict", "threshold", "model", "latency", "time", "settings"), SCORES)
    newest = rows[0] if rows else None
    same = [row for row in rows if newest and row[3] == newest[3]]  # scores of two models do not compare
    good = [row[0] for row in same if row[1] != "defect"]
    defect = [row[0] for row in same if row[1] == "defect"]
    chart = None
    if newest and len({*good, *defect}) > 1:
        alpha = newest[6].get("alpha")
        threshold = None if newest[2] is None or not isinstance(alpha, (int, float)) else (newest[2], float(alpha))
        chart = histogram(good, defect, threshold, str(chosen.station))
    worst = store.strongest(chosen, SHOWN)
    return {
        "name": chosen.station,
        "verdicts": statistics.verdicts(counts),
        "agreement": statistics.agreement(counts),
        "latency": statistics.latencies([row[4] for row in rows]),
        "models": len({row[3] for row in rows}),
        "chart": chart,
        "defects": [_shown(row, pictures) for row in worst],
    }


def _shown(row: Row, pictures: Pictures) -> dict[str, Any]:
    uri = None
    if row["kept"]:
        try:
            uri = data_uri(outlined(pictures.read(row["kept"]), row["regions"], SIDE))
        except InlierError:  # gone meanwhile
            pass
        except (LookupError, TypeError, ValueError, OverflowError):
            raise InlierError(f"record {row['id']}: its regions were changed and cannot be drawn; {VERIFY}") from None
    return {"row": row, "time": plain_time(row["time"]), "picture": uri}
