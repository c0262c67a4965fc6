"""What the small files of a store hold, checked wherever one is read: a damaged row must not have a model deleted that
it named, or one be used that nobody chose. More may be in them than is told here."""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from inlier.errors import InlierError
from inlier.fleet.store import Store

MODEL = "model.inlier"  # in a folder of its own, under the fingerprint of what it was made from
# as `verbs` writes it and in no other way, since paths are compared
ModelPath = Annotated[str, Field(pattern=rf"^(train|calibrate)/[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9]+/{MODEL}$")]


def _text(value: Any) -> str:
    """Pydantic's own strings hold no bytes of names that are no text."""
    if not isinstance(value, str):
        raise ValueError
    return value


Text = Annotated[Any, AfterValidator(_text)]
Amount = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Content(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class Said(_Content):
    """Of a model, as `promote.compare` has it."""

    average: Share | None = None
    confident: Share | None = None
    alarms: list[bool] | None = None
    found: list[bool] | None = None


class Use(_Content):
    """`use/PART.json`."""

    model: ModelPath
    since: Amount
    said: Said


class _Change(_Content):
    kept: int
    new: Said
    old: Said | None = None


class Made(_Content):
    model: ModelPath
    method: Text | None = None
    replaces: ModelPath | None = None
    change: _Change
    objections: list[Text]
    promoted: bool


class _Drift(_Content):
    alarm: Text | None
    evidence: float


class Judged(_Content):
    model: ModelPath
    drift: _Drift | None = None


class _Image(_Content):
    auroc: Share | None


class _Mean(_Content):
    image: _Image


class Compared(_Content):
    model: ModelPath
    mean: _Mean | None = None


class Exported(_Content):
    model: ModelPath


class Checked(_Content):
    pictures: dict[str, int]
    notes: list[Text]


class Row(_Content):
    """`rows/VERB/PART.json` and `ledger/ID.json`."""

    id: Annotated[int, Field(ge=0, lt=2**63)]
    run: Text
    verb: Text
    part: Text
    state: Literal["done", "failed", "refused"]
    time: Amount
    fingerprint: Text | None
    error: Text | None
    seconds: Amount | None = None
    processor_seconds: Amount | None = None
    memory: Amount | None = None
    attempts: int | None = None
    warnings: list[Text] | None = None
    stamp: Text | None = None
    metrics: dict[str, Any] | None = None


class _Cost(_Content):
    """Of what is done."""

    seconds: Amount
    processor_seconds: Amount
    memory: Amount
    metrics: dict[str, Any]


METRICS: dict[str, type[_Content]] = {
    "train": Made,
    "calibrate": Made,
    "predict": Judged,
    "evaluate": Compared,
    "export": Exported,
    "check": Checked,
}


def read_row(store: Store, path: str, content: bytes) -> dict[str, Any]:
    """Raises InlierError that names the file."""
    then = "put a copy of it back, or remove it: the part is then done anew"
    row = _read(store, path, content, Row, then)
    if row["state"] == "done":
        _check(store, path, row, _Cost, then)
        if row["verb"] in METRICS:
            _check(store, path, row["metrics"], METRICS[row["verb"]], then, "metrics.")
    if path.startswith("rows/") and path != f"rows/{row['verb']}/{row['part']}.json":
        raise InlierError(f"{store.place}/{path}: is of another part or verb; {then}")
    _check_part(store, path, row["part"], (row.get("metrics") or {}).get("model"), then)
    return row


def read_use(store: Store, path: str, content: bytes) -> dict[str, Any]:
    """Raises InlierError that names the file."""
    then = "put a copy of it back, or remove it: no model of the part is in use then"
    used = _read(store, path, content, Use, then)
    _check_part(store, path, path.removeprefix("use/").removesuffix(".json"), used["model"], then)
    return used


def _check_part(store: Store, path: str, part: str, model: str | None, then: str) -> None:
    if model is not None and model.split("/")[1] != part:
        raise InlierError(f"{store.place}/{path}: names a model of another part, {model}; {then}")


def _read(store: Store, path: str, content: bytes, kind: type[_Content], then: str) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):  # the latter where brackets are nested without end
        raise InlierError(f"{store.place}/{path}: is damaged (no whole JSON); {then}") from None
    _check(store, path, value, kind, then)
    found: dict[str, Any] = value
    return found


def _check(store: Store, path: str, value: Any, kind: type[_Content], then: str, where: str = "") -> None:
    try:
        kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        name = where + ".".join(map(str, first["loc"]))
        shown = repr(first["input"])
        cannot = f"its {name} cannot be {shown if len(shown) <= 60 else f'{shown[:60]}...'}"
        why = "no table of names and values" if not name else cannot
        why = f"it has no {name}" if first["type"] == "missing" else why
        raise InlierError(f"{store.place}/{path}: is damaged ({why}); {then}") from None
