"""Records in a database: SQLite in a file, or PostgreSQL. Threads share one Store; processes may share one database."""

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, Select, and_, case, delete, func, insert, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from inlier.errors import InlierError
from inlier.serve import chain
from inlier.serve.database import StoreError, open_engine
from inlier.serve.migrations import check_current, check_ours, migrate
from inlier.serve.tables import CHANGING, actions, ends, outbox, records

Label = Literal["good", "defect"]
Row = dict[str, Any]
JSON = ("settings", "regions", "timings", "details")
CHAINED = {
    name: [c for c in table.c if c.name not in CHANGING] for name, table in (("records", records), ("actions", actions))
}
KINDS = {c.name: c.type.python_type for table in (records, actions) for c in table.c}
VERIFY = "`inlier records verify` names all that was changed"
PAGE = 1000
LAST_TIME = 253_370_764_800_000_000  # microseconds: the year 9999, the last that can be shown
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Missing(InlierError):
    """There is no such thing."""


@dataclass(frozen=True)
class Filter:
    """Which records; None: any. Times in microseconds since 1970, UTC."""

    station: str | None = None
    since: int | None = None  # this and later
    until: int | None = None  # earlier than this
    verdict: Literal["good", "defect", "error"] | None = None
    label: Literal["good", "defect", "none"] | None = None
    part: str | None = None
    lot: str | None = None
    model: str | None = None
    kept: bool | None = None

    def conditions(self) -> Any:
        r, found = records.c, []
        for name in ("station", "part", "lot", "model"):
            if (value := getattr(self, name)) is not None:
                found.append(r[name] == value)
        if self.since is not None:
            found.append(r.time >= self.since)
        if self.until is not None:
            found.append(r.time < self.until)
        if self.verdict is not None:
            found.append(r.error.is_not(None) if self.verdict == "error" else r.verdict == self.verdict)
        if self.label is not None:
            found.append(r.label.is_(None) if self.label == "none" else r.label == self.label)
        if self.kept is not None:
            found.append(r.kept.is_not(None) if self.kept else r.kept.is_(None))
        return and_(True, *found)


def now() -> int:
    return time.time_ns() // 1000


def shown_time(microseconds: int) -> str:
    """
    >>> shown_time(0)
    '1970-01-01T00:00:00.000000Z'
    """
    return datetime.fromtimestamp(microseconds / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def plain_time(microseconds: int) -> str:
    """For people.

    >>> plain_time(0)
    '1970-01-01 00:00:00'
    """
    return shown_time(microseconds)[:19].replace("T", " ")


def micros(moment: datetime | None) -> int | None:
    """Microseconds since 1970; a time without a zone is UTC."""
    if moment is None:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - EPOCH) // timedelta(microseconds=1)


