"""Many pictures, read on threads ahead of their use, as batches of the network's input."""

import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from inlier.data.geometry import Geometry
from inlier.data.images import ImageSource, read_scaled, source_name
from inlier.errors import ImageError, InlierError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Picture(NamedTuple):
    """One source, read or not."""

    number: int  # its place among the sources
    source: ImageSource
    geometry: Geometry
    size: tuple[int, int] = (0, 0)  # height, width of the upright original
    error: str | None = None  # why it cannot be read


class Batch(NamedTuple):
    """Consecutive views of consecutive pictures; a picture of many tiles may fill several batches."""

    images: np.ndarray  # float32 (B, 3, size, size) in [0, 1]; B may be 0
    inspected: np.ndarray | None  # bool (B, size, size), what shows the region of interest; None: everything
    owners: list[int]  # (B,) number of the picture that each is a view of
    pictures: list[Picture]  # those that are complete with this batch, in order; failures have no views


class Prepared(NamedTuple):
    """A picture as the network sees it."""

    picture: Picture
    views: Callable[[], Iterable[np.ndarray]]  # float32 (3, size, size) each; tiles are cut when they are asked for


def prepare(source: ImageSource | bytes, name: str, geometry: Geometry, number: int = 0) -> Prepared:
    """Read a picture, called `name` in errors, and make its views. source: also a file's bytes. Raises ImageError."""
    try:
        image, size = read_scaled(source, name, geometry.least)
        geometry.views(*size)  # refuses what the region of interest does not fit
        if geometry.eight_bit and image.mode == "F":
            raise ImageError(
                f"{name}: has more than 8 bit, but the model was exported for pictures of 8 bit: export it with "
                "--input float"
            )
        made = None if geometry.tile else list(geometry.inputs(image, size))
        known = name if isinstance(source, bytes) else source
        return Prepared(Picture(number, known, geometry, size), lambda: made or geometry.inputs(image))
    except ImageError:
        raise
    except InlierError as error:
        raise ImageError(f"{name}: {error}") from None


def read_batches(
    sources: Iterable[ImageSource],
    geometry: Geometry | Iterable[Geometry],
    batch_size: int = 8,
    workers: int = 2,
    errors: Literal["raise", "keep"] = "raise",
) -> Generator[Batch, None, None]:
    """Read pictures in order, on `workers` threads, at most batch_size + workers of them ahead (workers, if tiled).

    `sources` may be a generator, endless too: it is asked from the caller's thread, for what is read next only, and may
    give the same array with other pixels again and again.
    geometry: one for all pictures, or one for each. An unreadable picture raises ImageError once those before it have
    come, or with errors="keep" is among the batch's pictures with its error. Wrong arguments raise InlierError at the
    call. The threads end when the iterator is closed.
    """
    if batch_size < 1 or workers < 1 or errors not in ("raise", "keep"):
        raise InlierError('read_batches needs batch_size >= 1, workers >= 1 and errors "raise" or "keep"')
    geometries = itertools.repeat(geometry) if isinstance(geometry, Geometry) else iter(geometry)
    if not isinstance(sources, Sequence):  # a camera's loop writes each picture where the one before was
        sources = (source.copy() if isinstance(source, np.ndarray) else source for source in sources)
    return _read_batches(zip(sources, geometries), batch_size, workers, keep=errors == "keep")


def _read_batches(
    pairs: Iterator[tuple[ImageSource, Geometry]], batch_size: int, workers: int, keep: bool
) -> Generator[Batch, None, None]:
    first = next(pairs, None)
    if first is None:
        return
    # a picture that is cut into tiles is large, and they are cut when their turn comes
    ahead = workers if first[1].tile else batch_size + workers

    def read(item: tuple[int, tuple[ImageSource, Geometry]]) -> Prepared:
        number, (source, geometry) = item
        try:
            return prepare(source, source_name(source, number), geometry, number)
        except ImageError as error:
            if not keep:
                raise
            return Prepared(Picture(number, source, geometry, error=str(error)), lambda: ())

    with closing(read_ahead(read, enumerate(itertools.chain([first], pairs)), workers, ahead)) as prepared:
        yield from batches_of(prepared, batch_size)


def batches_of(prepared: Iterable[Prepared], batch_size: int) -> Iterator[Batch]:
    """Views of consecutive pictures, `batch_size` at a time; the pictures of a batch have one input size."""
    images: list[np.ndarray] = []
    masks: list[np.ndarray | None] = []
    owners: list[int] = []
    pictures: list[Picture] = []
    size = 0

    def batch() -> Batch:
        inspected = None
        if any(mask is not None for mask in masks):
            everything = np.ones(images[0].shape[1:], bool)
            inspected = np.stack([everything if mask is None else mask for mask in masks])
        stacked = np.stack(images) if images else np.empty((0, 3, size, size), np.float32)
        made = Batch(stacked, inspected, owners.copy(), pictures.copy())
        for column in (images, masks, owners, pictures):
            column.clear()
        return made

    prepared = iter(prepared)
    while True:
        try:
            picture, views = next(prepared)
        except StopIteration:
            break
        except Exception:
            if pictures:  # what comes before an error is not lost by it
                yield batch()
            raise
        size = picture.geometry.size
        shown = picture.geometry.inspected(*picture.size) if picture.error is None else None
        for k, view in enumerate(views()):
            if len(images) == batch_size:
                yield batch()
            images.append(view)
            masks.append(None if shown is None else shown[k])
            owners.append(picture.number)
        pictures.append(picture)
        # without tiles a batch is so many pictures, those that failed included
        if len(images) + sum(p.error is not None for p in pictures) >= batch_size:
            yield batch()
    if pictures:
        yield batch()


def read_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int
) -> Generator[Result, None, None]:
    """`map` on threads: order kept, at most `ahead` items under way, threads ended when the iterator is closed.

    An error of `items` comes after the results of those before it.
    """
    pool = ThreadPoolExecutor(workers)
    pending: deque[Future[Result]] = deque()
    try:
        items = iter(items)
        while True:
            try:
                item = next(items)
            except StopIteration:
                break
            except Exception:
                while pending:
                    yield pending.popleft().result()
                raise
            if len(pending) >= ahead:
                yield pending.popleft().result()
            pending.append(pool.submit(function, item))
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
