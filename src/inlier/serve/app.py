"""The API, /v1: inspect, look up, label, calibrate. Model and database work never runs on the event loop."""

import asyncio
import logging
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, HTTPException, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, Field, StringConstraints
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException as AnyHTTPException

from inlier.data.region import Region, from_polygons
from inlier.drawing import as_file
from inlier.errors import InlierError
from inlier.serve import exports, statistics
from inlier.serve.calibrating import calibrate
from inlier.serve.config import Role
from inlier.serve.database import StoreError
from inlier.serve.looks import drawn, outlined
from inlier.serve.metrics import Metrics
from inlier.serve.plant import Plant
from inlier.serve.security import Gate, Person, may
from inlier.serve.station import Busy, Station, Stopped
from inlier.serve.store import Filter, Missing, Row, micros
from inlier.version import __version__

log = logging.getLogger("inlier")
Look = Literal[
    "picture", "shown.jpg", "small.jpg", "heat.png", "map.png", "map.npy", "overlay.png", "reconstruction.png"
]
SIDES = {"shown.jpg": 1600, "small.jpg": 200}  # pixels of pictures that browsers show
TOGETHER = 256  # pictures of one request
Text = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Number = Annotated[int, Path(ge=1, le=2**53)]
Name = Annotated[str, Path(max_length=64, pattern=r"^[A-Za-z0-9_.-]+$")]
Point = Annotated[list[Annotated[float, Field(ge=0, le=1e6)]], Field(min_length=2, max_length=2)]
Polygons = Annotated[list[Annotated[list[Point], Field(min_length=3, max_length=1000)]], Field(max_length=100)]


class Labelling(BaseModel):
    label: Literal["good", "defect"]
    note: Text = ""
    regions: Polygons = []


class Drawn(BaseModel):
    """A region of interest, in pixels of pictures of this size."""

    width: Annotated[int, Field(ge=1, le=20000)]
    height: Annotated[int, Field(ge=1, le=20000)]
    polygons: Annotated[Polygons, Field(min_length=1)]


class Calibrating(BaseModel):
    apply: bool = False
    region: Drawn | None = None


def filter_of(
    station: Annotated[Text | None, Query()] = None,
    since: datetime | None = None,
    until: datetime | None = None,
    verdict: Literal["good", "defect", "error"] | None = None,
    label: Literal["good", "defect", "none"] | None = None,
    part: Annotated[Text | None, Query()] = None,
    lot: Annotated[Text | None, Query()] = None,
    model: Annotated[Text | None, Query()] = None,
) -> Filter:
    return Filter(station, micros(since), micros(until), verdict, label, part, lot, model)


Chosen = Annotated[Filter, Depends(filter_of)]


def need(role: Role) -> Any:
    def check(request: Request) -> Person:
        person: Person = request.scope["person"]
        if not may(person, role):
            raise HTTPException(403, f"this needs the role {role}")
        return person

    return Depends(check)


