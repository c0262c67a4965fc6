"""An exported model gives the same verdicts, or is not written."""

import hashlib
import itertools
import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

import inlier
from conftest import part, write_dataset
from inlier import ArtifactError, ImageError, InlierError, artifact, load, open_dataset
from inlier.bench import profile
from inlier.data.images import decode_image, encoded, read_image
from inlier.data.region import Region
from inlier.methods.diad.sampler import noise_of
from inlier.runtime import export as exporting
from inlier.runtime import graph, openvino
from inlier.runtime import load as loading
from inlier.runtime.backward import with_backward
from inlier.runtime.export import trace
from inlier.runtime.onnx import OnnxRuntime
from inlier.runtime.openvino import OpenvinoRuntime
from inlier.runtime.parity import TOLERANCE, Parity, differs
from inlier.runtime.protobuf import pruned
from test_contract import every_method, short

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}
SIMPLER = {  # the graph holds the denoiser once for each step
    "diad": {
        "variant": "ldm",
        "autoencoder_kind": "tiny",
        "autoencoder_channels": (8, 8, 8, 8),
        "autoencoder_layers": 1,
        "channels": (16, 16, 16),
        "ddim_steps": 1,
    }
}
ROI = np.zeros((64, 64), bool)
ROI[8:56, 4:60] = True


@pytest.fixture(scope="module", autouse=True)
def traced_once():
    """Tracing is most of an export's time: a network with the same weights and inputs is traced once."""
    known = {}

    def once(g):
        digest = hashlib.sha256(type(g.inner).__module__.encode())
        for name, tensor in [*g.inner.named_parameters(), *g.inner.named_buffers()]:
            digest.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
        key = digest.digest(), g.described
        if key not in known:
            known[key] = trace(g)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "trace", once)
        yield


@pytest.fixture(scope="session")
def exported(plates, tmp_path_factory):
    """(method, runtime) -> (detector, file)."""
    folder = tmp_path_factory.mktemp("exported")

    class Exported(dict):
        def __missing__(self, key):
            name, runtime = key
            known = next((value[0] for (other, _), value in self.items() if other == name), None)
            detector = known or short(name, **SIMPLER.get(name, {})).fit(plates, roi=ROI)
            file = folder / f"{name}{SUFFIXES[runtime]}"
            detector.export(file, check=plates)
            self[key] = detector, file
            return self[key]

    return Exported()


@pytest.fixture(scope="session")
def pictures():
    rng = np.random.default_rng(5)
    return [np.asarray(part(rng, defect=bool(i % 2))[0].convert("RGB")) for i in range(5)]


def both(exported, name, runtime):
    detector, file = exported[name, runtime]
    return detector, load(file)


runtimes = pytest.mark.parametrize("runtime", SUFFIXES)


@every_method
def test_an_exported_model_judges_like_the_detector(exported, pictures, name):
    """One test a method, as tracing the network is most of its time."""
    for runtime in SUFFIXES:
        detector, model = both(exported, name, runtime)
        scores_maps_and_verdicts_are_those_of_the_detector(detector, model, pictures)
        scores_alone_are_the_same_and_their_graph_has_nothing_else(detector, model, pictures)
        what_lies_outside_the_region_changes_nothing(model)
        the_file_says_what_the_model_said_and_how_it_differs(detector, model)


def scores_maps_and_verdicts_are_those_of_the_detector(detector, model, pictures):
    for ours, theirs in zip(detector.predict(pictures), model.predict(pictures), strict=True):
        assert theirs.verdict == ours.verdict
        assert theirs.score == pytest.approx(ours.score, rel=1e-3, abs=1e-6)
        assert theirs.p_value == pytest.approx(ours.p_value)
        size = np.nanmax(np.abs(ours.map))
        np.testing.assert_allclose(theirs.map, ours.map, atol=(0.1 if detector.maps_jump else 1e-3) * size)
        if ours.reconstruction is not None:
            np.testing.assert_allclose(theirs.reconstruction.astype(int), ours.reconstruction, atol=1)  # 8 bit


def scores_alone_are_the_same_and_their_graph_has_nothing_else(detector, model, pictures):
    alone = [p.score for p in model.predict(pictures, maps=False)]
    assert alone == pytest.approx([p.score for p in model.predict(pictures)], rel=1e-6)
    if isinstance(model.runtime_, OnnxRuntime):
        content = model.runtime_.path.read_bytes()
        whole, ours = onnx.load_from_string(content), onnx.load_from_string(pruned(content, ["scores"]))
        inputs = [one.name for one in whole.graph.input]
        theirs = onnx.utils.Extractor(whole).extract_model(inputs, ["scores"])
        assert [node.output for node in ours.graph.node] == [node.output for node in theirs.graph.node]
        if detector.maps_cost_extra:
            assert len(ours.graph.node) < len(whole.graph.node) / 2


