"""Where a fleet keeps what it makes: a folder, or anything that fsspec opens, such as a bucket that speaks S3.

Many machines write to it at once. A file is written whole or not at all, and nobody writes two different contents to
one name: what a task makes lies under the fingerprint of its inputs, so whoever writes it again writes the same. Only
`rows/` (what was done last), `use/` (which model is in use) and `drift/` are replaced, and their last writer wins.
"""

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from inlier import artifact
from inlier.errors import InlierError

if TYPE_CHECKING:
    import pyarrow as pa


class Store:
    """place: a folder or an address such as s3://bucket/plant. Paths below it have slashes.

    must_exist: something was written to it before. Raises InlierError for a place that cannot be opened, OSError where
    it refuses later.
    """

    def __init__(self, place: str, must_exist: bool = False):
        self.folder = None if "://" in place else Path(place).expanduser().absolute()
        self.place = place if self.folder is None else str(self.folder)  # the same from anywhere
        self.files: Any = None
        self.root = ""
        if self.folder is None:
            try:
                from fsspec.core import url_to_fs

                # what others write must be seen at once
                self.files, self.root = url_to_fs(place, use_listings_cache=False)
            except (ImportError, ValueError) as error:
                raise InlierError(
                    f"{place}: cannot be opened as a store ({error}); pip install 'inlier[fleet]'"
                ) from None
        else:
            there = next(folder for folder in (self.folder, *self.folder.parents) if os.path.exists(folder))
            if not there.is_dir():
                raise InlierError(f"{place}: cannot be a store, as {there} is a file; give a folder")
        if must_exist and not (self.folder.is_dir() if self.folder else self.files.exists(self.root)):
            raise InlierError(f"{place}: there is no such store; give the --store that `inlier fleet train` had")

    def read(self, path: str) -> bytes | None:
        """None where there is no such file."""
        try:
            return self._local(path).read_bytes() if self.folder else bytes(self.files.cat_file(self._remote(path)))
        except FileNotFoundError:
            return None

    def read_all(self, folder: str, suffix: str) -> dict[str, bytes]:
        """The files directly in a folder whose names end so: name -> content. One that goes meanwhile is left out."""
        names = [name for name in self.list(folder) if name.endswith(suffix)]
        if self.folder:
            found = {name: self.read(f"{folder}/{name}") for name in names}
            return {name: content for name, content in found.items() if content is not None}
        if not names:
            return {}
        contents = self.files.cat([self._remote(f"{folder}/{name}") for name in names], on_error="omit")
        return {PurePosixPath(path).name: content for path, content in contents.items()}

    def list(self, folder: str) -> list[str]:
        """Names directly in a folder, sorted; of files that are whole."""
        if self.folder:
            with contextlib.suppress(FileNotFoundError):
                return sorted(n for n in os.listdir(self._local(folder)) if not n.startswith(artifact.TEMPORARY))
            return []
        try:
            return sorted(PurePosixPath(path).name for path in self.files.ls(self._remote(folder), detail=False))
        except FileNotFoundError:
            return []

    def write(self, path: str, content: bytes) -> None:
        if self.folder:
            artifact.write_bytes(self._local(path), content)
        else:
            self.files.pipe_file(self._remote(path), content)

    def write_table(self, path: str, table: "pa.Table", **options: Any) -> None:
        """As Parquet. options: of `pyarrow.parquet.write_table`."""
        import pyarrow.parquet as pq

        content = io.BytesIO()
        pq.write_table(table, content, **{"compression": "zstd", **options})
        self.write(path, content.getvalue())

    def look(self, path: str) -> tuple[int, float] | None:
        """(bytes, seconds since 1970 when it was written) of a file; None where there is none."""
        try:
            if self.folder:
                found = self._local(path).stat()
                return found.st_size, found.st_mtime
            place = self._remote(path)
            return int(self.files.size(place)), float(self.files.modified(place).timestamp())
        except FileNotFoundError:
            return None

    def remove(self, paths: Sequence[str]) -> None:
        """What is gone already is fine. A folder of this machine goes with the last that lies in it."""
        for path in paths if self.folder else ():
            self._local(path).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # others lie there, or it has gone
                self._local(path).parent.rmdir()
        if not self.folder and paths:
            with contextlib.suppress(FileNotFoundError):
                self.files.rm([self._remote(path) for path in paths])

    @contextlib.contextmanager
    def file(self, path: str) -> Iterator[Path]:
        """A file of this machine with the content, for as long as it is needed. Raises InlierError without one."""
        if self.folder:
            if not self._local(path).is_file():
                raise InlierError(f"{self.place}/{path}: is not in the store any more")
            yield self._local(path)
            return
        content = self.read(path)
        if content is None:
            raise InlierError(f"{self.place}/{path}: is not in the store any more")
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / PurePosixPath(path).name
            local.write_bytes(content)
            yield local

    def _local(self, path: str) -> Path:
        assert self.folder is not None
        return self.folder / path

    def _remote(self, path: str) -> str:
        return f"{self.root}/{path}"
