"""Entry point, exit codes, and the list of commands. Results go to stdout, progress and messages to stderr.

Exit codes: 0 done, 1 something failed on the way (each thing named), 2 wrong use, 130 stopped with Ctrl-C.
"""

import logging
import sys
from typing import Annotated

import typer

from inlier.cli.check import check
from inlier.cli.demo import demo
from inlier.cli.evaluate import evaluate
from inlier.cli.methods import list_methods
from inlier.cli.predict import predict
from inlier.cli.preview import preview
from inlier.cli.train import train
from inlier.errors import ArtifactError, InlierError
from inlier.version import __version__

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
log = logging.getLogger("inlier")


def main() -> None:
    """Errors of a person become one sentence; `--debug` shows the traceback."""
    try:
        code = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        # the parser's own errors know how to show themselves
        show = getattr(error, "format_message", None)
        if "--debug" in sys.argv or not (show or isinstance(error, (InlierError, OSError))):
            raise
        print(f"error: {show() if show else error}", file=sys.stderr)
        refused = isinstance(error, ArtifactError) and isinstance(error.__cause__, OSError)  # a full or read-only disk
        code = 2 if (show or isinstance(error, InlierError)) and not refused else 1
    if code == 130:
        print("stopped", file=sys.stderr)
    sys.exit(code or 0)


class _Messages(logging.Handler):
    """Plain lines on whatever stderr is now (a progress bar redirects it)."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        print(prefix + record.getMessage(), file=sys.stderr)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"inlier {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress and no messages but warnings.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Learn what good parts look like from pictures of good parts; then find, locate and grade defects."""
    log.handlers[:] = [_Messages()]
    log.propagate = False
    log.setLevel(logging.WARNING if quiet else logging.INFO)


app.command()(train)
app.command()(check)
app.command()(evaluate)
app.command()(predict)
app.command("methods")(list_methods)
app.command()(preview)
app.command()(demo)
