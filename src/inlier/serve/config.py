"""What a station is: the models of `station.toml`, checked before anything starts."""

import hashlib
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from inlier.artifact import read_text
from inlier.errors import WRITTEN, InlierError

Role = Literal["viewer", "operator", "engineer"]
ROLES: tuple[Role, ...] = ("viewer", "operator", "engineer")  # each may do what those before it may
Share = Annotated[float, Field(gt=0, lt=1)]
OPTIONS = {"database": "db"}  # of `inlier serve`, where they are called otherwise than here
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"  # part of addresses, topics and file names


def _at_home(path: Path) -> Path:
    return path.expanduser()


def _real(path: Path) -> Path:
    """Where a path leads to. Links that lead in a circle stay: who opens the folder will say so."""
    return Path(os.path.realpath(path))


def _topic(topic: str) -> str:
    if not topic or set(topic.replace("{station}", "")) & set("{}+#"):
        raise ValueError("a topic to publish under is a text without + and #, in which only {station} is replaced")
    return topic


def _reachable(url: str) -> str:
    parts = urlsplit(url)
    _ = parts.port  # a ValueError, if it is none
    if not parts.hostname:
        raise ValueError("names no host")
    return url


File = Annotated[Path, AfterValidator(_at_home)]


class Section(BaseModel):
    """A table of the file; a key that nobody reads is a mistake of the writer."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Keep(Section):
    """Which pictures stay on the disk beside their records; a picture is kept where any of the rules wants it."""

    pictures: Literal["all", "defects", "none"] = "all"
    near: Annotated[float, Field(ge=0, le=1)] = 0.0  # also good ones whose p-value is at most this
    one_in: Annotated[int, Field(ge=0)] = 0  # also every so many-th; 0: none
    days: Annotated[float, Field(gt=0)] | None = None  # older ones go; labelled ones stay
    gigabytes: Annotated[float, Field(gt=0)] | None = None  # of this station's pictures; the oldest go first

    @model_validator(mode="after")
    def _not_all(self) -> Self:
        if self.pictures == "all" and (self.near or self.one_in):
            raise ValueError(
                'near and one_in change nothing where all pictures stay: add pictures = "defects" or "none"'
            )
        return self


class Source(Section):
    """Where pictures come from beside the API."""

    folder: File | None = None
    camera: str | int | None = None  # what OpenCV opens: a number of a device, or an address
    every: Annotated[float, Field(ge=0)] = 1.0  # seconds between two pictures of a camera
    trigger: bool = False  # a camera's pictures are taken when OPC UA says so, not by the clock

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.folder is None) == (self.camera is None):
            raise ValueError("give folder or camera, one of them")
        return self

    @model_validator(mode="after")
    def _read_by_somebody(self) -> Self:
        for name in sorted({"every", "trigger"} & self.model_fields_set):
            if self.folder is not None:
                raise ValueError(f"{name} is for cameras: a folder's pictures are judged as they come; remove it")
            if name == "every" and self.trigger:
                raise ValueError("every changes nothing where the line triggers the camera: remove it, or trigger")
        return self


class Webhook(Section):
    kind: Literal["webhook"]
    url: Annotated[str, Field(pattern=r"^https?://"), AfterValidator(_reachable)]
    token: str | None = None  # sent as "Authorization: Bearer ..."
    timeout: Annotated[float, Field(gt=0)] = 10.0


class Mqtt(Section):
    kind: Literal["mqtt"]
    host: str
    port: Annotated[int, Field(ge=1, le=65535)] = 1883
    topic: Annotated[str, AfterValidator(_topic)] = "inlier/{station}"
    user: str | None = None
    password: str | None = None
    tls: bool = False

    @model_validator(mode="after")
    def _both(self) -> Self:
        if self.password is not None and self.user is None:
            raise ValueError("password: is given to nobody without user")
        return self


class Folder(Section):
    """Pictures go to good/ and defect/ below it (error/ for those that cannot be read)."""

    kind: Literal["folder"]
    path: File


Sink = Annotated[Webhook | Mqtt | Folder, Field(discriminator="kind")]


class StationConfig(Section):
    name: Annotated[str, Field(pattern=NAME)]
    model: File
    runtime: Literal["torch", "onnx", "openvino", "auto"] | None = None
    device: str = "auto"
    category: str | None = None
    alpha: Share | None = None
    confidence: Share | None = None
    region: File | None = None  # another region of interest than the model's; needs `good`
    good: File | None = None  # good pictures that calibrate a model whose region changes
    source: Source | None = None
    keep: Keep = Keep()
    sinks: tuple[Sink, ...] = ()

    @model_validator(mode="after")
    def _region_needs_good(self) -> Self:
        if self.region and not self.good:
            raise ValueError(
                "region: thresholds hold for the region that the model was calibrated with; give `good`, a folder of "
                "good pictures, to calibrate it anew"
            )
        return self

    @model_validator(mode="after")
    def _no_circle(self) -> Self:
        watched = self.source.folder if self.source else None
        for sink in self.sinks:
            if watched and isinstance(sink, Folder) and _real(sink.path).is_relative_to(_real(watched)):
                raise ValueError(f"the folder {sink.path} lies in the watched one: its pictures would be judged again")
        return self


class Token(Section):
    name: Annotated[str, Field(min_length=1, max_length=64)]
    role: Role
    token: Annotated[str, Field(min_length=16)] | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None  # of the token, so that the file holds none

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.token is None) == (self.sha256 is None):
            raise ValueError("give token (16 characters or more) or sha256, one of them")
        return self

    @property
    def digest(self) -> str:
        return self.sha256 or hashlib.sha256((self.token or "").encode()).hexdigest()


class Server(Section):
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    database: str | None = None  # default: records.sqlite in `data`
    data: File = Path("inlier-station")  # pictures, calibrated models, the state of the drift monitors
    certificate: File | None = None
    key: File | None = None
    names: tuple[str, ...] = ()  # other names under which browsers may ask for this server
    language: Literal["en", "de"] = "en"

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together")
        return self


class Limits(Section):
    bytes: Annotated[int, Field(gt=0)] = 64 * 2**20  # of one request
    pixels: Annotated[int, Field(gt=0)] = 100_000_000  # of one picture
    waiting: Annotated[int, Field(gt=0)] = 64  # pictures that wait for a model; more are answered 429
    unsent: Annotated[int, Field(gt=0)] = 100_000  # messages that wait for a sink; more stop the station
    batch: Annotated[int, Field(ge=1, le=256)] = 8  # pictures that a model judges at once
    per_second: Annotated[float, Field(gt=0)] = 500  # requests of one client
    upload_seconds: Annotated[float, Field(gt=0)] = 30.0  # for all of a request's body


class OpcUa(Section):
    """One more server, for line controllers. It asks nobody who they are: keep it in the machine's own network."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 4840
    timeout: Annotated[float, Field(gt=0)] = 10.0  # seconds for a picture to come after the trigger