def what_lies_outside_the_region_changes_nothing(model):
    picture = np.asarray(part(np.random.default_rng(9))[0].convert("RGB"))
    other = np.where(ROI[..., None], picture, 255 - picture)
    one, two = model.predict([picture, other])
    assert one.score == two.score
    np.testing.assert_array_equal(one.map, two.map)


def the_file_says_what_the_model_said_and_how_it_differs(detector, model):
    told, known = model.header(), ("method", "preset", "seed", "categories", "data", "weights")
    assert {key: told[key] for key in known} == {key: detector.header()[key] for key in known}
    for capability in ("log_maps", "repaints", "maps_cost_extra"):
        assert getattr(model, capability) == getattr(detector, capability)
    assert told["parity"]["flips"] == 0
    assert told["parity"]["score"] <= TOLERANCE["f32"]
    assert np.array_equal(model.regions_[""].mask, ROI)
    assert len(model.calibration_) == len(detector.calibration_)


@runtimes
def test_any_number_of_pictures_in_a_batch_gives_the_same(exported, pictures, runtime):
    _, model = both(exported, "padim", runtime)
    alone = [model.inspect(picture).score for picture in pictures]
    together = [p.score for p in model.predict(pictures, batch_size=5)]
    np.testing.assert_allclose(together, alone, rtol=1e-5)


@runtimes
def test_a_renewed_calibration_is_kept_in_the_file(exported, tmp_path, runtime):
    _, file = exported["padim", runtime]
    model = load(file)
    rng = np.random.default_rng(11)
    model.calibrate([part(rng)[0] for _ in range(7)])
    again = tmp_path / f"again{SUFFIXES[runtime]}"
    model.save(again)
    np.testing.assert_array_equal(load(again).calibration_.scores, model.calibration_.scores)
    picture = part(rng)[0]
    assert load(again).inspect(picture).score == model.inspect(picture).score


def test_a_split_calibration_is_scored_anew_by_the_runtime_that_will_judge(exported):
    detector, model = both(exported, "simplenet", "onnx")
    assert model.calibration_.kind == "split"
    np.testing.assert_allclose(model.calibration_.scores, detector.calibration_.scores, rtol=1e-3)
    assert not np.array_equal(model.calibration_.scores, detector.calibration_.scores)  # another runtime's last digits
    np.testing.assert_array_equal(model.calibration_.groups, detector.calibration_.groups)


def test_bytes_of_a_camera_are_judged_like_the_picture(plates, tmp_path):
    detector = short("padim").fit(plates)
    detector.export(tmp_path / "bytes.onnx", pixels="uint8")
    import onnxruntime

    picture = np.asarray(part(np.random.default_rng(3))[0].convert("RGB"))
    session = onnxruntime.InferenceSession(tmp_path / "bytes.onnx")
    scores, maps = session.run(None, {"images": picture[None]})
    assert scores[0] == pytest.approx(detector.inspect(picture).score, rel=1e-4)
    assert maps.shape == (1, 64, 64)
    model = load(tmp_path / "bytes.onnx")
    assert model.inspect(picture).score == pytest.approx(scores[0], rel=1e-6)
    deep = (picture[..., 0].astype(np.uint16) << 8) + 77
    with pytest.raises(ImageError, match="exported for pictures of 8 bit"):
        model.inspect(deep)
    one, two, three = model.predict([picture, deep, picture], errors="keep")
    assert one.score == three.score and "image 1: has more than 8 bit" in two.error


def test_good_pictures_that_the_model_keeps_stand_in_for_data(plates, tmp_path):
    model, file = tmp_path / "m.inlier", tmp_path / "m.onnx"
    sources = open_dataset(plates).train
    arrays = [np.asarray(read_image(sample.source)) for sample in sources[:8]]
    short("padim").fit(arrays, keep=2).save(model)
    assert [decode_image(file, "kept").size for _, file in load(model).kept_] == 2 * [(64, 64)]
    short("padim").fit(plates, keep=3).save(model)
    detector = load(model)
    assert [file for _, file in detector.kept_] == [sources[i].source.read_bytes() for i in (0, 8, 15)]  # of 16
    parity = detector.export(file, precision="int8", force=True)
    assert parity.pictures == 3 and "that the model kept" in parity.source and parity.flips is not None


