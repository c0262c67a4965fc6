"""Judging in bulk: a listing of pictures of many parts in, Parquet out, exactly one row for each picture.

The listing is cut into chunks, each of one part, so that a worker keeps its model for many pictures. What a chunk makes
is one file, whose name follows from the chunk and the model: a chunk that is done twice, after a worker was lost or a
run was stopped, writes the same file again. Nothing is lost, nothing doubled, and what is there is not done again.
"""

import contextlib
import functools
import hashlib
import io
import logging
import os
import pickle
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inlier.artifact import read_text
from inlier.errors import InlierError
from inlier.fleet import tables
from inlier.fleet.engine import Need, processors
from inlier.fleet.judging import COLUMNS, judged, load_from
from inlier.fleet.local import Local, one_thread
from inlier.fleet.plan import Part, Plan
from inlier.fleet.store import Store
from inlier.inspection.inspector import Inspector

if TYPE_CHECKING:
    import pyarrow as pa

LISTING = "_listing.parquet"  # readers of Parquet folders pass over names that start so
CHUNK = 200  # pictures
GROUP = 50_000  # rows of a listing that are read at once
MODELS = 4  # that a worker keeps
BLOCKS = 1000  # of Ray Data, at most; what a lost worker was at is done again a block at a time
READERS = 2  # threads that read pictures ahead
TRIES = 10  # workers that a chunk may lose before its pictures are rows with that error


@dataclass(frozen=True)
class Chunk:
    """Pictures `first` to `last` of those of a part in one row group of a listing."""

    listing: str
    stamp: str  # tells the listing from another of that name
    group: int
    part: Part
    model: str
    first: int
    last: int
    out: str

    @property
    def name(self) -> str:
        """Of its file: the same for the same pictures, model and alpha."""
        known = (self.stamp, self.group, self.part.name, self.part.category, self.part.alpha, self.model)
        return hashlib.sha256(repr((*known, self.first, self.last)).encode()).hexdigest()[:32] + ".parquet"


def write_listing(pictures: Path, plan: Plan, out: str) -> str:
    """Where the Parquet file of a listing lies: `pictures` itself, or in `out`, made from a folder or a .csv file.

    Columns are path and part; a folder has a folder for each part, named after it. Raises InlierError.
    """
    import pyarrow as pa
    import pyarrow.csv

    from inlier.data.images import list_images

    if pictures.suffix.lower() == ".parquet":
        return str(pictures)
    kinds = {"path": pa.binary(), "part": pa.string()}  # 0815 is a name, and a file's may be no text
    if pictures.is_dir():
        folders = {name: pictures / name for name in sorted(part.name for part in plan.parts)}
        found = [(path, name) for name, folder in folders.items() if folder.is_dir() for path in list_images(folder)]
        columns = [os.fsencode(path) for path, _ in found], [name for _, name in found]
        table, named = pa.table(columns, pa.schema(kinds)), set(kinds)
    else:
        try:
            table = pyarrow.csv.read_csv(pictures, convert_options=pyarrow.csv.ConvertOptions(column_types=kinds))
            named = set(table.column_names)
        except (OSError, pa.ArrowInvalid, UnicodeDecodeError) as error:
            if not isinstance(error, OSError):
                read_text(pictures)  # says it where the encoding is why; paths alone may be in any
            raise InlierError(
                f"{pictures}: cannot be read as a folder, a .csv or a .parquet listing ({error})"
            ) from None
    if not set(kinds) <= named or not len(table):
        raise InlierError(f"{pictures}: holds no pictures of the plan's parts; a listing has columns path and part")
    with contextlib.suppress(pa.ArrowInvalid):  # names that are no text stay the bytes that they are
        table = table.set_column(table.column_names.index("path"), "path", table["path"].cast(pa.string()))
    # in the same bytes as ever: a listing of others would be another one, and what is judged of it not known
    table = table.select(list(kinds)).sort_by("part")
    Store(out).write_table(LISTING, table, compression="snappy", row_group_size=GROUP)
    return f"{out}/{LISTING}"