def make_app(plant: Plant) -> FastAPI:
    """The plant ends with the server."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(plant.close)

    app = FastAPI(title="inlier station", version=__version__, lifespan=life, docs_url=None, redoc_url=None)
    metrics = Metrics(plant)
    plant.listeners.append(metrics.count)
    _answer_errors(app)
    _inspection(app, plant)
    _records(app, plant)
    _stations(app, plant)

    @app.get("/health", include_in_schema=False)  # what monitoring asks for where nobody tells it an address
    @app.get("/healthz", include_in_schema=False)
    @app.get("/v1/health")
    def health() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok", "version": __version__}

    @app.get("/v1/ready", responses={503: {}})
    def ready() -> JSONResponse:
        """Whether every station takes pictures: models are warm, the database answers, sinks keep up."""
        problems = {s.name: reason for s in plant.stations.values() if (reason := s.refusal())}
        try:
            plant.store.last()
        except StoreError as error:
            problems["records"] = str(error)
        return JSONResponse({"ready": not problems, "problems": problems}, 503 if problems else 200)

    @app.get("/metrics", dependencies=[need("viewer")])
    def prometheus() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    verbs = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]

    @app.api_route("/v1/{path:path}", methods=verbs, include_in_schema=False)
    def unknown(path: str) -> None:
        """Or the pages of people, which are mounted over all that is left, would answer machines."""
        raise HTTPException(404, f"/v1/{path}: no such address, or none for this method; see /openapi.json")

    app.add_middleware(Gate, config=lambda: plant.config)
    return app


def _inspection(app: FastAPI, plant: Plant) -> None:
    picture = {"schema": {"type": "string", "format": "binary"}}
    fields = {"part": {"type": "string"}, "lot": {"type": "string"}, "key": {"type": "string"}}

    def form(name: str, schema: Any) -> Any:
        return {"schema": {"type": "object", "properties": {name: schema} | fields, "required": [name]}}

    @app.post(
        "/v1/stations/{name}/inspect",
        dependencies=[need("operator")],
        openapi_extra={
            "requestBody": {
                "content": {
                    "application/octet-stream": picture,
                    "multipart/form-data": form("picture", picture["schema"]),
                }
            }
        },
        responses={key: {} for key in (404, 408, 413, 422, 429, 503)},
    )
    async def inspect(
        request: Request,
        name: Name,
        part: Annotated[Text | None, Query()] = None,
        lot: Annotated[Text | None, Query()] = None,
        key: Annotated[Text | None, Query()] = None,
    ) -> JSONResponse:
        """Judge one picture: the body itself, or a form with `picture`. The answer is its record, written by then.

        key: your own number of this inspection; sent again, the same record comes back and nothing is judged twice.
        """
        station = plant.station(name)
        about: dict[str, Any] = {"part": part, "lot": lot, "key": key}
        if _is_form(request):
            pictures, told = await _form(request, "picture")
            if len(pictures) != 1:
                raise HTTPException(422, "a form must have one file, named picture; several go to /batch")
            raw, about = pictures[0], about | told
        else:
            raw = await request.body()
        if not raw:
            raise HTTPException(422, "no picture: send its bytes as the body, or a form with a file named picture")
        record = await _judged(station, raw, about)
        return JSONResponse(exports.public(record), 422 if record["error"] is not None else 200)

    @app.post(
        "/v1/stations/{name}/batch",
        dependencies=[need("operator")],
        openapi_extra={
            "requestBody": {
                "content": {"multipart/form-data": form("pictures", {"type": "array", "items": picture["schema"]})}
            }
        },
        responses={key: {} for key in (404, 408, 413, 422, 429, 503)},
    )
    async def batch(request: Request, name: Name) -> list[dict[str, Any]]:
        """Judge the files `pictures` of a form; their records in order. One that cannot be read has an `error`."""
        station = plant.station(name)
        if not _is_form(request):
            raise HTTPException(422, "send a form with files named pictures")
        pictures, told = await _form(request, "pictures")
        if not pictures:
            raise HTTPException(422, "the form has no file named pictures")
        waiting = asyncio.Semaphore(max(1, plant.config.limits.waiting // 4))

        async def one(place: int, raw: bytes) -> Row:
            async with waiting:
                key = told.get("key")
                return await _judged(station, raw, told | {"key": key and f"{key}-{place}"}, patient=True)

        found = await asyncio.gather(*(one(k, raw) for k, raw in enumerate(pictures)))
        return [exports.public(record) for record in found]


def _records(app: FastAPI, plant: Plant) -> None:
    store = plant.store
    viewer = [need("viewer")]

    @app.get("/v1/records", dependencies=viewer)
    def records(
        chosen: Chosen,
        before: Annotated[int | None, Query(ge=1, le=2**53)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> dict[str, Any]:
        """Newest first. `next`: give it as `before` for the page that follows; null: there is none."""
        page = store.page(chosen, before=before, limit=limit)
        return {
            "records": [exports.public(row) for row in page],
            "next": page[-1]["id"] if len(page) == limit else None,
        }

    @app.get("/v1/records/{number}", dependencies=viewer, responses={404: {}})
    def record(number: Number) -> dict[str, Any]:
        """A record with what people said about it."""
        row = store.record(number)
        return exports.public(row) | {"actions": [exports.public(action) for action in store.actions(number)]}

    @app.get("/v1/records/{number}/{what}", dependencies=viewer, responses={key: {} for key in (404, 422, 429, 503)})
    def picture(
        number: Number,
        what: Look,
    ) -> Response:
        """The picture as it came, or for browsers; its map (png: colours; npy: raw scores; heat: to lie over the
        picture); both together; the picture repainted as good."""
        row = store.record(number)
        station = plant.station(row["station"])
        if what == "picture":
            return Response(station.picture(row), media_type=_kind(row["kept"]))
        if what in SIDES:  # never another one for this number
            shown = outlined(station.picture(row), row["regions"] if what == "small.jpg" else [], SIDES[what])
            headers = {"Cache-Control": "private, max-age=86400"}
            return Response(as_file(shown, "jpeg", quality=85), media_type="image/jpeg", headers=headers)
        found = station.remembered(row)
        if what == "map.npy":
            map_ = found.prediction.map
            assert map_ is not None
            return Response(exports.map_array(map_), media_type="application/octet-stream")
        return Response(as_file(drawn(found, what), "png", compress_level=1), media_type="image/png")

    @app.post("/v1/records/{number}/label", responses={404: {}})
    def label(number: Number, given: Labelling, person: Annotated[Person, need("operator")]) -> dict[str, Any]:
        """Say what the part really was. The last label counts; all stay on record, with who gave them."""
        return exports.public(store.label(number, given.label, person.name, given.note, given.regions))

    @app.get("/v1/actions", dependencies=viewer)
    def actions(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> list[dict[str, Any]]:
        """What people did, newest first."""
        return [exports.public(action) for action in store.actions(limit=limit)]

    @app.get("/v1/export", dependencies=viewer, response_class=StreamingResponse)
    def export(chosen: Chosen, format: Literal["csv", "jsonl", "parquet"] = "csv") -> Response:
        """All records that the filter chooses, oldest first."""
        name = {"Content-Disposition": f'attachment; filename="records.{format}"'}
        if format == "parquet":
            return _file(lambda file: exports.parquet(store.all(chosen), file), "application/vnd.apache.parquet", name)
        lines = (exports.as_csv if format == "csv" else exports.jsonl)(store.all(chosen))
        kind = "text/csv; charset=utf-8" if format == "csv" else "application/jsonl"
        return StreamingResponse(iterate_in_threadpool(lines), media_type=kind, headers=name)


def _stations(app: FastAPI, plant: Plant) -> None:
    store = plant.store
    viewer = [need("viewer")]

    @app.get("/v1/stations", dependencies=viewer)
    def stations() -> list[dict[str, Any]]:
        return [statistics.status(plant, station) for station in plant.stations.values()]

    @app.get("/v1/stations/{name}", dependencies=viewer, responses={404: {}})
    def station(name: Name) -> dict[str, Any]:
        return statistics.status(plant, plant.station(name))

    @app.get("/v1/stations/{name}/statistics", dependencies=viewer, responses={404: {}})
    def stats(name: Name, since: datetime | None = None, until: datetime | None = None) -> dict[str, Any]:
        """Throughput, share of defects, latency in milliseconds, drift, and how labels agree with verdicts."""
        return statistics.summary(plant, name, micros(since), micros(until))

    @app.get("/v1/stations/{name}/rejudge", dependencies=viewer, responses={key: {} for key in (404, 422)})
    def rejudge(name: Name, alpha: Annotated[float, Query(gt=0, lt=1)]) -> dict[str, Any]:
        """What another false-alarm rate would have said about all records, from stored scores; no model runs."""
        return statistics.rejudged(plant.station(name), alpha)

    @app.get("/v1/stations/{name}/labelled.zip", dependencies=[need("engineer")], responses={404: {}})
    def labelled(name: Name) -> Response:
        """Labelled pictures as a folder like MVTec AD's, for the next training."""
        files = exports.labelled(store, plant.pictures, plant.station(name).name)
        header = {"Content-Disposition": f'attachment; filename="{name}.zip"'}
        return _file(lambda file: exports.zipped(files, file), "application/zip", header)

    @app.post("/v1/stations/{name}/calibrate", responses={key: {} for key in (404, 422)})
    def recalibrate(name: Name, given: Calibrating, person: Annotated[Person, need("engineer")]) -> dict[str, Any]:
        """Calibrate on pictures that people labelled good; without `apply` only say what it would change."""
        region = None
        if given.region:
            region = Region(from_polygons(given.region.model_dump()))
        return calibrate(plant, name, person.name, region=region, apply=given.apply)

    @app.post("/v1/stations/{name}/reload", responses={key: {} for key in (404, 422)})
    def reload(name: Name, person: Annotated[Person, need("engineer")]) -> dict[str, Any]:
        """Read the model's file again. Pictures that wait meanwhile are judged by the one or the other."""
        plant.reload(name, person.name)
        return statistics.status(plant, plant.station(name))


