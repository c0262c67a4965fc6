"""Many pictures, read on threads ahead of their use, as batches of the network's input."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from inlier.data.geometry import Geometry
from inlier.data.images import ImageSource, read_image, source_name
from inlier.errors import ImageError, InlierError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batch(NamedTuple):
    """Consecutive sources; `indices`, `images` and `sizes` belong together and leave out the failures."""

    indices: list[int]
    images: np.ndarray  # float32 (B, 3, size, size) in [0, 1]; B may be 0
    sizes: list[tuple[int, int]]  # height, width of the upright originals
    failures: list[tuple[int, str]]  # index and message of what could not be read
    sources: dict[int, ImageSource]  # by index, those of the failures too


def read_batches(
    sources: Iterable[ImageSource],
    geometry: Geometry,
    batch_size: int = 8,
    workers: int = 2,
    errors: Literal["raise", "keep"] = "raise",
) -> Generator[Batch, None, None]:
    """Read pictures in order, on `workers` threads, at most batch_size + workers of them ahead.

    `sources` may be a generator, endless too: it is asked from the caller's thread, for what is read next only.
    An unreadable picture raises ImageError, or with errors="keep" goes into `failures` of the batch it belongs to.
    Wrong arguments raise InlierError at the call. The threads end when the iterator is closed.
    """
    if batch_size < 1 or workers < 1 or errors not in ("raise", "keep"):
        raise InlierError('read_batches needs batch_size >= 1, workers >= 1 and errors "raise" or "keep"')
    return _batches(iter(sources), geometry, batch_size, workers, keep=errors == "keep")


def _batches(
    sources: Iterator[ImageSource], geometry: Geometry, batch_size: int, workers: int, keep: bool
) -> Generator[Batch, None, None]:
    def read(item: tuple[int, ImageSource]) -> tuple[int, ImageSource, tuple[np.ndarray, tuple[int, int]] | str]:
        index, source = item
        name = source_name(source, index)
        try:
            image = read_image(source, name)
            return index, source, (geometry(image), (image.height, image.width))
        except InlierError as error:
            message = str(error) if isinstance(error, ImageError) else f"{name}: {error}"
            if not keep:
                raise ImageError(message) from None
            return index, source, message

    with closing(read_ahead(read, enumerate(sources), workers, batch_size + workers)) as results:
        while True:
            batch = Batch([], np.empty((0, 3, geometry.size, geometry.size), np.float32), [], [], {})
            images = []
            for index, source, result in islice(results, batch_size):
                batch.sources[index] = source
                if isinstance(result, str):
                    batch.failures.append((index, result))
                else:
                    batch.indices.append(index)
                    images.append(result[0])
                    batch.sizes.append(result[1])
            if not batch.sources:
                return
            yield batch._replace(images=np.stack(images)) if images else batch


def read_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, ahead: int
) -> Generator[Result, None, None]:
    """`map` on threads: order kept, at most `ahead` items under way, threads ended when the iterator is closed."""
    pool = ThreadPoolExecutor(workers)
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            if len(pending) >= ahead:
                yield pending.popleft().result()
            pending.append(pool.submit(function, item))
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