def test_what_judges_differently_is_not_written_and_the_first_wrong_tensor_is_named(plates, tmp_path, monkeypatch):
    detector = short("padim").fit(plates)

    def broken(g):
        program = trace(g)
        initializer = next(i for i in program.model_proto.graph.initializer if len(i.dims) == 4)
        file = program.model_proto
        values = np.frombuffer(initializer.raw_data, np.float32) * 1.5
        model = type(file)()
        model.CopyFrom(file)
        next(i for i in model.graph.initializer if i.name == initializer.name).raw_data = values.tobytes()

        class Broken:
            model_proto, exported_program = model, program.exported_program

        return Broken

    monkeypatch.setattr(exporting, "trace", broken)
    with pytest.raises(InlierError, match=r"judges differently.*first tensor that differs is 'conv2d"):
        detector.export(tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()
    parity = detector.export(tmp_path / "m.onnx", force=True)
    assert parity.score > TOLERANCE["f32"]
    assert load(tmp_path / "m.onnx").header()["parity"]["score"] == parity.score


@runtimes
@pytest.mark.parametrize("damage", ["graph", "header", "cut"])
def test_a_changed_file_is_refused(exported, tmp_path, damage, runtime):
    content = bytearray(exported["padim", "onnx"][1].read_bytes())
    if damage == "graph":
        content[len(content) // 3] ^= 1
    elif damage == "header":
        content[-200] = ord("!")
    else:
        content = content[: len(content) // 2]
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ArtifactError):
        load(tmp_path / "m.onnx", runtime=runtime)


@runtimes
def test_a_model_does_not_change_with_its_file(exported, pictures, tmp_path, runtime):
    model = load(exported["padim", runtime][1])
    file = tmp_path / f"m{SUFFIXES[runtime]}"
    model.save(file)
    copied, true = load(file), model.score_samples(pictures)
    for written in tmp_path.iterdir():
        with written.open("r+b") as content:
            content.write(bytes(written.stat().st_size))
            content.truncate(100)
    np.testing.assert_array_equal(copied.score_samples(pictures), true)


@runtimes
def test_a_model_is_saved_as_what_it_is(exported, tmp_path, runtime):
    model = load(exported["padim", runtime][1])
    other = tmp_path / f"m{SUFFIXES['openvino' if runtime == 'onnx' else 'onnx']}"
    for path in (other, tmp_path / "m.inlier"):
        with pytest.raises(InlierError, match=rf"{path.name}: "):
            model.save(path)
    assert not list(tmp_path.iterdir())


@runtimes
def test_a_model_can_be_pickled(exported, pictures, runtime):
    model = load(exported["padim", runtime][1])
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.score_samples(pictures), model.score_samples(pictures))
    assert again.inspect(pictures[0]).threshold == model.inspect(pictures[0]).threshold


@runtimes
def test_threads_may_share_a_model(exported, pictures, runtime):
    model = load(exported["padim", runtime][1])
    true = [model.inspect(picture).score for picture in pictures]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda i: model.inspect(pictures[i % 5]).score, range(200)))
    finally:
        sys.setswitchinterval(before)
    assert found == [true[i % 5] for i in range(200)]


def test_what_cannot_be_written_leaves_the_model_of_before(exported, pictures, tmp_path, monkeypatch):
    old, new = (load(exported[name, "openvino"][1]) for name in ("padim", "simplenet"))
    old.save(tmp_path / "m.xml")
    write = artifact.write_bytes

    def full(path, content):
        if path.suffix == ".xml":
            raise ArtifactError("the disk is full")
        write(path, content)

    monkeypatch.setattr(artifact, "write_bytes", full)
    with pytest.raises(ArtifactError, match="the disk is full"):
        new.save(tmp_path / "m.xml")
    assert load(tmp_path / "m.xml").inspect(pictures[0]).score == old.inspect(pictures[0]).score


RING = ROI.copy()
RING[20:40, 20:40] = False


@every_method
def test_a_graph_says_whether_a_region_counts_for_its_score(exported, name):
    described = exporting.Exporting(exported[name, "onnx"][0], "float").described
    assert (described.regions, described.whole) == ((False, True) if name == "differnet" else (True, False))


