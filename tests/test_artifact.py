"""The model file is read whole or not at all, and writing never harms an older one."""

import json
import os
import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from inlier import artifact
from inlier.artifact import ArtifactError

TENSORS = {"a": torch.arange(3000.0), "b": torch.eye(3, dtype=torch.float16), "empty": torch.zeros(0)}


@pytest.fixture
def path(tmp_path):
    artifact.write(tmp_path / "m.inlier", TENSORS, {"name": "Prüfling"})
    return tmp_path / "m.inlier"


def test_what_is_written_is_read(path):
    tensors, header = artifact.read(path)
    assert header["name"] == "Prüfling" and header["format"] == artifact.FORMAT
    assert set(tensors) == set(TENSORS) and all(torch.equal(tensors[k], v) for k, v in TENSORS.items())


def test_cut_at_every_hundred_bytes(path, tmp_path):
    whole = path.read_bytes()
    for end in range(0, len(whole) - 1, 100):
        (tmp_path / "cut.inlier").write_bytes(whole[:end])
        with pytest.raises(ArtifactError, match="cut.inlier"):
            artifact.read(tmp_path / "cut.inlier")


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path):
    """0x4B50 bytes of header: the file starts with PK, as a zip does."""
    for padding in range(0, 40_000, 7):
        if len(json.dumps({"x": "a" * padding})) > 18_500:
            break
    for extra in range(padding, padding + 800):
        artifact.write(tmp_path / "m", {}, {"x": "a" * extra})
        if (tmp_path / "m").read_bytes()[:2] == b"PK":
            break
    assert (tmp_path / "m").read_bytes()[:2] == b"PK"
    assert artifact.read(tmp_path / "m")[1]["x"] == "a" * extra


def test_a_changed_header_is_noticed(path):
    path.write_bytes(path.read_bytes().replace("Prüfling".encode(), "Prüfl1ng".encode()))
    with pytest.raises(ArtifactError, match="checksum"):
        artifact.read(path)


def test_texts_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    artifact.write_bytes(tmp_path / "a" / "r.json", b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(ArtifactError, match="No space left"):
        artifact.write_bytes(tmp_path / "a" / "r.json", b"new")
    assert (tmp_path / "a" / "r.json").read_text() == "old" and os.listdir(tmp_path / "a") == ["r.json"]


def test_one_flipped_bit_is_noticed(path):
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="checksum"):
        artifact.read(path)


def test_pickles_are_refused_unopened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    for name, write in {"p": lambda f: pickle.dump(Bomb(), f), "z": lambda f: torch.save(Bomb(), f)}.items():
        with open(tmp_path / name, "wb") as file:
            write(file)
        with pytest.raises(ArtifactError, match="pickle"):
            artifact.read(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_foreign_safetensors_newer_formats_and_folders(path, tmp_path):
    save_file({"x": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ArtifactError, match="not one that inlier wrote"):
        artifact.read(tmp_path / "foreign.safetensors")
    save_file(
        {"x": torch.zeros(2)}, tmp_path / "new", metadata={"inlier": json.dumps({"format": 99, "library": "9.0"})}
    )
    with pytest.raises(ArtifactError, match=r"format 99.*written by inlier 9.0.*upgrade"):
        artifact.read(tmp_path / "new")
    with pytest.raises(ArtifactError, match="is a folder"):
        artifact.read(tmp_path)


def test_killed_while_writing_leaves_the_old_file(path):
    """Kill -9 at random moments of a loop that overwrites the file: what lies there is always whole."""
    code = f"""
import torch
from inlier import artifact
print("ready", flush=True)
n = 0
while True:
    n += 1
    artifact.write({str(path)!r}, {{"a": torch.full((2_000_000,), float(n))}}, {{"n": n}})
"""
    for wait in (0.05, 0.13, 0.31):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        process.stdout.readline()
        try:
            process.wait(wait)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        tensors, header = artifact.read(path)
        assert "n" not in header or (tensors["a"] == header["n"]).all()


def test_a_full_disk_is_an_error_and_changes_nothing(path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    before = path.read_bytes()
    with pytest.raises(ArtifactError, match="No space left on device"):
        artifact.write(path, {"a": torch.ones(9)}, {})
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_an_unwritable_place_is_known_before_training(tmp_path):
    artifact.check_writable(tmp_path / "new folder" / "m.inlier")
    with pytest.raises(ArtifactError, match="is a folder"):
        artifact.check_writable(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="cannot be written, .*file is a file and not a folder") as error:
        artifact.check_writable(tmp_path / "file" / "new" / "m.inlier")
    assert error.value.__cause__ is None  # wrong use, not a disk that refuses
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArtifactError, match="is a device or a pipe"):
        artifact.check_writable(tmp_path / "pipe")


def test_the_header_can_be_read_alone(path):
    header = artifact.read_header(path)
    assert header.pop("sha256") and header == artifact.read(path)[1]
