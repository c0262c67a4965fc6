"""`inlier records`: what a station has kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inlier import artifact
from inlier.cli.outputs import check_page, check_stdout, protect, say, tell
from inlier.errors import InlierError
from inlier.names import shown

if TYPE_CHECKING:
    from inlier.serve.store import Filter, Store

records = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="List, export, verify and report a station's records."
)

Data = Annotated[Path, typer.Option(help="The station's folder, as `inlier serve --data` had it.")]
Db = Annotated[str | None, typer.Option(help="The database, as `inlier serve --db` had it. Default: in --data.")]
Station = Annotated[str | None, typer.Option(help="Only of this station.")]
Since = Annotated[datetime | None, typer.Option(help="Only from this time on, UTC.")]
Until = Annotated[datetime | None, typer.Option(help="Only before this time, UTC.")]
Verdict = Annotated[str | None, typer.Option(help="Only good, defect or error.")]
Label = Annotated[str | None, typer.Option(help="Only what people called good or defect; none: what nobody labelled.")]
Lot = Annotated[str | None, typer.Option(help="Only of this lot.")]
FOLDER = Path("inlier-station")


@records.command("list")
def list_(
    data: Data = FOLDER,
    db: Db = None,
    station: Station = None,
    since: Since = None,
    until: Until = None,
    verdict: Verdict = None,
    label: Label = None,
    lot: Lot = None,
    limit: Annotated[int, typer.Option(min=1, help="So many of the newest.")] = 20,
) -> None:
    """The newest records, a line each."""
    check_stdout()
    with open_store(data, db) as store:
        from inlier.serve.store import shown_time

        for row in store.page(_filter(station, since, until, verdict, label, lot), limit=limit):
            said = row["verdict"] or ("error" if row["error"] is not None else "-")
            score = "-" if row["score"] is None else f"{row['score']:.5g}"
            p = "-" if row["p_value"] is None else f"{row['p_value']:.4g}"
            about = " ".join(f"{name} {shown(row[name])}" for name in ("part", "lot", "label", "error") if row[name])
            start = f"{row['id']:>8}  {shown_time(row['time'])[:19]}  {shown(row['station'])}  {shown(said):6}"
            say(f"{start}  score {score}  p {p}  {about}")


@records.command()
def export(
    out: Annotated[Path, typer.Argument(help="A .csv, .jsonl or .parquet file; with --labelled a folder.")],
    data: Data = FOLDER,
    db: Db = None,
    station: Station = None,
    since: Since = None,
    until: Until = None,
    verdict: Verdict = None,
    label: Label = None,
    lot: Lot = None,
    labelled: Annotated[
        bool, typer.Option("--labelled", help="Labelled pictures as a folder like MVTec AD's, for the next training.")
    ] = False,
) -> None:
    """Records for other programs, or labelled pictures for the next training."""
    from inlier.serve import exports
    from inlier.serve.pictures import Pictures

    writers: dict[str, Any] = {".csv": exports.as_csv, ".jsonl": exports.jsonl}
    if labelled and not station:
        raise InlierError("--labelled needs --station: each one's pictures are a data set of their own")
    if not labelled and out.suffix not in (*writers, ".parquet"):
        raise InlierError(f"{out}: what kind of file? give a name that ends in .csv, .jsonl or .parquet")
    protect([out / "any.png" if labelled else out], read_from(data, db))
    with open_store(data, db) as store:
        if labelled:
            count = 0
            for name, content in exports.labelled(store, Pictures(data / "pictures"), station or ""):
                artifact.write_bytes(out / name, content)
                count += 1
            if not count:
                raise InlierError(f"station {station}: no kept picture is labelled")
            say(f"{shown(out)}: {count} files")
            return
        artifact.check_writable(out)
        rows = store.all(_filter(station, since, until, verdict, label, lot))

        def fill(path: Path) -> None:
            with path.open("wb") as file:
                if out.suffix == ".parquet":
                    exports.parquet(rows, file)
                else:
                    file.writelines(line.encode() for line in writers[out.suffix](rows))

        artifact.write_file(out, fill)
    say(f"{shown(out)}: written")


@records.command()
def verify(
    data: Data = FOLDER,
    db: Db = None,
    expect: Annotated[
        str | None, typer.Option(help="A hash that was noted before, of any record: it must still be there.")
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Also compare kept pictures with their records.")
    ] = False,
) -> None:
    """Whether any record was changed, removed or moved; ends with exit code 1 if so."""
    from inlier.serve.pictures import Pictures

    with open_store(data, db) as store:
        wrong = 0
        for fault in store.verify():
            tell(f"error: {fault}")
            wrong += 1
        if expect and not store.has_hash(expect.strip().lower()):
            tell(f"error: no record has the hash {shown(expect)}: the chain was written anew since it was noted")
            wrong += 1
        for record, name, sha256 in store.kept_pictures() if pictures else ():
            try:
                same = not Pictures(data / "pictures").changed(name, sha256)
            except InlierError:
                same = False
            if not same:
                tell(f"error: record {record}: its picture {shown(name)} was changed or is missing")
                wrong += 1
        number, hash_ = store.end()
    say(f"{number} records, {wrong or 'no'} faults; hash of the last record: {shown(hash_)}")
    if wrong:
        raise typer.Exit(1)


@records.command()
def report(
    out: Annotated[Path, typer.Argument(help="The page to write (.html).")],
    data: Data = FOLDER,
    db: Db = None,
    station: Station = None,
    since: Since = None,
    until: Until = None,
) -> None:
    """A page about a shift: verdicts, labels, scores, times, and the strongest defects with their pictures."""
    from inlier.report.pages import check_installed
    from inlier.serve.pictures import Pictures
    from inlier.serve.shift import page

    check_installed()
    check_page(out)
    protect([out], read_from(data, db))
    with open_store(data, db) as store:
        artifact.check_writable(out)
        html = page(store, Pictures(data / "pictures"), _filter(station, since, until, None, None, None))
    artifact.write_bytes(out, html.encode(errors="backslashreplace"))
    say(f"{shown(out)}: written")


@contextmanager
def open_store(data: Path, db: str | None) -> "Iterator[Store]":
    """To read: the database stays as it is."""
    from inlier.serve.store import Store

    file = database(data, db)
    if file and not file.is_file():  # a new database would have no faults
        raise InlierError(f"{file if db else data}: holds no records; give the station's --data, or its --db")
    store = Store(file or str(db), read_only=True)
    try:
        yield store
    finally:
        store.close()


def database(data: Path, db: str | None) -> Path | None:
    """The file of the records; None where a server keeps them."""
    if db is None:
        return data / "records.sqlite"
    if db.startswith("sqlite:///"):
        db = db.removeprefix("sqlite:///").partition("?")[0]
    return None if "://" in db else Path(db).expanduser()


def read_from(data: Path, db: str | None) -> list[Path]:
    """What a command about records reads."""
    return [data / "pictures", *filter(None, [database(data, db)])]


def _filter(
    station: str | None,
    since: datetime | None,
    until: datetime | None,
    verdict: str | None,
    label: str | None,
    lot: str | None,
) -> "Filter":
    from inlier.serve.store import Filter, micros

    for name, value, known in (
        ("--verdict", verdict, ("good", "defect", "error")),
        ("--label", label, ("good", "defect", "none")),
    ):
        if value is not None and value not in known:
            raise InlierError(f"{name} {value}: must be one of {', '.join(known)}")
    return Filter(station, micros(since), micros(until), verdict, label, None, lot)  # type: ignore[arg-type]