class Store:
    """url: of SQLAlchemy, such as postgresql+psycopg://user@host/name; or the path of an SQLite file.

    read_only: nothing is made, migrated or written; a database that holds no records is refused. One of another program
    always is. Raises InlierError.
    """

    def __init__(self, url: str | Path, read_only: bool = False):
        text = str(url)
        self.engine = open_engine(
            text if "://" in text else f"sqlite:///{Path(text).expanduser().absolute()}", read_only
        )
        address = self.engine.url
        file = address.database if address.get_backend_name() == "sqlite" else None
        self.place = file or address.render_as_string()  # without its password
        try:
            if read_only:
                with self._reading() as connection:
                    check_current(connection, self.place)
                return
            if file and Path(file).is_file():
                self._check_ours()
            with self._writing() as connection:
                migrate(connection, self.place)
        except BaseException:
            self.close()
            raise

    def _check_ours(self) -> None:
        """Before it is opened to write, which changes a file at once: the mode of its journal."""
        engine = open_engine(self.engine.url, read_only=True)
        try:
            with self._explained(), engine.connect() as connection:
                check_ours(connection, self.place)
        finally:
            engine.dispose()

    def close(self) -> None:
        self.engine.dispose()

    # -- writing -------------------------------------------------------------------------------------------------------

    def add(self, rows: Sequence[Mapping[str, Any]], sinks: Mapping[str, Sequence[str]] | None = None) -> list[Row]:
        """Write records, in order and all or none, and the messages that sinks of their stations shall get.

        Returns them as they are stored. One whose station has a record of the same key already is that record.
        """
        with self._writing() as connection:
            number, before = _end_to_write(connection, "records")
            known = _known(connection, rows)
            new: dict[Any, Mapping[str, Any]] = {}
            for place, row in enumerate(rows):
                key = _key(row) or place
                if key not in known:
                    new.setdefault(key, row)
            made = chain.linked([_packed(row, "records") for row in new.values()], number, before)
            changing = [{name: row.get(name) for name in CHANGING} for row in new.values()]
            if made:
                connection.execute(insert(records), [row | more for row, more in zip(made, changing)])
                _move_end(connection, "records", made[-1])
                messages = [
                    {"sink": sink, "record": row["id"]}
                    for row in made
                    for sink in (sinks or {}).get(row["station"], ())
                ]
                if messages:
                    connection.execute(insert(outbox), messages)
            stored = {key: _unpacked(row | more) for key, row, more in zip(new, made, changing)}
        return [(known | stored)[_key(row) or place] for place, row in enumerate(rows)]

    def act(self, who: str, what: str, details: Mapping[str, Any], record: int | None = None) -> Row:
        """Write what a person did."""
        with self._writing() as connection:
            return _act(connection, who, what, details, record)

    def label(self, record: int, label: Label, who: str, note: str = "", regions: Any = None) -> Row:
        """Say what a part really was. Labels of before stay among the actions. Raises Missing."""
        with self._writing() as connection:
            # first the chain's end, as all writers do: two locks in two orders would block each other
            found = _act(connection, who, "label", {"label": label, "note": note, "regions": regions or []}, record)
            done = connection.execute(update(records).where(records.c.id == record).values(label=label))
            if not done.rowcount:
                raise Missing(f"there is no record {record}")
        return found

    def forget_pictures(self, names: Sequence[str]) -> None:
        """These files are no more."""
        with self._writing() as connection:
            connection.execute(update(records).where(records.c.kept.in_(names)).values(kept=None))

    def delivered(self, messages: Sequence[int]) -> None:
        with self._writing() as connection:
            connection.execute(delete(outbox).where(outbox.c.id.in_(messages)))

    # -- reading -------------------------------------------------------------------------------------------------------

    def record(self, number: int) -> Row:
        """Raises InlierError."""
        with self._reading() as connection:
            row = connection.execute(select(records).where(records.c.id == number)).mappings().first()
        if row is None:
            raise Missing(f"there is no record {number}")
        return _unpacked(row)

    def by_key(self, station: str, key: str) -> Row | None:
        with self._reading() as connection:
            query = select(records).where(records.c.station == station, records.c.key == key)
            row = connection.execute(query).mappings().first()
        return None if row is None else _unpacked(row)

    def page(
        self, chosen: Filter, *, before: int | None = None, after: int | None = None, limit: int = 100
    ) -> list[Row]:
        """Newest first below the number `before`; or with `after`, oldest first above that number."""
        query = select(records).where(chosen.conditions()).limit(limit)
        if before is not None:
            query = query.where(records.c.id < before)
        if after is not None:
            query = query.where(records.c.id > after)
        order = records.c.id.desc() if after is None else records.c.id
        with self._reading() as connection:
            if chosen.since is not None or chosen.until is not None:
                # numbers are walked, and a time long ago is far to walk: its first and last number come from an index
                span = Filter(chosen.station, chosen.since, chosen.until).conditions()
                first, last = connection.execute(
                    select(func.min(records.c.id), func.max(records.c.id)).where(span)
                ).one()
                if first is None:
                    return []
                query = query.where(records.c.id.between(first, last))
            return [_unpacked(row) for row in connection.execute(query.order_by(order)).mappings()]

    def all(self, chosen: Filter) -> Iterator[Row]:
        """Oldest first, in constant memory."""
        return self.all_after(chosen, 0)

    def all_after(self, chosen: Filter, last: int) -> Iterator[Row]:
        """The same above a number."""
        while page := self.page(chosen, after=last, limit=PAGE):
            yield from page
            last = page[-1]["id"]

    def actions(self, record: int | None = None, limit: int = 100) -> list[Row]:
        """Newest first."""
        query = select(actions).order_by(actions.c.id.desc()).limit(limit)
        if record is not None:
            query = query.where(actions.c.record == record)
        with self._reading() as connection:
            return [_unpacked(row) for row in connection.execute(query).mappings()]

    def last(self, station: str | None = None) -> int:
        """Number of the newest record; 0: none."""
        query = select(func.max(records.c.id)).where(Filter(station).conditions())
        with self._reading() as connection:
            return int(connection.execute(query).scalar() or 0)

    def counts(self, chosen: Filter) -> dict[tuple[str | None, str | None], int]:
        """How many records by (verdict or "error", label)."""
        verdict = case((records.c.error.is_not(None), "error"), else_=records.c.verdict)
        query = select(verdict, records.c.label, func.count()).where(chosen.conditions())
        with self._reading() as connection:
            return {(v, la): int(n) for v, la, n in connection.execute(query.group_by(verdict, records.c.label))}

    def columns(self, chosen: Filter, names: Sequence[str], limit: int) -> list[tuple[Any, ...]]:
        """Values of the newest records that were judged, newest first; JSON unpacked."""
        r = records.c
        judged = and_(r.error.is_(None), r.score.is_not(None))
        query = select(r.id, *(r[name] for name in names)).where(chosen.conditions(), judged)
        with self._reading() as connection:
            return [
                tuple(_checked(name, value, f"record {number}") for name, value in zip(names, values, strict=True))
                for number, *values in connection.execute(query.order_by(r.id.desc()).limit(limit))
            ]

    def strongest(self, chosen: Filter, limit: int) -> list[Row]:
        """Defects, the strongest first."""
        query = select(records).where(chosen.conditions(), records.c.verdict == "defect")
        with self._reading() as connection:
            found = connection.execute(
                query.order_by(records.c.p_value, records.c.score.desc()).limit(limit)
            ).mappings()
            return [_unpacked(row) for row in found]

    def stations(self) -> list[str]:
        """All that have records."""
        r = records.c
        with self._reading() as connection:
            found = connection.execute(select(r.station, func.min(r.id)).group_by(r.station).order_by(r.station))
            return [_checked("station", name, f"record {first}") for name, first in found]

    def changed_verdicts(self, chosen: Filter, model: str, alpha: float, threshold: float) -> dict[str, int]:
        """What another alpha would have said, from stored scores and p-values.

        threshold: of alpha, for scores of the model; those of other models are compared by their p-values.
        """
        r = records.c
        defect = case((r.model == model, r.score > threshold), else_=r.p_value <= alpha)
        new = func.sum(case((and_(defect, r.verdict == "good"), 1), else_=0))
        gone = func.sum(case((and_(~defect, r.verdict == "defect"), 1), else_=0))
        query = select(func.count(), new, gone).where(chosen.conditions(), r.verdict.is_not(None))
        with self._reading() as connection:
            n, more, fewer = connection.execute(query).one()
        return {"records": int(n), "to_defect": int(more or 0), "to_good": int(fewer or 0)}

    def waiting(self, sink: str, limit: int) -> list[tuple[int, Row]]:
        """The oldest messages that a sink has not taken: (number of the message, its record)."""
        query = select(outbox.c.id.label("message"), records).join(records, records.c.id == outbox.c.record)
        query = query.where(outbox.c.sink == sink)
        with self._reading() as connection:
            rows = [dict(row) for row in connection.execute(query.order_by(outbox.c.id).limit(limit)).mappings()]
        return [(row.pop("message"), _unpacked(row)) for row in rows]

    def unsent(self) -> dict[str, int]:
        """Messages that wait, by sink."""
        with self._reading() as connection:
            query = select(outbox.c.sink, func.count()).group_by(outbox.c.sink)
            return {sink: int(n) for sink, n in connection.execute(query)}

    def kept(self, older: int | None = None) -> list[tuple[str, bool]]:
        """(file, whether any of its records has a label) of pictures that are kept, oldest first.

        older: only those whose newest record is of before this time.
        """
        r = records.c
        query = select(r.kept, func.count(r.label)).where(r.kept.is_not(None)).group_by(r.kept).order_by(func.max(r.id))
        if older is not None:
            query = query.having(func.max(r.time) < older)
        with self._reading() as connection:
            return [(name, bool(labels)) for name, labels in connection.execute(query)]

    def verify(self) -> Iterator[str]:
        """What was changed, is missing or was moved, in both chains; and labels that no action explains."""
        with self._reading() as connection:
            for name, what in (("records", "record"), ("actions", "action")):
                end = _end(connection, name)
                if end is None:
                    yield f"{what}s: which is the last was removed, so those missing at the end do not show"
                    end = _last(connection, name)
                yield from chain.faults(self._chained(connection, name, end[0]), what, end)
            yield from self._unexplained(connection)

    def end(self) -> tuple[int, str]:
        """Number and hash of the last record: kept elsewhere, it proves that nothing before it was rewritten."""
        with self._reading() as connection:
            return _end(connection, "records") or _last(connection, "records")

    def kept_pictures(self) -> Iterator[tuple[int, Any, str]]:
        """(record, file of its picture, sha256 of the picture that was judged), also of records that were changed."""
        r = records.c
        with self._reading() as connection:
            query = select(r.id, r.kept, r.picture).where(r.kept.is_not(None)).order_by(r.id)
            yield from (tuple(row) for row in connection.execute(query))

    def has_hash(self, hash_: str) -> bool:
        with self._reading() as connection:
            return connection.execute(select(records.c.id).where(records.c.hash == hash_).limit(1)).first() is not None

    def _chained(self, connection: Connection, name: str, last: int) -> Iterator[Any]:
        columns, number = CHAINED[name], 0
        while True:
            query = select(*columns).where(columns[0] > number, columns[0] <= last).order_by(columns[0]).limit(PAGE)
            page = connection.execute(query).mappings().all()
            yield from page
            if not page:
                return
            number = page[-1]["id"]

    def _unexplained(self, connection: Connection) -> Iterator[str]:
        newest = select(func.max(actions.c.id)).where(actions.c.what == "label").group_by(actions.c.record)
        query = select(actions.c.record, actions.c.details).where(actions.c.id.in_(newest))
        said = {record: _said(details) for record, details in connection.execute(query)}
        for number, label in connection.execute(
            select(records.c.id, records.c.label).where(records.c.label.is_not(None))
        ):
            if said.pop(number, None) != label:
                yield f"record {number}: its label was changed without an action"
        for number in said:
            yield f"record {number}: its label was removed without an action"

    # -- connections ---------------------------------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with self._explained(), self.engine.connect().execution_options(writes=True) as connection, connection.begin():
            yield connection

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._explained(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error).strip().split("\n")[0]
            raise StoreError(
                f"{self.place}: the database did not take part: {reason}; look after it, then try again"
            ) from error
        except UnicodeEncodeError as error:
            raise InlierError(f"{error.object}: is no text, so no record has it") from None


