"""How a database of any age becomes one of today."""

from pathlib import Path

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from inlier.errors import InlierError
from inlier.names import first_names

FOLDER = Path(__file__).parent
OURS = {"records", "actions", "ends"}  # tables of every revision


def migrate(connection: Connection, place: str) -> None:
    """Bring the tables to the newest revision, in the connection's transaction. Raises InlierError for newer ones, and
    for those of another program."""
    check_ours(connection, place)
    config, script = _script()

    def steps(revision: tuple[str, ...], _: object) -> list:
        _check_known(script, revision, place)
        return script._upgrade_revs("head", revision)  # type: ignore[arg-type]

    with EnvironmentContext(config, script, fn=steps) as environment:
        environment.configure(connection=connection)
        environment.run_migrations()


def check_ours(connection: Connection, place: str) -> None:
    """Raise InlierError for a database of another program. Nothing is written."""
    tables = inspect(connection).get_table_names()
    if tables and not set(tables) >= OURS:
        raise InlierError(
            f"{place}: holds tables, but not those of inlier's records (it holds {first_names(sorted(tables))}), and "
            "is left as it is; give the records a database of their own with --db"
        )


def check_current(connection: Connection, place: str) -> None:
    """Raise InlierError unless the tables are those of the newest revision. Nothing is written."""
    if not set(inspect(connection).get_table_names()) >= OURS:
        raise InlierError(f"{place}: holds no records of inlier; give the station's --data, or its --db")
    script, revision = _script()[1], MigrationContext.configure(connection).get_current_heads()
    _check_known(script, revision, place)
    if set(revision) != set(script.get_heads()):
        raise InlierError(
            f"{place}: was made by an older inlier (revision {', '.join(revision) or 'unknown'}); `inlier serve` with "
            "it, once, brings it up to date"
        )


def _script() -> tuple[Config, ScriptDirectory]:
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    return config, ScriptDirectory.from_config(config)


def _check_known(script: ScriptDirectory, revision: tuple[str, ...], place: str) -> None:
    known = {one.revision for one in script.walk_revisions()}
    if unknown := set(revision) - known:
        raise InlierError(
            f"{place}: was made by a newer inlier (revision {', '.join(sorted(unknown))}): upgrade inlier"
        )
