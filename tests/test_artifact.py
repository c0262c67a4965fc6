"""The model file is read whole or not at all, and writing never harms an older one."""

import contextlib
import errno
import json
import os
import pickle
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from inlier import artifact, load
from inlier.artifact import ArtifactError
from inlier.bench import stress
from inlier.data.datasets import open_dataset
from inlier.data.region import read_region
from inlier.errors import InlierError
from inlier.methods.diad.checkpoints import read_autoencoder
from inlier.study.parts import read_table

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


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path, monkeypatch):
    """0x4B50 bytes of header: the file starts with PK, as a zip does."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # hundreds of files take a while
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
    # torch is imported once; whatever is killed is a process of its own
    code = f"""
import os, signal, sys, time
import torch
from inlier import artifact
for wait in (0.05, 0.13, 0.31):
    child, n = os.fork(), 0
    while child == 0:
        n += 1
        artifact.write({str(path)!r}, {{"a": torch.full((2_000_000,), float(n))}}, {{"n": n}})
    time.sleep(wait)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print("killed", flush=True)
    sys.stdin.readline()
"""
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": os.environ | {"OMP_NUM_THREADS": "1"}}
    seen = 0
    with subprocess.Popen([sys.executable, "-c", code], text=True, **streams) as process:
        while process.stdout.readline() == "killed\n":
            tensors, header = artifact.read(path)
            assert "n" not in header or (tensors["a"] == header["n"]).all()
            seen += 1
            process.stdin.write("on\n")
            process.stdin.flush()
    assert seen == 3


def test_a_full_disk_is_an_error_and_changes_nothing(path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    before = path.read_bytes()
    with pytest.raises(ArtifactError, match="No space left on device"):
        artifact.write(path, {"a": torch.ones(9)}, {})
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_an_unwritable_place_is_known_before_training(tmp_path):
    artifact.check_writable(tmp_path / "new folder" / "and another" / "m.inlier")
    assert not os.listdir(tmp_path)  # something else may be wrong
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


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


WRITERS = {
    "tensors": lambda path: artifact.write(path, {"a": torch.ones(9)}, {}),
    "bytes": lambda path: artifact.write_bytes(path, b"new"),
}


@pytest.fixture(params=WRITERS)
def write(request):
    return WRITERS[request.param]


def test_what_was_read_is_no_window_into_the_file(path):
    tensors, _ = artifact.read(path)
    with open(path, "r+b") as file:  # as copying another model over it does
        file.write(os.urandom(path.stat().st_size))
    assert all(torch.equal(tensors[name], value) for name, value in TENSORS.items())


def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path, write):
    before = os.umask(0o027)
    try:
        write(tmp_path / "m")
    finally:
        os.umask(before)
    assert mode(tmp_path / "m") == 0o640


def test_writing_changes_nothing_for_other_threads(tmp_path, write, monkeypatch):
    monkeypatch.setattr(os, "umask", lambda _: pytest.fail("the umask belongs to the whole process"))
    write(tmp_path / "m")
    threads = [threading.Thread(target=write, args=[tmp_path / "m"]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.listdir(tmp_path) == ["m"]


def test_replacing_keeps_the_link_and_the_mode(tmp_path, write):
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "model-7"
    target.write_text("old")
    target.chmod(0o604)
    (tmp_path / "m").symlink_to("real/model-7")
    (tmp_path / "new").symlink_to("real/model-8")  # what it points to is not there yet
    for name in ("m", "new"):
        artifact.check_writable(tmp_path / name)
        write(tmp_path / name)
    assert os.readlink(tmp_path / "m") == "real/model-7" and target.read_bytes() != b"old" and mode(target) == 0o604
    assert (tmp_path / "new").is_symlink() and sorted(os.listdir(tmp_path / "real")) == ["model-7", "model-8"]


def test_file_and_folder_are_flushed_to_disk(tmp_path, write, monkeypatch):
    flushed, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(stat.S_ISDIR(os.fstat(handle).st_mode)))
    write(tmp_path / "m")
    assert flushed == [False, True], "first the file, then its name"
    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EIO])
def test_a_folder_that_cannot_be_flushed_is_no_failure(tmp_path, write, monkeypatch, number, caplog):
    def refuse(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    write(tmp_path / "m")
    assert os.listdir(tmp_path) == ["m"]
    assert ("may not outlast a power cut" in caplog.text) == (number == errno.EIO)


def test_no_temporary_name_is_longer_than_the_file_systems_take(tmp_path, write):
    artifact.check_writable(tmp_path / ("x" * 255))
    write(tmp_path / ("x" * 255))
    with pytest.raises(ArtifactError, match="too long"):
        artifact.check_writable(tmp_path / ("x" * 256))
    assert os.listdir(tmp_path) == ["x" * 255]


def test_a_file_that_is_mounted_by_itself_is_known_before_training(tmp_path, monkeypatch):
    (tmp_path / "m 1.inlier").write_text("old")
    (tmp_path / "mounts").write_text(f"36 35 98:0 /m {tmp_path}/m\\0401.inlier rw,noatime - ext4 /dev/sda rw\n")
    monkeypatch.setattr(artifact, "MOUNTS", tmp_path / "mounts")
    artifact.check_writable(tmp_path / "m 2.inlier")
    with pytest.raises(ArtifactError, match="m 1.inlier: is mounted by itself.*mount its folder"):
        artifact.check_writable(tmp_path / "m 1.inlier")


def test_a_folder_or_file_of_any_bytes(tmp_path):
    folder = tmp_path / os.fsdecode(b"pr\xfcf")
    header = {"categories": [folder.name, "Prüfling"]}
    artifact.write(folder / folder.name, TENSORS, header)
    tensors, found = artifact.read(folder / folder.name)
    assert found == {"format": artifact.FORMAT, **header} and torch.equal(tensors["a"], TENSORS["a"])


# -- whatever lies in the file ----------------------------------------------------------------------------------------

WHOLE = bytearray()


def whole(tmp_path_factory):
    if not WHOLE:
        path = tmp_path_factory.mktemp("whole") / "m"
        artifact.write(path, {"a": torch.arange(20.0), "b": torch.zeros(2, 3, dtype=torch.int64)}, {"name": "x"})
        WHOLE.extend(path.read_bytes())
    return bytearray(WHOLE)


def read_as_a_file(data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(data)
    with contextlib.suppress(ArtifactError):  # and nothing else
        artifact.read(path)
    with contextlib.suppress(ArtifactError):
        artifact.read_header(path)


EDITS = st.lists(st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=9)), max_size=5)


@settings(max_examples=100, deadline=None)
@given(EDITS, st.integers(0, 10**6))
def test_damaged_files_are_errors_of_the_artifact(tmp_path_factory, edits, end):
    data = whole(tmp_path_factory)
    for place, new in edits:
        place %= len(data)
        data[place : place + len(new)] = new
    read_as_a_file(data[: len(data) - end % len(data)] if end % 2 else data, tmp_path_factory)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
TENSOR = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F4", "F8_E8M0", "BOOL", "U16", "C64", "X", "I64"]) | JSON,
        "shape": st.lists(st.integers(-1, 2**65), max_size=3) | JSON,
        "data_offsets": st.lists(st.sampled_from([0, 1, 4, 8, 2**63, -1]), min_size=2, max_size=2) | JSON,
    }
)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(st.text(max_size=3), TENSOR | JSON, max_size=2),
    JSON | JSON.map(json.dumps) | st.dictionaries(st.sampled_from(["format", "sha256", "x"]), JSON).map(json.dumps),
    st.none() | st.integers(0, 2**64 - 1),
)
def test_headers_of_nonsense_are_errors_of_the_artifact(tmp_path_factory, tensors, ours, length):
    text = json.dumps(tensors | {"__metadata__": {"inlier": ours}}).encode()
    length = len(text) if length is None else length
    read_as_a_file(length.to_bytes(8, "little") + text + bytes(16), tmp_path_factory)


@pytest.mark.parametrize(
    "ours",
    ["[" * 100_000, '{"format": ' + "9" * 5000 + "}", "[1]", '{"format": true}', '{"format": NaN}', '"x"', "null"],
)
def test_headers_that_once_ended_in_a_traceback(tmp_path, ours):
    save_file({"x": torch.zeros(2)}, tmp_path / "m", metadata={"inlier": ours})
    with pytest.raises(ArtifactError, match="m: is not a whole inlier model"):
        artifact.read(tmp_path / "m")


MODEL = Path(__file__).parent / "models/format1/padim.inlier"


@pytest.mark.parametrize(
    "changes",
    [
        {"method": ["padim"]},
        {"settings": 3},
        {"settings": {"size": "large"}},
        {"settings": {"size": 10**400}},
        {"settings": {"backbone": "resnet18"}},
        {"settings": {"taps": ["no such layer"]}},
        {"settings": {"epsilon": float("nan")}},
        {"preset": None},
        {"seed": "one"},
        {"categories": "plate"},
        {"categories": [1]},
        {"calibration": []},
        {"calibration": {"kind": "guess"}},
        {"weights": None},
        {"data": 5},
        {"calibration.scores": torch.full((4,), float("nan"))},
        {"calibration.scores": torch.ones(2, 2)},
        {"calibration.scores": torch.ones(3)},
        {"calibration.scores": torch.ones(4, dtype=torch.int64)},
        {"calibration.peaks": None},
        {"network.mean": None},
        {"network.mean": torch.zeros(1)},
    ],
    ids=str,
)
def test_models_whose_checksum_is_right_and_whose_content_is_nonsense(tmp_path, changes):
    tensors, header = artifact.read(MODEL)
    for key, value in changes.items():
        part = tensors if "." in key else header
        if value is None and part is tensors:
            del tensors[key]
        else:
            part[key] = value if key != "settings" or not isinstance(value, dict) else header[key] | value
    artifact.write(tmp_path / "m.inlier", tensors, header)
    with pytest.raises(ArtifactError, match=r"m\.inlier: "):
        load(tmp_path / "m.inlier")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path, dtype):
    tensors, header = artifact.read(MODEL)
    weights = tensors["network.mean"].to(dtype)
    weights.view(-1)[-1] = float("nan")
    artifact.write(tmp_path / "m.inlier", tensors | {"network.mean": weights}, header)
    with pytest.raises(ArtifactError, match=r"m\.inlier: mean of its network holds values that are no numbers \(NaN\)"):
        load(tmp_path / "m.inlier")


def toml(path):
    pytest.importorskip("pydantic", reason="needs the extra serve")
    from inlier.serve.config import read_toml

    return read_toml(path)


def autoencoder(config):
    names = ("encoder.down_blocks.0.resnets.0.conv1.weight", "decoder.conv_in.weight")
    save_file({name: torch.zeros(1, 1, 1, 1) for name in names}, config.parent / "diffusion_pytorch_model.safetensors")
    return read_autoencoder(config.parent)


def dagm(table):
    for file in (table.parent.parent / "1.PNG", table.parent / "1_label.PNG"):
        file.touch()
    return open_dataset(table.parents[2])


# of each kind of text that people write: a file's name, what it holds, and who reads it
TEXTS = [
    ("roi.json", '{"width": 4, "height": 4, "polygons": [[[0, 0], [3, 0], [3, 3]]], "part": "Gehäuse"}', read_region),
    ("table.csv", "path,label\nGehäuse.png,good\n", open_dataset),
    ("iad.json", '{"meta": {"prefix": ""}, "train": [{"image_path": "ä.png", "anomaly_class": "OK"}]}', open_dataset),
    ("Class1/Train/Label/Labels.txt", "1\n1 1 1.PNG 0 1_label.PNG ä", dagm),
    ("sheet.csv", "appraiser,part\nJürgen,P001\n", lambda path: list(read_table(path, ["part"]))),
    ("stress.csv", "category,change\nGehäuse,dark\n", stress.read),
    ("station.toml", "# für Halle 3\nstations = []\n", toml),
    ("config.json", '{"norm_num_groups": 1, "name": "für uns"}', autoencoder),
]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
@pytest.mark.parametrize(("name", "text", "read"), TEXTS, ids=[name for name, _, _ in TEXTS])
def test_a_text_in_another_encoding_is_named_with_its_remedy(tmp_path, name, text, read, encoding):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "ä.png").touch()
    path.write_text(text, encoding=encoding)
    line = next(n for n, part in enumerate(text.split("\n"), 1) if not part.isascii()) if encoding == "latin-1" else 1
    said = f"{name}: is no text in UTF-8 \\(line {line} holds the byte 0x[e-f].\\); save it as UTF-8$"
    with pytest.raises(InlierError, match=said):
        read(path)
    path.write_text(text, encoding="utf-8-sig")  # as Windows writes it
    said = ""
    try:
        read(path)
    except InlierError as error:  # as most of these are too short to be useful
        said = str(error)
    assert "UTF-8" not in said


def test_texts_of_people_are_read_in_one_place():
    """Else each reader has to know what to say of another encoding. Of ours: what the system, a package or we wrote."""
    ours = {"artifact", "machine", "methods.__init__", "serve.page", "serve.models", "data.datasets.elpv"}
    root = Path(artifact.__file__).parent
    readers = {
        ".".join(file.relative_to(root).with_suffix("").parts)
        for file in root.rglob("*.py")
        if re.search(r"(?<!artifact)\.read_text\(|open\(encoding", file.read_text(encoding="utf-8"))
    }
    assert readers <= ours