async def _judged(station: Station, raw: bytes, about: dict[str, Any], patient: bool = False) -> Row:
    """patient: where too much waits, so does this one."""
    end = time.monotonic() + station.limits.upload_seconds
    while True:
        try:
            future = await run_in_threadpool(lambda: station.inspect(raw, **about))
            return await asyncio.shield(asyncio.wrap_future(future))  # a client that leaves changes no record
        except Busy:
            if not patient or time.monotonic() > end:
                raise
            await asyncio.sleep(0.02)


def _is_form(request: Request) -> bool:
    return request.headers.get("content-type", "").lower().startswith("multipart/form-data")


async def _form(request: Request, name: str) -> tuple[list[bytes], dict[str, str]]:
    """(files of that name, other fields that say what is shown)."""
    pictures, told = [], {}
    async with request.form(max_files=TOGETHER, max_fields=16) as form:
        for key, value in form.multi_items():
            if isinstance(value, UploadFile):
                if key == name:
                    pictures.append(await value.read())
            elif key in ("part", "lot", "key") and value:
                if len(value) > 200 or not value.isprintable():
                    raise HTTPException(422, f"{key}: at most 200 printable characters")
                told[key] = value
    return pictures, told


def _file(write: Callable[[Any], Any], kind: str, headers: dict[str, str]) -> Response:
    """Written to a temporary file first: what fails on the way is an error, not half a file."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 (closed when it was sent)
    try:
        write(file)
    except BaseException:
        file.close()
        raise
    file.seek(0)

    def blocks() -> Iterator[bytes]:
        with file:
            while block := file.read(2**20):
                yield block

    return StreamingResponse(iterate_in_threadpool(blocks()), media_type=kind, headers=headers)


def _kind(name: str | None) -> str:
    """Pictures are shown as what they are, and everything else is only bytes."""
    kinds = {".png": "image/png", ".jpg": "image/jpeg", ".bmp": "image/bmp", ".webp": "image/webp"}
    return kinds.get("." + (name or "").rsplit(".", 1)[-1], "application/octet-stream")


def _answer_errors(app: FastAPI) -> None:
    def told(status: int, words: str, headers: dict[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": words}, status, headers)

    @app.exception_handler(InlierError)
    async def of_people(_: Request, error: InlierError) -> JSONResponse:
        if isinstance(error, (Busy, Stopped, StoreError)):
            wait = {"Retry-After": str(1 if isinstance(error, Busy) else 5)}
            return told(429 if isinstance(error, Busy) else 503, str(error), wait)
        return told(404 if isinstance(error, Missing) else 422, str(error))

    @app.exception_handler(AnyHTTPException)
    async def of_http(_: Request, error: AnyHTTPException) -> JSONResponse:
        return told(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def of_values(_: Request, error: RequestValidationError) -> JSONResponse:
        one = error.errors()[0]
        if one["loc"] == ("body",):
            return told(422, f"body: {one['msg']}; send JSON, with the header Content-Type: application/json")
        return told(422, f"{'.'.join(map(str, one['loc']))}: {one['msg']}")

    @app.exception_handler(Exception)
    async def of_ours(request: Request, error: Exception) -> JSONResponse:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return told(500, "the server failed on this request; its log says how")
