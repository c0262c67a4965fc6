"""One file = named tensors + a JSON header, read and written safely.

The format is safetensors; the header is the single metadata entry "inlier" and carries a SHA-256 of the tensors. No
pickle is read or written, and loading runs no code from the file.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inlier.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1


def write(path: str | os.PathLike[str], tensors: Mapping[str, "Tensor"], header: Mapping[str, Any]) -> None:
    """Write atomically: a temporary file beside `path`, flushed to disk, then renamed over it.

    Whatever goes wrong, an older file at `path` stays whole. Raises ArtifactError if the disk refuses.
    """
    from safetensors.torch import save_file

    path = Path(path)
    data = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    content = {"format": FORMAT, **header}
    text = json.dumps({**content, "sha256": _digest(content, data)}, ensure_ascii=False)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        _allocate(temporary, sum(tensor.nbytes for tensor in data.values()) + 2 * len(text) + 200 * len(data))
        save_file(data, temporary, metadata={"inlier": text})
        _flush(temporary)
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp made it private
        os.replace(temporary, path)
        _flush(path.parent)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written ({error.strerror or error}); nothing was changed") from error
    finally:
        if temporary:
            with contextlib.suppress(FileNotFoundError):  # renamed: all went well
                os.unlink(temporary)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise ArtifactError now if `write(path, ...)` would be refused, before hours of training.

    Also for a device or a pipe: writing puts a new file in the place of what is there.
    """
    path = Path(path)
    try:
        blocked = next((parent for parent in path.parents if parent.exists() and not parent.is_dir()), None)
        if blocked:
            raise ArtifactError(f"{path}: cannot be written, {blocked} is a file and not a folder")
        if path.exists() and not path.is_file():
            kind = "is a folder" if path.is_dir() else "is a device or a pipe, not a file"
            raise ArtifactError(f"{path}: {kind}; give the name of a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written ({error.strerror or error})") from None


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file whole or not at all. Raises ArtifactError if the disk refuses."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            temporary.write_bytes(content)
            os.replace(temporary, path)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written ({error.strerror or error}); nothing was changed") from error


def read(path: str | os.PathLike[str], device: str = "cpu") -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    """(tensors, header) of an artifact. Raises ArtifactError for a file that is missing, foreign, damaged or newer."""
    tensors, header = _read(Path(path), device)
    if header.pop("sha256", None) != _digest(header, dict(sorted(tensors.items()))):
        raise ArtifactError(f"{path}: is damaged; its content does not match its checksum")
    return tensors, header


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The header alone: quick, whatever the size, but nothing is checked against the checksum. Raises ArtifactError."""
    return _read(Path(path), "cpu", header_only=True)[1]


def _read(path: Path, device: str, header_only: bool = False) -> tuple[dict[str, "Tensor"], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ArtifactError(f"{path}: {'is a folder, not a model file' if path.is_dir() else 'no such model file'}")
    try:
        with path.open("rb") as file:
            start = file.read(9)
        # a safetensors file starts with eight bytes of length, which may be anything, and a brace
        if start[8:] != b"{" and start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
            raise ArtifactError(f"{path}: is a pickle (PyTorch) file. inlier never opens those: they can run code")
        with safe_open(path, framework="pt", device=device) as file:
            text = (file.metadata() or {}).get("inlier")
            if text is None:
                raise ArtifactError(f"{path}: is a safetensors file, but not one that inlier wrote")
            header = json.loads(text)
            if header["format"] > FORMAT:
                raise ArtifactError(
                    f"{path}: has format {header['format']}, this inlier reads up to {FORMAT}; "
                    f"it was written by inlier {header.get('library', '(unknown)')}: please upgrade"
                )
            # copies: a tensor of safetensors is a window into the file, and changes when the file does
            tensors = {name: file.get_tensor(name).clone() for name in ([] if header_only else list(file.keys()))}
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (SafetensorError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path}: is not a whole inlier model; it is damaged, cut short or of another kind"
        ) from error
    return tensors, header


def _digest(header: Mapping[str, Any], tensors: Mapping[str, "Tensor"]) -> str:
    import torch

    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        if tensor.numel():
            digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _allocate(path: str, size: int) -> None:
    """Claim the space first: safetensors writes through a memory map, where a full disk would be a crash (SIGBUS)."""
    if hasattr(os, "posix_fallocate"):
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, max(size, 1))


def _flush(path: str | os.PathLike[str]) -> None:
    if os.name == "nt" and Path(path).is_dir():
        return  # Windows opens no folders; the rename is durable there once the file is
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
