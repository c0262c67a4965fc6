"""One file = named tensors + a JSON header, read and written safely.

The format is safetensors; the header is the single metadata entry "inlier" and carries a SHA-256 of the tensors. No
pickle is read or written, and loading runs no code from the file.
"""

import contextlib
import csv
import errno
import hashlib
import io
import json
import logging
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inlier.errors import ArtifactError, InlierError

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("inlier")
FORMAT = 1
EXPORTED = (".onnx", ".xml")  # a model is read by what its name ends in
TEMPORARY = ".inlier-"  # what unfinished files are called, and what a kill -9 leaves
MOUNTS = Path("/proc/self/mountinfo")
REMEDY = "copy it again, or train it anew"
NO_FLUSHING = (errno.EINVAL, errno.EBADF, errno.ENOTSUP)  # from file systems that cannot flush a folder, or anything


def write(path: str | os.PathLike[str], tensors: Mapping[str, "Tensor"], header: Mapping[str, Any]) -> None:
    """Write a file whole or not at all, as `write_bytes` does."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    data = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    content = {"format": FORMAT, **header}
    text = json.dumps({**content, "sha256": _digest(content, data)}, ensure_ascii=False)
    # names of other bytes than UTF-8 hold surrogates, which JSON can escape
    metadata = {"inlier": text.encode(errors="backslashreplace").decode()}

    def fill(file: Path) -> None:
        try:
            save_file(data, file, metadata=metadata)
        except SafetensorError as error:  # a full disk, for one
            raise OSError(str(error)) from error

    write_file(path, fill)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """`write_file` of what is in the memory."""
    write_file(path, lambda file: file.write_bytes(content))


def write_table(path: str | os.PathLike[str], columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """`write_bytes` of a CSV table, in UTF-8; bytes in names that are no text are escaped."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *rows])
    write_bytes(path, text.getvalue().encode(errors="backslashreplace"))


def read_text(path: Path) -> str:
    """A text that somebody wrote, in UTF-8, with a mark at its start or without. Raises InlierError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if text.count("\0") > len(text) / 4:  # of UTF-16 half of the bytes, where it starts with no mark
            raise InlierError(f"{path}: is no text in UTF-8 but seems to be UTF-16; save it as UTF-8")
        return text
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InlierError(
            f"{path}: is no text in UTF-8 (line {line} holds the byte 0x{error.object[error.start]:02x}); save it as "
            "UTF-8"
        ) from None
    except OSError as error:
        raise InlierError(f"{path}: cannot be read ({error.strerror or error})") from None


def check_name(path: str | os.PathLike[str]) -> None:
    """Raise ArtifactError for a name by which a model would be taken for an exported one."""
    if Path(path).suffix.lower() in EXPORTED:
        raise ArtifactError(f"{path}: is what exported models are called; choose a name that ends in .inlier")


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise ArtifactError now if `write(path, ...)` would be refused, before hours of training.

    Also for a device or a pipe: writing puts a new file in the place of what is there. Nothing is left behind: what
    else is wrong may become known before anything is written.
    """
    path = Path(path)
    made: list[Path] = []
    try:
        target = _target(path)
        blocked = next((parent for parent in target.parents if parent.exists() and not parent.is_dir()), None)
        if blocked:
            raise ArtifactError(f"{path}: cannot be written, {blocked} is a file and not a folder")
        with contextlib.suppress(FileNotFoundError):
            os.stat(target)  # a name that is too long, for one
        if target.exists() and not target.is_file():
            kind = "is a folder" if target.is_dir() else "is a device or a pipe, not a file"
            raise ArtifactError(f"{path}: {kind}; give the name of a file")
        if _is_mounted(target):
            raise ArtifactError(
                f"{path}: is mounted by itself, as containers do with single files, and cannot be replaced as a whole; "
                "mount its folder instead"
            )
        made = [parent for parent in target.parents if not parent.exists()]
        target.parent.mkdir(parents=True, exist_ok=True)
        _new_file(target.parent, 0o666).unlink()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        with contextlib.suppress(OSError):  # another process has put something there
            for folder in made:
                folder.rmdir()