def _end(connection: Connection, name: str, lock: bool = False) -> tuple[int, str] | None:
    """Number and hash of the last row; None where somebody removed them or put something else in their place."""
    query: Select[Any] = select(ends.c.last, ends.c.hash).where(ends.c.name == name)
    row = connection.execute(query.with_for_update() if lock else query).first()
    return None if row is None or not isinstance(row.last, int) else (row.last, str(row.hash))


def _end_to_write(connection: Connection, name: str) -> tuple[int, str]:
    end = _end(connection, name, lock=True)
    if end is None:
        raise StoreError(
            f"the database no longer knows the last of its {name}, which somebody removed from it: nothing can follow; "
            "`inlier records verify` says what else was changed, and a new --db starts afresh"
        )
    return end


def _last(connection: Connection, name: str) -> tuple[int, str]:
    """Number and hash of the last row that is there."""
    number, *_, hash_ = CHAINED[name]
    row = connection.execute(select(number, hash_).order_by(number.desc()).limit(1)).first()
    return (0, chain.START) if row is None else (row[0], row[1])


def _move_end(connection: Connection, name: str, row: Mapping[str, Any]) -> None:
    connection.execute(update(ends).where(ends.c.name == name).values(last=row["id"], hash=row["hash"]))


def _act(connection: Connection, who: str, what: str, details: Mapping[str, Any], record: int | None) -> Row:
    row = _packed({"time": now(), "who": who, "what": what, "record": record, "details": details}, "actions")
    (made,) = chain.linked([row], *_end_to_write(connection, "actions"))
    connection.execute(insert(actions), [made])
    _move_end(connection, "actions", made)
    return _unpacked(made)


