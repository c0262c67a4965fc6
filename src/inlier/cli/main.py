"""Entry point, exit codes, and the list of commands. Results go to stdout, progress and messages to stderr.

Exit codes: 0 done, 1 something failed on the way (each thing named; or whoever read stdout has gone), 2 wrong use, 130
stopped with Ctrl-C. What SIGTERM stops ends by that signal, tidied up.
"""

import errno
import io
import logging
import os
import re
import signal
import sys
import threading
from typing import Annotated, Any

import typer

from inlier.cli import extras
from inlier.cli.auto import auto, tune
from inlier.cli.benchmark import benchmark
from inlier.cli.calibrate import calibrate
from inlier.cli.check import check
from inlier.cli.demo import demo
from inlier.cli.evaluate import evaluate
from inlier.cli.export import export
from inlier.cli.fleet import fleet
from inlier.cli.methods import list_methods
from inlier.cli.outputs import tell
from inlier.cli.predict import predict
from inlier.cli.preview import preview
from inlier.cli.profile import profile
from inlier.cli.records import records
from inlier.cli.serve import serve
from inlier.cli.stress import stress
from inlier.cli.study import study
from inlier.cli.train import train
from inlier.errors import ArtifactError, InlierError
from inlier.names import shown
from inlier.version import __version__

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
log = logging.getLogger("inlier")


def main() -> None:
    """Errors of a person become one sentence; `--debug` shows the traceback."""
    _prepare_streams()
    terminated = threading.Event()

    def terminate(number: int, frame: Any) -> None:  # what a system stops is tidied up as after Ctrl-C
        terminated.set()
        raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)
    try:
        _refuse_empty(sys.argv[1:])
        code = app([_expanded(argument) for argument in sys.argv[1:]], standalone_mode=False)
        if sys.stdout:
            sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        # the parser's own errors know how to show themselves
        show = getattr(error, "format_message", None)
        missing = extras.words_of(error)
        if "--debug" in sys.argv or not (show or missing or isinstance(error, (InlierError, OSError))):
            raise
        if getattr(error, "errno", None) != errno.EPIPE:
            if show and is_help(error):
                print(show(), file=sys.stderr)
            else:
                tell(f"error: {show() if show else missing or _words(error)}")
        refused = isinstance(error, ArtifactError) and isinstance(error.__cause__, OSError)  # a full or read-only disk
        code = 2 if (show or missing or isinstance(error, InlierError)) and not refused else 1
    if code == 130:
        tell("stopped")
    _give_up_broken_streams()
    if terminated.is_set():  # and then it ends by that signal, or a service would count as failed
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
    sys.exit(code or 0)


def is_help(error: Exception) -> bool:
    """Whether the parser's error is but the help of a command that was given nothing to do."""
    context = getattr(error, "ctx", None)
    return context is not None and error.format_message() == context.get_help()  # type: ignore[attr-defined]


def _prepare_streams() -> None:
    """Consoles that cannot show a sign show its number; what a shell has closed (`2>&-`) stays out of the way."""
    for number in range(3):  # or the next file would get the number, and what C code tells would be written into it
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stderr is None:  # print would take stdout then
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (until the end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _refuse_empty(arguments: list[str]) -> None:
    """Nothing here is empty on purpose, and an empty path would be taken for the folder that one is in."""
    for before, argument in zip(["inlier", *arguments], arguments):
        if not argument or re.fullmatch("--[a-z-]+=", argument):
            raise InlierError(f"nothing follows {shown(argument or before)}: is a variable of the shell not set?")


def _words(error: Exception) -> str:
    """What an error says; of stdout, which has no name of its own, that it is stdout."""
    if isinstance(error, OSError) and not error.filename and sys.stdout:
        try:
            sys.stdout.flush()  # what could not be written is tried again, and fails again
        except OSError:
            return f"stdout: cannot be written ({error.strerror or error}), so results are lost"
    return str(error)


def _expanded(argument: str) -> str:
    """`~/x`, `--out=~/x` and `textures=~/x` with the home folder, also where the shell leaves that to us."""
    options, path = re.fullmatch(r"((?:[\w-]+=)*)(.*)", argument, re.DOTALL).groups()  # type: ignore[union-attr]
    return options + (os.path.expanduser(path) if path.startswith("~") else path)


def _give_up_broken_streams() -> None:
    """What could not be written is not tried again when Python ends, which would change the exit code."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Messages(logging.Handler):
    """Plain lines on whatever stderr is now (a progress bar redirects it)."""

    def emit(self, record: logging.LogRecord) -> None:
        tell(("warning: " if record.levelno >= logging.WARNING else "") + record.getMessage())


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
app.command()(auto)
app.command()(tune)
app.command()(check)
app.command()(evaluate)
app.command()(predict)
app.command()(calibrate)
app.command()(export)
app.command()(profile)
app.command()(benchmark)
app.command()(stress)
app.command("methods")(list_methods)
app.command()(preview)
app.command()(serve)
app.add_typer(records, name="records")
app.add_typer(study, name="study")
app.add_typer(fleet, name="fleet")
app.command()(demo)