def write_file(path: str | os.PathLike[str], fill: Callable[[Path], Any]) -> None:
    """Write a file whole or not at all: under another name beside it, flushed to disk, then renamed.

    Whatever goes wrong, an older file stays whole. Its mode is kept, a link stays a link, `~` is the home folder. fill:
    writes the other one. Raises ArtifactError if the disk refuses.
    """
    target = _target(Path(path))
    temporary = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        old = target.stat() if target.exists() else None
        temporary = _new_file(target.parent, 0o666 if old is None else 0o600)
        mode = temporary.stat().st_mode if old is None else old.st_mode
        fill(temporary)  # may put another file there, of another mode
        _flush(temporary)
        if old is not None and hasattr(os, "chown"):
            with contextlib.suppress(OSError):  # only root may give files away
                os.chown(temporary, old.st_uid, old.st_gid)
        os.chmod(temporary, stat.S_IMODE(mode))
        os.replace(temporary, target)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written ({error.strerror or error}); nothing was changed") from error
    finally:
        if temporary:
            with contextlib.suppress(FileNotFoundError):  # renamed: all went well
                os.unlink(temporary)
    try:
        _flush(target.parent)
    except OSError as error:  # the new file is there all the same
        log.warning("%s: is written, but may not outlast a power cut now (%s)", path, error.strerror or error)


def _target(path: Path) -> Path:
    """The file that is replaced: what a link points to."""
    return Path(os.path.realpath(path.expanduser()))


def _new_file(folder: Path, mode: int) -> Path:
    """A new empty file, hidden, whose name is short whatever it is for. The system applies the process's umask."""
    path = folder / f"{TEMPORARY}{secrets.token_hex(8)}.tmp"
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode))
    return path


def _is_mounted(path: Path) -> bool:
    """Nothing can be renamed over a file that is mounted by itself."""
    if not MOUNTS.is_file():
        return os.path.ismount(path)
    place = re.sub(rb"[ \t\n\\]", lambda found: b"\\%03o" % found[0][0], os.fsencode(path))
    return any(line.split(b" ")[4] == place for line in MOUNTS.read_bytes().split(b"\n") if line)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    """(tensors, header) of an artifact. Raises ArtifactError for a file that is missing, foreign, damaged or newer."""
    return _read(Path(path))


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The header alone: quick, whatever the size, but nothing is checked against the checksum. Raises ArtifactError."""
    return _read(Path(path), header_only=True)[1]


def _read(path: Path, header_only: bool = False) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    from safetensors import safe_open

    path = path.expanduser()
    check_is_file(path)
    try:
        with path.open("rb") as source:
            start = source.read(9)
            # a safetensors file starts with eight bytes of length, which may be anything, and a brace
            if start[8:] != b"{" and start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
                raise ArtifactError(f"{path}: is a pickle (PyTorch) file. inlier never opens those: they can run code")
            with safe_open(_utf8(path, source.fileno()), framework="pt") as file:
                header = _header(path, (file.metadata() or {}).get("inlier"))
                if header_only:
                    return {}, header
                # copies: a tensor of safetensors is a window into the file, and changes when the file does
                tensors = {name: file.get_tensor(name).clone() for name in sorted(file.keys())}
        if header.pop("sha256", None) != _digest(header, tensors):
            raise ArtifactError(f"{path}: is damaged, its content does not match its checksum; {REMEDY}")
        return tensors, header
    except ArtifactError:
        raise
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # the readers of a damaged file raise all kinds
        raise ArtifactError(
            f"{path}: is not a whole inlier model; it is damaged, cut short or of another kind: {REMEDY}"
        ) from error


def check_is_file(path: Path) -> None:
    """Raise ArtifactError for what cannot be a model file, as nothing is there or a folder is."""
    if path.is_dir():
        raise ArtifactError(f"{path}: is a folder, not a model file")
    if not path.is_file():
        raise ArtifactError(f"{path}: no such model file")


def _header(path: Path, text: str | None) -> dict[str, Any]:
    if text is None:
        raise ArtifactError(f"{path}: is a safetensors file, but not one that inlier wrote")
    header: dict[str, Any] = {**json.loads(text)}
    if type(header["format"]) is not int:
        raise TypeError("a format is a whole number")
    if header["format"] > FORMAT:
        raise ArtifactError(
            f"{path}: has format {header['format']}, this inlier reads up to {FORMAT}; "
            f"it was written by inlier {header.get('library', '(unknown)')}: please upgrade"
        )
    return header


def _utf8(path: Path, number: int) -> str:
    """The path, or where it is no UTF-8, which safetensors cannot open, another one of the open file `number`."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return f"/dev/fd/{number}"
    return os.fspath(path)


def _digest(header: Mapping[str, Any], tensors: Mapping[str, "Tensor"]) -> str:
    import torch

    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders; the rename is durable there once the file is
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_FLUSHING:
            raise
    finally:
        os.close(handle)