@runtimes
def test_a_region_that_a_graph_cannot_heed_is_refused(plates, pictures, tmp_path, runtime):
    detector, file = short("padim").fit(plates), tmp_path / f"m{SUFFIXES[runtime]}"
    detector.export(file)
    model = load(file)
    model.regions_ = {"": Region(RING)}
    with pytest.raises(InlierError, match="exported without a region of interest"):
        model.calibrate(pictures)
    model.regions_ = detector.regions_ = {"": Region(ROI)}  # a box is cut out before the graph sees anything
    np.testing.assert_allclose(model.score_samples(pictures), detector.score_samples(pictures), rtol=1e-3)


def test_a_model_on_another_device_is_exported_by_a_copy(exported, plates, tmp_path, monkeypatch):
    detector = short("padim").fit(plates)
    monkeypatch.setattr(detector.runtime_, "device", torch.device("meta"))  # no picture could be judged there
    assert detector.export(tmp_path / "m.onnx").score <= TOLERANCE["f32"]


def test_a_program_of_torch_is_compared_with_nothing(exported, plates, tmp_path):
    detector, _ = exported["padim", "onnx"]
    with pytest.raises(InlierError, match="nothing is compared here; leave the pictures out"):
        detector.export(tmp_path / "m.pt2", check=plates)
    assert str(detector.export(tmp_path / "m.pt2")).startswith("written, not compared: ")


def test_weights_are_named_where_they_are_missing_or_given_in_place_of_the_model(exported, tmp_path):
    file = exported["padim", "openvino"][1]
    (tmp_path / "m.xml").write_bytes(file.read_bytes())
    with pytest.raises(ArtifactError, match=r"m\.bin, which holds its weights, must lie beside it"):
        load(tmp_path / "m.xml")
    with pytest.raises(InlierError, match=rf"holds the weights of {file.name}: give that file"):
        load(file.with_suffix(".bin"))


def test_a_device_is_for_torch(exported):
    for runtime in (None, "openvino", "auto"):
        with pytest.raises(InlierError, match="openvino judges on the CPU; a device is for torch alone"):
            load(exported["padim", "openvino"][1], "cuda", runtime=runtime)


@pytest.mark.parametrize("doubt", [None, "0.1", [float("nan"), 1.0], [-0.1, 1.0], [0.1]])
def test_a_doubt_that_no_export_writes_is_refused(exported, tmp_path, doubt):
    file = exported["padim", "openvino"][1]
    model = load(file)
    model.told["doubt"] = doubt
    model.save(tmp_path / "m.xml")
    with pytest.raises(ArtifactError, match="holds no model that inlier"):
        load(tmp_path / "m.xml")


