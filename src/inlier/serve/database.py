"""How a database of records is opened: to write, or as it is."""

import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from inlier.errors import InlierError


class StoreError(InlierError):
    """The database cannot be reached, or refuses: nothing of what was asked has happened."""


def open_engine(url: str | URL, read_only: bool) -> Engine:
    """Raises InlierError for an address that is none, StoreError where nothing can be opened there."""
    try:
        address = make_url(url)
        if address.get_backend_name() == "postgresql":
            return create_engine(
                address.set(drivername="postgresql+psycopg"),
                pool_pre_ping=True,
                pool_timeout=10,
                connect_args={"connect_timeout": 5},
            )
        if address.get_backend_name() != "sqlite":
            raise InlierError(f"{address.get_backend_name()}: records are kept in sqlite or postgresql")
        if read_only and address.database:
            return _reading_engine(address)
        if address.database:
            Path(address.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(address, connect_args={"timeout": 15})
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        if getattr(error, "name", None) == "psycopg":  # the address is right
            raise
        raise InlierError(f"the address of the database cannot be used: {error}") from None
    except OSError as error:
        raise StoreError(f"{error.filename}: cannot be made ({error.strerror})") from None

    _prepare(engine, "journal_mode = WAL", "synchronous = FULL")
    return engine


def _reading_engine(address: URL) -> Engine:
    """Of a file that stays as it is: SQLite makes none, and refuses to write."""
    file = Path(str(address.database)).absolute()
    place, wal = f"file:{quote(str(file))}", Path(f"{file}-wal")

    def opened(place: str) -> sqlite3.Connection:
        # not mode=ro, which would leave two files beside the database; a file that is read-only will do all the same
        connection = sqlite3.connect(place, timeout=15, uri=True, check_same_thread=False)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master")
        except BaseException:
            connection.close()
            raise
        return connection

    def connect() -> sqlite3.Connection:
        try:
            connection = opened(f"{place}?mode=rw")
        except sqlite3.OperationalError as error:
            cannot = (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR)
            if error.sqlite_errorcode & 0xFF not in cannot or not file.is_file():
                raise
            # a place that nobody can write to, such as an archive: SQLite cannot lay its two files beside the database
            if wal.is_file() and wal.stat().st_size:
                raise StoreError(
                    f"{file}: its newest records lie in {wal.name}, which is not read where nothing can be written "
                    f"({error}); copy both into another folder"
                ) from None
            connection = opened(f"{place}?immutable=1")
        # bytes that are no text were written by somebody else: the record's hash tells that, not SQLite
        connection.text_factory = lambda raw: raw.decode(errors="surrogateescape")
        return connection

    engine = create_engine(address, creator=connect)
    _prepare(engine, "query_only = ON")
    return engine


def _prepare(engine: Engine, *pragmas: str) -> None:
    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say so
        for pragma in (*pragmas, "busy_timeout = 15000", "cache_size = -16000"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # a reader that wants to write later could be refused; a writer waits for its turn at once
        writes = connection.get_execution_options().get("writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