def _key(row: Mapping[str, Any]) -> tuple[str, str] | None:
    return (row["station"], row["key"]) if row.get("key") else None


def _known(connection: Connection, rows: Iterable[Mapping[str, Any]]) -> dict[Any, Row]:
    keys = {key for row in rows if (key := _key(row))}
    if not keys:
        return {}
    match = or_(*(and_(records.c.station == station, records.c.key == key) for station, key in keys))
    found = connection.execute(select(records).where(match)).mappings()
    return {(row["station"], row["key"]): _unpacked(row) for row in found}


def _packed(row: Mapping[str, Any], name: str) -> Row:
    """As the chain and the table hold it."""
    wanted = [c.name for c in CHAINED[name] if c.name not in ("id", "previous", "hash")]
    return {
        key: json.dumps(row[key], sort_keys=True, allow_nan=False) if key in JSON else row.get(key) for key in wanted
    }


def _unpacked(row: Any) -> Row:
    """Raises InlierError where somebody wrote into the database what this library never writes."""
    what = "record" if "station" in row else "action"
    return {name: _checked(name, value, f"{what} {row['id']}") for name, value in row.items()}


def _checked(name: str, value: Any, whose: str) -> Any:
    """A value as it is used; JSON unpacked. Raises InlierError for what nobody could count with or show.

    Whether it is the value that was written is the chain's matter, which `verify` looks at.
    """
    try:
        if name in JSON:
            found = json.loads(value)
            if isinstance(found, list if name == "regions" else dict):
                return found
        elif value is None:
            return value
        elif name == "time":
            if type(value) is int and 0 <= value < LAST_TIME:
                return value
        elif KINDS[name] is float:
            if type(value) in (int, float) and math.isfinite(value):
                return value
        elif type(value) is KINDS[name]:
            str(value).encode()
            return value
    except (TypeError, ValueError, RecursionError):  # no text, no JSON
        pass
    raise InlierError(f"{whose}: its {name} was changed and cannot be read; {VERIFY}")


def _said(details: Any) -> Any:
    """Of an action: the label that it gave; None where it cannot be read, which its hash tells, too."""
    try:
        return json.loads(details)["label"]
    except (KeyError, TypeError, ValueError):
        return None