def test_weights_of_another_model_and_another_graph_are_refused(exported, tmp_path):
    _, file = exported["padim", "openvino"]
    (tmp_path / "m.xml").write_bytes(file.read_bytes())
    weights = bytearray(file.with_suffix(".bin").read_bytes())
    weights[len(weights) // 2] ^= 1
    (tmp_path / "m.bin").write_bytes(weights)
    with pytest.raises(ArtifactError, match="not those that belong to it"):
        load(tmp_path / "m.xml")
    (tmp_path / "m.bin").write_bytes(file.with_suffix(".bin").read_bytes())
    assert load(tmp_path / "m.xml").categories_ == ("plate",)
    changed = file.read_bytes().replace(b'precision="FP32"', b'precision="FP16"', 1)
    (tmp_path / "m.xml").write_bytes(changed)
    with pytest.raises(ArtifactError, match="its graph does not match its checksum"):
        load(tmp_path / "m.xml")


def test_a_foreign_graph_is_refused(tmp_path):
    import onnx

    empty = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], []))
    (tmp_path / "m.onnx").write_bytes(empty.SerializeToString())
    with pytest.raises(ArtifactError, match=r"was not written by `inlier export`|no model that"):
        load(tmp_path / "m.onnx")


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_graph_that_is_cut_short_says_what_to_do(exported, tmp_path, runtime):
    whole = exported["padim", "onnx"][1].read_bytes()
    (tmp_path / "m.onnx").write_bytes(whole[: len(whole) // 3])
    with pytest.raises(ArtifactError, match=r"m.onnx: is damaged, cut short or .*; copy it again, or export it anew"):
        load(tmp_path / "m.onnx", runtime=runtime)
    (tmp_path / "f.onnx").mkdir()
    with pytest.raises(ArtifactError, match=r"f.onnx: is a folder, not a model file; .* MODEL PICTURES"):
        load(tmp_path / "f.onnx", runtime=runtime)


def test_auto_takes_a_runtime_that_agrees(exported, pictures, caplog):
    detector, file = exported["padim", "onnx"]
    with caplog.at_level("INFO", "inlier"):
        model = load(file, runtime="auto")
    assert "runtime: " in caplog.text
    assert model.inspect(pictures[0]).score == pytest.approx(detector.inspect(pictures[0]).score, rel=1e-4)
    with pytest.raises(InlierError, match="does not read it"):
        load(file, runtime="torch")


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_what_is_exported_in_memory_is_told_by_the_file_that_was_given(exported, pictures, tmp_path, caplog, runtime):
    exported["padim", "onnx"][0].save(tmp_path / "m.inlier")
    caplog.clear()  # of what a first export says
    with caplog.at_level("INFO", "inlier"):
        model = load(tmp_path / "m.inlier", runtime=runtime)
        model.inspect(pictures[0])
    assert f"{tmp_path / 'm.inlier'} by {runtime}: on 8 drawn pictures" in caplog.text
    assert f"model{SUFFIXES[runtime]}" not in caplog.text and caplog.text.count("promise no false-alarm rate") == 1


def test_auto_takes_no_runtime_whose_scores_are_no_numbers(exported, monkeypatch, caplog):
    measured = loading._measured

    def broken(runtime, images):
        scores, seconds = measured(runtime, images)
        return (scores, seconds) if isinstance(runtime, OnnxRuntime) else (np.nan * scores, 0.0)

    monkeypatch.setattr(loading, "_measured", broken)
    assert isinstance(load(exported["padim", "onnx"][1], runtime="auto").runtime_, OnnxRuntime)
    assert "openvino is not taken: its scores differ" in caplog.text


def test_auto_says_why_no_runtime_can_judge(exported, tmp_path):
    exported["padim", "onnx"][0].save(tmp_path / "m.inlier")
    with pytest.raises(InlierError, match=r"no runtime here can judge: torch is not taken: device 'cuda:99' cannot be"):
        load(tmp_path / "m.inlier", "cuda:99", runtime="auto")


BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "safetensors", "huggingface_hub"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Blocked())
sys.argv[0] = "inlier"
from inlier.cli import main
main()
"""


@runtimes
def test_an_environment_without_torch_judges_evaluates_and_calibrates(exported, plates, tmp_path, runtime):
    _, file = exported["padim", runtime]

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-c", BLOCKED, *map(str, arguments)], capture_output=True, text=True, check=True
        ).stdout

    lines = run("predict", file, plates, "--jsonl", "-").splitlines()
    detector, _ = exported["padim", runtime]
    for line in lines:
        told = json.loads(line)
        assert told["score"] == pytest.approx(detector.inspect(told["path"]).score, rel=1e-4)
    assert "image AUROC" in run("evaluate", file, plates)
    run("calibrate", file, plates / "plate" / "test" / "good", "--out", tmp_path / f"new{SUFFIXES[runtime]}")


INTERRUPTED = """
import os, signal, sys
from inlier import load

first, second = load(sys.argv[1]), load(sys.argv[1])
first.score_samples(sys.argv[2]), second.score_samples(sys.argv[2])
del first
del second  # in the order in which they came
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    sys.exit(7)
"""


@runtimes
def test_ctrl_c_after_models_were_dropped_is_an_interrupt_and_no_crash(exported, plates, runtime):
    _, file = exported["padim", runtime]
    picture = plates / "plate" / "test" / "good" / "000.png"
    assert subprocess.run([sys.executable, "-c", INTERRUPTED, file, picture]).returncode == 7


def test_a_gradient_of_plain_operations_is_that_of_torch():
    torch.manual_seed(0)
    layers = [
        torch.nn.Conv2d(3, 8, 3, stride=2, padding=1),
        torch.nn.ReLU6(),
        torch.nn.Conv2d(8, 8, 3, padding=1, groups=8),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 12, 3, padding=2, dilation=2, groups=2),
        torch.nn.Hardtanh(-0.5, 0.7),
        torch.nn.Conv2d(12, 6, (1, 3), stride=(1, 2), padding=(0, 1)),
        torch.nn.Conv2d(6, 4, 2),
    ]
    network = torch.nn.Sequential(*layers).requires_grad_(False)

    def gradient(images):
        images = images.requires_grad_()
        return torch.autograd.grad(network(images).square().sum(), images)[0]

    images = 12 * torch.randn(5, 3, 17, 22)
    found = with_backward(gradient, torch.rand(2, 3, 17, 22))(images)
    torch.testing.assert_close(found, gradient(images.clone()), rtol=1e-4, atol=1e-5)
    assert (network[:2](images) == 6).float().mean() > 0.05  # bounds are met


def test_noise_without_torch_is_the_noise_with_it():
    images = np.random.default_rng(0).random((2, 3, 8, 8), np.float32)
    for shape in ((2, 4, 4, 4), (2, 3, 3, 3), (2, 8, 1, 1)):
        ours = graph.noise_of(images, shape)
        np.testing.assert_allclose(ours, noise_of(torch.from_numpy(images), shape), atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "m.bin"}, "told by the suffix"),
        ({"path": "m.xml", "to": "onnx"}, "ends in .onnx"),
        ({"path": "m.onnx", "precision": "bf16"}, r"is exported with f32, f16, int8; bf16 is for openvino \(--to\)"),
        ({"path": "m.onnx", "precision": "int8"}, "int8 needs good pictures"),
        ({"path": "m.onnx", "pixels": "float64"}, "must be one of float, uint8"),
    ],
)
def test_wrong_wishes_are_told_before_anything_is_traced(exported, tmp_path, options, message):
    detector, _ = exported["padim", "onnx"]
    with pytest.raises(InlierError, match=message):
        detector.export(**{**options, "path": tmp_path / options["path"]})


def test_the_command_exports_and_the_others_take_what_it_wrote(inlier, plates, tmp_path):
    model = tmp_path / "part.inlier"
    short("padim").fit(plates).save(model)
    code, out, err = inlier("export", model, "--check", plates)
    assert code == 0
    assert "12 pictures of" in out
    assert "0 verdicts differ; image AUROC" in out
    assert (out + err).count("verdicts differ") == 1 and (out + err).count("no false-alarm rate below") <= 1
    written = model.with_suffix(".onnx")
    code, out, _ = inlier("predict", written, plates / "plate" / "test" / "dent")
    assert (code, out.count("defect")) == (0, 6)
    code, _, err = inlier("export", written)
    assert code == 2 and "is exported already" in err
    code, out, _ = inlier("profile", written, plates / "plate" / "test" / "good", "--chart", tmp_path / "p.svg")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[2:6]] == [
        ["onnx", "1"], ["onnx", "8"], ["openvino", "1"], ["openvino", "8"],
    ]  # fmt: skip
    assert "<svg" in (tmp_path / "p.svg").read_text()


def test_a_profile_of_the_model_knows_its_backbone_and_the_limit(inlier, plates, tmp_path, monkeypatch):
    monkeypatch.setattr(profile, "REPEATS", 1)
    model = tmp_path / "part.inlier"
    short("padim").fit(plates).save(model)
    code, out, _ = inlier("profile", model, "--runtime", "torch")
    assert code == 0
    assert "beyond the backbone" in out
    assert "G multiply-adds a picture" in out
    assert out.count(" x\n") == 2
    code, _, err = inlier("profile", model, "--chart", tmp_path / "p.png")
    assert code == 2 and "ends in .svg" in err


def test_a_profile_goes_on_after_a_runtime_that_judges_differently(inlier, plates, tmp_path, monkeypatch):
    monkeypatch.setattr(profile, "REPEATS", 1)
    model = tmp_path / "part.inlier"
    short("padim").fit(plates).save(model)
    monkeypatch.setitem(TOLERANCE, "f32", 0.0)
    code, out, err = inlier("profile", model)
    assert code == 0 and out.count("torch") == 2 and "onnx: not measured: " in err and "--force" not in err
    code, _, err = inlier("profile", model, "--runtime", "onnx")
    assert code == 2 and f"{model} by onnx: judges differently from the model" in err


def test_a_profile_knows_which_tiles_are_of_which_picture(plates, monkeypatch):
    monkeypatch.setattr(profile, "REPEATS", 1)
    detector = short("padim", tile=48).fit(plates)
    rng = np.random.default_rng(0)
    sizes = [(64, 64), (48, 48), (48, 96)]
    files = [encoded(rng.integers(0, 256, (*size, 3), np.uint8)) for size in sizes]
    timings = profile.profile(detector, "torch", files)
    assert [t.batch for t in timings] == [1, 8] and all(t.stages["judge"] > 0 for t in timings)


@pytest.mark.parametrize("suffix", SUFFIXES.values())
def test_a_smaller_precision_is_judged_by_its_own_measure(plates, tmp_path, suffix):
    detector = short("simplenet").fit(plates)
    parity = detector.export(tmp_path / f"m{suffix}", precision="f16", check=plates)
    assert TOLERANCE["f32"] < parity.score <= TOLERANCE["f16"]
    assert load(tmp_path / f"m{suffix}").header()["precision"] == "f16"


class Rounded:
    """A runtime whose scores are 2 % too high; it counts what it is asked to compute in full."""

    def __init__(self, runtime):
        self.runtime, self.in_full_for = runtime, 0

    def __call__(self, images, inspected, maps):
        found = self.runtime(images, inspected, maps)
        return found._replace(scores=1.02 * found.scores)

    def in_full(self, images, inspected, maps):
        self.in_full_for += len(images)
        return self.runtime(images, inspected, maps)


@pytest.mark.parametrize("maps", [True, False])
def test_what_rounding_may_move_over_the_threshold_is_computed_in_full(exported, pictures, maps):
    _, model = both(exported, "padim", "openvino")
    true = model.score_samples(pictures)
    threshold = 1.01 * np.sort(true)[1]  # the second lowest is good, but not once it is rounded
    model.runtime_ = rounded = Rounded(model.runtime_)
    model.calibration_ = inlier.calibration.Calibration("split", *np.full((2, 99), threshold, np.float32))

    def verdicts():
        return [p.verdict for p in model.predict(pictures, maps=maps)]

    right = ["defect" if score > threshold else "good" for score in true]
    assert verdicts() != right
    model.doubt = 0.0201, 0.0
    assert verdicts() == right
    assert rounded.in_full_for == sum(abs(1.02 * true / threshold - 1) <= 0.0201) < len(true)


def test_a_calibration_is_of_scores_in_full(exported, plates):
    _, model = both(exported, "padim", "openvino")
    good = sorted((plates / "plate" / "test" / "good").iterdir())
    true = model.calibrate(good).calibration_.scores
    model.runtime_, model.doubt = Rounded(model.runtime_), (0.0201, 0.0)
    np.testing.assert_array_equal(model.calibrate(good).calibration_.scores, true)


def test_bf16_spares_the_first_convolutions_and_knows_how_far_it_moves_scores(plates, tmp_path):
    if not openvino.has_bf16():
        pytest.skip("this processor does not compute in bf16")
    detector = inlier.PaDiM(size=64, taps=(8, 16)).fit(plates)  # EfficientNet-Lite0: stem, depthwise, ...
    parity = detector.export(tmp_path / "m.xml", precision="bf16", check=plates, force=True)
    assert parity.flips == 0
    model = load(tmp_path / "m.xml")
    share, size = model.doubt
    assert TOLERANCE["f32"] < share <= TOLERANCE["bf16"] and size == pytest.approx(parity.size)
    with pytest.raises(InlierError, match="bf16 needs pictures, which show how far rounding moves a score"):
        detector.export(tmp_path / "drawn.xml", precision="bf16", force=True)
    model.save(tmp_path / "again.xml")
    for name in ("m.xml", "again.xml"):
        layers = ElementTree.parse(tmp_path / name).iter("layer")
        kinds = [layer.get("type") for layer in layers if layer.find("rt_info/attribute[@name='precise']") is not None]
        assert sorted(kinds) == ["Add", "Add", "Convolution", "GroupConvolution"]
        assert load(tmp_path / name).doubt == model.doubt


def test_a_processor_without_bf16_computes_with_float32(exported, plates, tmp_path, monkeypatch):
    model = load(exported["padim", "openvino"][1])
    model.told["precision"] = "bf16"
    model.save(tmp_path / "m.xml")
    without = SimpleNamespace(get_property=lambda device, name: ["FP32"], read_model=openvino.core().read_model)
    monkeypatch.setattr(openvino, "core", lambda: without)
    assert OpenvinoRuntime(tmp_path / "m.xml")._precision == "f32"
    # nor can it tell how far bf16 moves a score elsewhere
    with pytest.raises(InlierError, match="bf16: this processor does not compute in it"):
        exported["padim", "openvino"][0].export(tmp_path / "m.xml", precision="bf16", check=plates, force=True)


@pytest.mark.parametrize(("after", "passes"), [(0.91, True), (0.896, True), (0.894, False)])
def test_an_export_may_cost_half_a_point_of_auroc_and_no_more(after, passes):
    wrong = Parity(9, "pictures", 0.0, 0.0, 0, (0.9, after)).unexplained("int8", False)
    assert wrong == ([] if passes else ["the AUROC may lose 0.5 points"])


def test_pictures_of_another_part_are_asked_about(plates, tmp_path, caplog):
    detector = short("padim").fit(plates)
    write_dataset(tmp_path / "other", train=2, good=6)
    detector.export(tmp_path / "m.onnx", check=plates)
    assert "of its part" not in caplog.text
    for path in (tmp_path / "other").rglob("test/good/*.png"):
        Image.effect_noise((64, 64), 200).save(path)
    detector.export(tmp_path / "m.onnx", check=tmp_path / "other")
    assert "the model calls 6 of the 6 good ones defects; are they of its part?" in caplog.text


def test_int8_is_quantised_on_good_pictures(plates, tmp_path):
    detector = short("padim").fit(plates)
    parity = detector.export(tmp_path / "m.onnx", precision="int8", check=plates, force=True)
    assert parity.score > TOLERANCE["f32"]
    assert parity.auroc is not None
    plain = detector.export(tmp_path / "f.onnx")
    assert plain.score < parity.score


def test_an_export_tells_its_stages(plates, tmp_path, monkeypatch, caplog):
    detector = short("padim").fit(plates)
    now = itertools.count(0, 10)  # so that everything takes long
    monkeypatch.setattr("inlier.progress.time", SimpleNamespace(monotonic=lambda: next(now)))
    monkeypatch.setattr(exporting, "trace", trace)
    caplog.set_level("INFO", "inlier")
    detector.export(tmp_path / "m.onnx", precision="int8", check=plates, force=True)
    n = len(open_dataset(plates).test)
    stages = [
        "exporting padim to onnx, int8",
        "building the graph",
        "tracing the network: 1 in",
        "converting it for onnx, int8",
        "finding the ranges of values on 16 good pictures",
        f"comparing on {n} pictures of ",
    ]
    told = [next(i for i, line in enumerate(caplog.messages) if line.startswith(stage)) for stage in stages]
    assert told == sorted(told)


def test_int8_leaves_out_what_takes_the_sum_of_layers(plates, tmp_path):
    detector = inlier.PaDiM(size=64, taps=(8, 16)).fit(plates)  # EfficientNet-Lite0: expand, depthwise, project
    detector.export(tmp_path / "m.onnx", precision="int8", check=plates, force=True)
    nodes = onnx.load(tmp_path / "m.onnx").graph.node
    made_by = {name: node.op_type for node in nodes for name in node.output}
    inputs = {n.name: tuple(made_by.get(name) for name in n.input[:2]) for n in nodes if n.op_type == "Conv"}
    rounded = {name for name, (_, weights) in inputs.items() if weights == "DequantizeLinear"}
    assert 2 * len(rounded) > len(inputs) > len(rounded)
    assert {inputs[name][0] for name in rounded} == {"DequantizeLinear"}
    assert {inputs[name][0] for name in inputs.keys() - rounded} <= {"Conv", "Add", "Pad", "Clip", "DequantizeLinear"}
    assert [name in rounded for name in inputs][:3] == [False, False, True]  # stem, depthwise, ...


def test_int8_sees_the_region_of_each_category(tmp_path):
    regions = dict(zip(("left", "right"), np.zeros((2, 64, 64), bool)))
    for name, columns in (("left", slice(32)), ("right", slice(32, None))):
        write_dataset(tmp_path / "parts", category=name, train=8)
        regions[name][:, columns] = True
    detector = short("padim").fit(tmp_path / "parts", roi=regions, keep=4)
    for check, n in ((None, 4), (tmp_path / "parts", 24)):
        parity = detector.export(tmp_path / "m.onnx", precision="int8", check=check, force=True)
        assert parity.pictures == n and np.isfinite(parity.score)


@pytest.mark.parametrize(
    ("found", "is_another"),
    [
        ([1.0, np.inf, np.nan, 1e-3], False),
        ([1.0 + 1e-5, np.inf, np.nan, 1e-3], False),
        ([1.0, np.inf, np.nan, 0.2], True),
        ([1.0, -np.inf, np.nan, 1e-3], True),
        ([1.0, np.inf, 0.0, 1e-3], True),
        ([np.nan, np.inf, np.nan, 1e-3], True),
        ([np.inf, np.inf, np.nan, 1e-3], True),
    ],
)
def test_a_tensor_with_infinite_numbers_is_compared_by_the_others_and_where_they_are(found, is_another):
    truth = np.array([1.0, np.inf, np.nan, 1e-3])
    assert differs(truth, np.array(found), 1e-4) is is_another
