"""How a database of any age becomes one of today."""

from pathlib import Path

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from inlier.errors import InlierError

FOLDER = Path(__file__).parent


def migrate(connection: Connection) -> None:
    """Bring the tables to the newest revision, in the connection's transaction. Raises InlierError for newer ones."""
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)

    def steps(revision: tuple[str, ...], _: object) -> list:
        known = {one.revision for one in script.walk_revisions()}
        if unknown := set(revision) - known:
            raise InlierError(
                f"the database was made by a newer inlier (revision {', '.join(sorted(unknown))}): upgrade inlier"
            )
        return script._upgrade_revs("head", revision)  # type: ignore[arg-type]

    with EnvironmentContext(config, script, fn=steps) as environment:
        environment.configure(connection=connection)
        environment.run_migrations()