def chunks(listing: str, plan: Plan, models: Mapping[str, str], out: str, size: int = CHUNK) -> list[Chunk]:
    """All pictures of a listing, each in one chunk. models: part -> its model in the store.

    Raises InlierError for a listing that cannot be read, for a part that the plan does not know or that has no model,
    and where `out` holds verdicts of something else.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = {part.name: part for part in plan.parts}
    found: list[Chunk] = []
    try:
        with _opened(listing) as source:
            stamp = hashlib.file_digest(source, "sha256").hexdigest()
        with _opened(listing) as source:
            file = pq.ParquetFile(source)
            if not {"path", "part"} <= set(file.schema_arrow.names):
                names = ", ".join(file.schema_arrow.names)
                raise InlierError(f"{listing}: a listing has columns path and part, not {names}")
            for group in range(file.num_row_groups):
                column = file.read_row_group(group, ["part"])["part"].to_numpy(zero_copy_only=False).astype(str)
                for name, count in zip(
                    *(values.tolist() for values in np.unique(column, return_counts=True)), strict=True
                ):
                    if name not in parts or name not in models:
                        no = "has no model in use; run `inlier fleet train`" if name in parts else "is not in the plan"
                        raise InlierError(f"{listing}: part {name!r} {no}")
                    for first in range(0, count, size):
                        last = min(first + size, count)
                        found.append(Chunk(listing, stamp, group, parts[name], models[name], first, last, out))
    except (OSError, pa.ArrowInvalid) as error:
        raise InlierError(f"{listing}: cannot be read as Parquet ({error})") from None
    there = {name for name in Store(out).list("") if name.endswith(".parquet") and name != LISTING}
    if strangers := there - {chunk.name for chunk in found}:
        raise InlierError(
            f"{out}: holds {len(strangers)} files of another listing, model or alpha, and rows would be there twice; "
            "choose another place, or remove them"
        )
    return found


def judge(chunk: Chunk, store: Store) -> int:
    """Write the chunk's rows, and tell how many of its pictures could not be read."""
    import pyarrow.parquet as pq

    out = Store(chunk.out)
    if (content := out.read(chunk.name)) is not None:
        known = pq.read_table(io.BytesIO(content))
        if _unread(known) < len(known):  # where none could be judged, it may have been the workers' fault
            return _unread(known)
    try:
        rows = judged(_model(store.place, chunk.model), chunk.part, chunk.model, _paths(chunk), READERS)
    except InlierError as error:  # of one part, such as an alpha that its calibration cannot promise
        return given_up(chunk, str(error))
    return _write(rows, chunk, out)


def given_up(chunk: Chunk, why: str) -> int:
    """Rows of pictures that cannot be judged: their model refuses, or their workers died again and again."""
    rows = [{"path": path, "part": chunk.part.name, "model": chunk.model, "error": why} for path in _paths(chunk)]
    return _write(tables.table(rows, COLUMNS), chunk, Store(chunk.out))


def run_local(
    found: Sequence[Chunk], store: Store, workers: int | None = None, memory: int | None = None
) -> Iterator[tuple[int, int]]:
    """(pictures, unreadable ones) of each chunk, as they are done. workers: default, one a processor. memory: bytes."""
    engine = Local(workers or processors(), memory)
    for chunk, unread in engine.each(judge, [(chunk, Need()) for chunk in found], store, TRIES):
        yield chunk.last - chunk.first, given_up(chunk, unread) if isinstance(unread, str) else unread


def run_ray(
    found: Sequence[Chunk], store: Store, address: str | None, workers: int | None
) -> Iterator[tuple[int, int]]:
    """The same with Ray Data: a pool of actors, each with its models, which are given as much as they can take."""
    from inlier.fleet.ray import connected

    with connected(address) as ray:
        from ray import data

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        data.DataContext.get_current().enable_progress_bars = False
        pool = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        rows = data.from_items(
            [{"chunk": pickle.dumps(chunk)} for chunk in found], override_num_blocks=min(len(found), BLOCKS)
        )
        judging = rows.map_batches(
            _Judge,
            batch_size=1,
            compute=data.ActorPoolStrategy(min_size=1, max_size=pool),
            num_cpus=1,
            fn_constructor_args=(store.place,),
        )
        for row in judging.iter_rows():
            yield int(row["pictures"]), int(row["unread"])


class _Judge:
    """An actor of Ray Data."""

    def __init__(self, place: str):
        one_thread()
        self.store = Store(place)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[int]]:
        found: list[Chunk] = [pickle.loads(one) for one in batch["chunk"]]
        unread = [judge(chunk, self.store) for chunk in found]
        return {"pictures": [chunk.last - chunk.first for chunk in found], "unread": unread}


def _write(rows: "pa.Table", chunk: Chunk, out: Store) -> int:
    out.write_table(chunk.name, rows)
    return _unread(rows)


def _unread(rows: "pa.Table") -> int:
    return len(rows) - int(rows["error"].null_count)


def _paths(chunk: Chunk) -> list[str]:
    paths, parts = _row_group(chunk.listing, chunk.stamp, chunk.group)
    chosen = paths[parts == chunk.part.name][chunk.first : chunk.last]
    return [os.fsdecode(path) if isinstance(path, bytes) else str(path) for path in chosen]


@functools.lru_cache(maxsize=1)
def _row_group(listing: str, stamp: str, group: int) -> tuple[Any, Any]:
    """(paths, names of parts), arrays of as many."""
    import pyarrow.parquet as pq

    with _opened(listing) as source:
        table = pq.ParquetFile(source).read_row_group(group, ["path", "part"])
    paths, parts = (table[name].to_numpy(zero_copy_only=False) for name in ("path", "part"))
    return paths, parts.astype(str)


def _opened(listing: str) -> Any:
    import fsspec

    return fsspec.open(listing, "rb")


@functools.lru_cache(maxsize=MODELS)
def _model(place: str, model: str) -> Inspector:
    return load_from(Store(place), model)
