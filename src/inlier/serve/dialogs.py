"""What opens over the page: statistics, the region of interest, calibration."""

from typing import Any

from nicegui import ui
from starlette.concurrency import run_in_threadpool

from inlier.data.region import Region, from_polygons
from inlier.errors import InlierError
from inlier.report import charts
from inlier.serve import views
from inlier.serve.calibrating import calibrate
from inlier.serve.plant import Plant
from inlier.serve.station import Station
from inlier.serve.statistics import summary
from inlier.serve.store import Filter, Row
from inlier.serve.texts import say

CLOSED = 0.02  # of the picture's width: a click so near to the first corner closes an area
SCORES = 20_000


async def show_statistics(plant: Plant, station: Station, language: str) -> None:
    told = await run_in_threadpool(summary, plant, station.name)
    pictures = await run_in_threadpool(_charts, plant, station)
    latency, verdicts, agreement = told["latency_ms"], told["verdicts"], told["agreement"]
    drift = told["drift"]

    def words(key: str) -> str:
        return say(language, key)

    milliseconds = " / ".join("–" if latency[q] is None else f"{latency[q]:.0f}" for q in ("p50", "p95", "p99"))
    with ui.dialog() as dialog, ui.element("div").classes("sheet"):
        ui.html(f"<h2>{words('statistics')}: {station.name}</h2>", sanitize=False)
        values = [
            (words("records"), str(verdicts["records"])),
            (words("share"), views.share(verdicts["defects"])),
            (words("per_minute"), f"{told['throughput']['last_minute']:.0f}"),
            (words("quantiles"), f"{milliseconds} ms"),
        ]
        ui.html(str(views.rows_of(values)), sanitize=False)
        ui.html(f"<h3>{words('agreement')}</h3>", sanitize=False)
        values = [
            (words("agree"), views.share(agreement["agree"])),
            (words("alarms"), views.share(agreement["false_alarms"])),
            (words("missed"), views.share(agreement["missed"])),
        ]
        ui.html(str(views.rows_of(values)), sanitize=False)
        ui.label(words("agreement_note")).classes("quiet")
        if drift:
            ui.html(f"<h3>{words('drift')}</h3>", sanitize=False)
            ui.label(f"{words('drift_alarm')}: {drift['alarm']}" if drift["alarm"] else words("drift_fine"))
        ui.html(f'<div class="charts">{"".join(pictures)}</div>', sanitize=False)
        ui.button(words("close"), on_click=dialog.close, color=None).props("flat no-caps")
    dialog.open()


def _charts(plant: Plant, station: Station) -> list[str]:
    """Scores over those of the calibration, and the evidence of a change, as SVG."""
    found = []
    model, stream = station.model, station.drift.stream
    rows = plant.store.columns(Filter(station.name, model=model.sha256), ("score",), SCORES)
    calibration = [float(score) for score in model.inspector.calibration_.scores]
    rule = model.rule
    if rows and calibration:
        line = (rule.threshold, rule.alpha) if rule else None
        names = ("calibration", "records")
        found.append(charts.histogram(calibration, [row[0] for row in rows], line, station.name, names))
    if stream is not None and stream.pictures:
        monitor = stream.strongest
        found.append(charts.evidence(monitor.points, monitor.limit, station.name))
    return [str(svg) for svg in found]


async def show_calibration(plant: Plant, station: Station, language: str, who: str) -> None:
    with ui.dialog() as dialog, ui.element("div").classes("sheet"):
        ui.html(f"<h2>{say(language, 'calibration')}: {station.name}</h2>", sanitize=False)
        ui.label(say(language, "calibrate_how"))
        rule = station.model.rule
        ui.label(str(rule) if rule else "").classes("quiet")
        _try_and_apply(plant, station, language, who, lambda: None, dialog)
    dialog.open()


async def show_region(plant: Plant, station: Station, row: Row | None, language: str, who: str) -> None:
    """Corners are drawn on the picture that is shown."""
    if row is None or row["kept"] is None or not row["settings"].get("size"):
        ui.notify(say(language, "not_kept"))
        return
    width, height = row["settings"]["size"]
    areas: list[list[list[float]]] = [[]]
    with ui.dialog() as dialog, ui.element("div").classes("sheet"):
        ui.html(f"<h2>{say(language, 'region')}: {station.name}</h2>", sanitize=False)
        ui.label(say(language, "region_how")).classes("quiet")

        def draw() -> None:
            image.set_content(_drawn(areas, width / 200))

        def click(event: Any) -> None:
            point, area, near = [round(event.image_x, 1), round(event.image_y, 1)], areas[-1], CLOSED * width
            if len(area) > 2 and abs(point[0] - area[0][0]) < near and abs(point[1] - area[0][1]) < near:
                areas.append([])
            else:
                area.append(point)
            draw()

        def undo() -> None:
            while len(areas) > 1 and not areas[-1]:
                areas.pop()
            if areas[-1]:
                areas[-1].pop()
            draw()

        def clear() -> None:
            areas[:] = [[]]
            draw()

        image = ui.interactive_image(
            f"/v1/records/{row['id']}/shown.jpg", size=(width, height), on_mouse=click, events=["click"], cross=True,
            sanitize=False,
        )  # fmt: skip
        image.classes("region")
        with ui.row():
            ui.button(say(language, "undo"), on_click=undo, color=None).props("flat no-caps")
            ui.button(say(language, "clear"), on_click=clear, color=None).props("flat no-caps")

        def region() -> Region:
            polygons = [area for area in areas if len(area) > 2]
            if not polygons:
                raise InlierError(say(language, "region_how"))
            return Region(from_polygons({"width": width, "height": height, "polygons": polygons}))

        _try_and_apply(plant, station, language, who, region, dialog)
    dialog.open()


def _try_and_apply(plant: Plant, station: Station, language: str, who: str, region: Any, dialog: Any) -> None:
    """Two buttons: what it would change, and let it."""
    told = ui.label("").classes("effect")

    async def do(apply: bool) -> None:
        try:
            chosen = region()
            told.set_text("…")
            found = await run_in_threadpool(lambda: calibrate(plant, station.name, who, region=chosen, apply=apply))
        except InlierError as error:
            told.set_text(str(error))
            return
        now = found["now"] or {"threshold": float("nan")}
        about = {"pictures": found["pictures"], "threshold": f"{now['threshold']:.4g}"}
        words = say(language, "effect", **about, **found["changes"])
        told.set_text(f"{words} {found['note']}" + (f" {say(language, 'applied')}" if apply else ""))

    with ui.row():
        ui.button(say(language, "preview"), on_click=lambda: do(False)).props("no-caps unelevated")
        ui.button(say(language, "apply"), on_click=lambda: do(True)).props("no-caps outline")
        ui.button(say(language, "close"), on_click=dialog.close, color=None).props("flat no-caps")


def _drawn(areas: list[list[list[float]]], width: float) -> str:
    """Areas and corners as SVG."""
    shapes = ""
    for area in areas:
        points = " ".join(f"{x},{y}" for x, y in area)
        shapes += f'<polygon points="{points}" fill="#00ffff40" stroke="#00ffff" stroke-width="{width}"/>'
        shapes += "".join(f'<circle cx="{x}" cy="{y}" r="{1.5 * width}" fill="#00ffff"/>' for x, y in area)
    return shapes