class Config(Section):
    server: Server = Server()
    limits: Limits = Limits()
    opcua: OpcUa | None = None
    tokens: tuple[Token, ...] = ()
    stations: tuple[StationConfig, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        for what, names in (("stations", [s.name for s in self.stations]), ("tokens", [t.name for t in self.tokens])):
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{what}: two have the name {twice[0]!r}; give each its own")
        return self

    @model_validator(mode="after")
    def _somebody_triggers(self) -> Self:
        for station in self.stations:
            if station.source and station.source.trigger and not self.opcua:
                raise ValueError(f"station {station.name}: trigger: its camera waits for OPC UA; add [opcua]")
        return self


def read_toml(path: Path) -> dict[str, Any]:
    """Not checked yet. Raises InlierError."""
    try:
        return tomllib.loads(read_text(path.expanduser()))
    except tomllib.TOMLDecodeError as error:
        raise InlierError(f"{path}: is no valid TOML: {error}") from None


def checked(content: dict[str, Any], name: str | None) -> Config:
    """Raises InlierError with a line for each wrong entry. name: of the file; None: they are a command's options."""
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        places = [_option(e["loc"]) if name is None else f"{name}: {_place(e['loc'])}" for e in error.errors()]
        lines = [place + _words(e) for place, e in zip(places, error.errors(), strict=True)]
        raise InlierError("\n  ".join(lines)) from None


def _option(loc: tuple[int | str, ...]) -> str:
    """--alpha; what concerns several of them goes without."""
    return f"--{OPTIONS.get(str(loc[-1]), loc[-1])}: " if len(loc) > 1 else ""


def _place(loc: tuple[int | str, ...]) -> str:
    """stations[0].alpha; without the names of alternatives that pydantic puts in between."""
    text = ""
    for part in loc:
        if part in ("webhook", "mqtt", "folder") and text.endswith("]") and "sinks" in text:
            continue
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return f"{text}: " if text else ""


def _words(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        return "no such entry"
    if error["type"] == "missing":
        return "is missing"
    message = error["msg"].removeprefix("Value error, ")
    given = error.get("input")
    if isinstance(given, dict) or error["type"] == "value_error":
        return message
    hint = f"; {written}" if (written := WRITTEN.get(error["loc"][-1])) else ""
    return f"{message}, not {given!r}{hint}"
