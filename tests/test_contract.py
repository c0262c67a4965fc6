"""What every method promises, checked on every method that exists, with tiny settings."""

import contextlib
import copy
import itertools
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone

import inlier
from conftest import part
from inlier import ArtifactError, InlierError, load, methods

# Small and quick variants of the light presets; a method that is not listed is tested as it is.
TINY = {
    "differnet": {"size": 64, "taps": (4, 8), "width": 32, "blocks": 2, "batch_size": 8, "steps": 40, "lr": 3e-3},
    # noised halfway only: from pure noise no network learns to paint a part in seconds
    "diad": {
        "size": 64,
        "taps": (4, 8),
        "autoencoder": None,
        "judge": "cosine",
        "precision": "fp32",
        "autoencoder_kind": "kl",
        "autoencoder_channels": (4, 8, 16, 16),
        "autoencoder_groups": 4,
        "latent_channels": 8,
        "autoencoder_steps": 20,
        "autoencoder_lr": 0.01,
        "channels": (16, 16, 32),
        "groups": 4,
        "heads": 2,
        "context_width": 8,
        "hint_channels": (4, 8, 8, 8),
        "steps": 2,
        "batch_size": 4,
        "lr": 4e-3,
        "warm_up": 1,
        "ema": 0.8,
        "start": 300,
        "ddim_steps": 2,
        "sigma": 2.0,
    },
    "memseg": {"size": 64, "memory": 4, "decoder": 8, "steps": 60, "lr": 0.01, "look_every": 1000},
    "simplenet": {
        "size": 64,
        "taps": (4, 8),
        "noise": 1.0,
        "features": 32,
        "steps": 120,
        "patches": 256,
        "hidden": 32,
    },
    "padim": {"size": 64},
    "joined": {
        "size": 64,
        "second": "simplenet taps=4,8 noise=1.0 features=32 steps=120 patches=256 hidden=32",
    },
}
SHORT = {  # for what does not ask how good a model is
    "differnet": {"steps": 3},
    "diad": {"autoencoder_steps": 2, "steps": 2, "autoencoder_channels": (4, 4, 4, 4)},
    "memseg": {"steps": 3},
    "simplenet": {"steps": 2},
    "joined": {"second": "simplenet taps=4,8 features=32 steps=2 patches=256 hidden=32"},
}
GOOD = {
    "memseg": {"backbone": "efficientnet_lite0", "steps": 40, "memory": 8, "batch_size": 4}
}  # random features hold too little for it
every_method = pytest.mark.parametrize("name", methods.names())


def tiny(name, **settings):
    return methods.create(name, **{"backbone": "tiny", **TINY.get(name, {}), **settings})


def short(name, **settings):
    return tiny(name, **{**SHORT.get(name, {}), **settings})


def same_weights(one, other):
    theirs = other.network_.state_dict()
    for key, tensor in one.network_.state_dict().items():
        assert torch.equal(tensor, theirs[key]), key


@pytest.fixture(scope="session")
def fitted(plates):
    """Name -> a tiny detector, fitted shortly when it is first asked for."""

    class Fitted(dict):
        def __missing__(self, name):
            self[name] = short(name).fit(plates)
            return self[name]

    return Fitted()


@pytest.fixture(scope="module")
def shapes(plates):
    """A few pictures of good plates, and folders of them."""
    return sorted((plates / "plate/train/good").iterdir())[:8]


@every_method
def test_has_the_presets_paper_and_light_and_a_summary(name):
    of_a_paper = {"paper"} if name != "joined" else set()
    assert {"light"} | of_a_paper <= set(methods.get(name).presets)
    assert len(methods.summary(name)) > 20


@every_method
def test_a_detector_tells_what_it_was_made_of(name):
    detector = tiny(name, seed=3)
    params = detector.get_params()
    assert params["seed"] == 3 and params["preset"] == "light" and params["size"] == detector.settings.size
    again = clone(detector)  # scikit-learn's: made from get_params, and equal in it
    assert again is not detector and again.get_params() == params
    assert repr(detector).startswith(f"{type(detector).__name__}(preset='light', seed=3, backbone='tiny'")
    assert eval(repr(detector), vars(inlier) | {type(detector).__name__: type(detector)}).get_params() == params


@every_method
def test_set_params_changes_and_forgets_the_fit(name, fitted):
    detector = pickle.loads(pickle.dumps(fitted[name]))
    assert detector.set_params(seed=4, size=96) is detector
    assert (detector.seed, detector.settings.size, detector.settings.backbone) == (4, 96, "tiny")
    with pytest.raises(InlierError, match="not fitted"):
        detector.predict([np.zeros((64, 64), np.uint8)])
    last = list(detector.presets)[-1]
    assert detector.set_params(preset=last).settings == detector.presets[last]
    with pytest.raises(InlierError, match="unknown setting 'sice'. Did you mean 'size'"):
        detector.set_params(sice=3)


@every_method
def test_help_shows_every_setting_with_its_meaning(name):
    kind = methods.get(name)
    for f in inlier.settings.fields(kind.presets["light"]):
        assert f"{f.name}: " in kind.__doc__ and f.metadata["meaning"] in kind.__doc__
    assert "preset" in kind.__doc__ and "paper" in kind.__doc__


@every_method
def test_a_finished_network_wants_no_gradients_and_does_not_train(name, fitted, tmp_path):
    fitted[name].save(tmp_path / "m.inlier")
    for detector in (fitted[name], load(tmp_path / "m.inlier")):
        assert not any(p.requires_grad for p in detector.network_.parameters())
        assert not any(module.training for module in detector.network_.modules())


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def without_gradients_in_bf16_and_float64():
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), default_dtype(torch.float64):
        yield


@contextlib.contextmanager
def in_inference_and_fp16():
    with torch.inference_mode(), torch.autocast("cpu", torch.float16):
        yield


CONTEXTS = (without_gradients_in_bf16_and_float64, in_inference_and_fp16)  # no two of the same kind in one


@every_method
def test_the_callers_torch_contexts_change_no_bit(name, fitted, shapes, tmp_path):
    fitted[name].save(tmp_path / "m.inlier")
    expected = [(p.score, p.map) for p in fitted[name].predict(shapes[:2])]
    for context in CONTEXTS:
        with context():
            for detector in (fitted[name], load(tmp_path / "m.inlier")):
                for (score, map_), p in zip(expected, detector.predict(shapes[:2])):
                    assert p.score == score
                    np.testing.assert_array_equal(p.map, map_)


@every_method
def test_the_callers_torch_contexts_change_no_fit(name, shapes):
    plain = short(name).fit(shapes[:4], calibration="none")
    for context in CONTEXTS:
        with context():
            same_weights(short(name).fit(shapes[:4], calibration="none"), plain)
    assert torch.is_grad_enabled()


@every_method
def test_the_network_maps_images_to_scores_and_maps(name, fitted):
    with torch.inference_mode():
        scores, maps = fitted[name].network_(torch.rand(3, 3, 64, 64))
    assert scores.shape == (3,) and maps.shape == (3, 64, 64) and torch.isfinite(maps).all()


@every_method
def test_dents_score_above_good_parts_and_are_located(name, plates):
    detector = tiny(name, **GOOD.get(name, {})).fit(plates)
    results = inlier.evaluate(detector, plates)
    result = results.categories["plate"]
    assert (result.n_good, result.n_defect) == (6, 6)
    assert result.image.auroc > 0.9 and result.pixel.auroc > 0.8
    assert pickle.loads(pickle.dumps(results)).to_json() == results.to_json()


@every_method
def test_batches_of_any_size_give_the_same_scores(name, fitted, plates):
    one, many = ([p.score for p in fitted[name].predict(plates / "plate/test", batch_size=n)] for n in (1, 5))
    np.testing.assert_allclose(one, many, rtol=1e-4)


@every_method
def test_without_maps_the_scores_are_the_same(name, fitted, plates):
    with_maps, without = (list(fitted[name].predict(plates / "plate/test", maps=maps)) for maps in (True, False))
    np.testing.assert_allclose([p.score for p in with_maps], [p.score for p in without], rtol=1e-5)
    assert all(p.map is None and p.region is None and p.verdict for p in without)


@every_method
def test_a_broken_model_never_calls_a_part_good(name, fitted, plates, tmp_path):
    fitted[name].save(tmp_path / "m.inlier")
    broken = load(tmp_path / "m.inlier")
    for parameter in broken.network_.backbone.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    for maps in (True, False):
        with pytest.raises(InlierError, match="a score that is no finite number"):
            list(broken.predict(plates / "plate/test/good", maps=maps))


def test_a_score_that_is_no_number_costs_no_other_verdict(fitted, plates):
    model = copy.copy(fitted["padim"])
    runtime, pictures = model.runtime_, sorted((plates / "plate/test/good").iterdir())

    def overflowing(images, inspected, maps):
        output = runtime(images, inspected, maps)
        output.scores[1] = np.inf
        return output

    model.runtime_ = overflowing
    found = list(model.predict(pictures[:4], errors="keep"))
    assert [p.error is None for p in found] == [True, False, True, True]
    assert found[1].verdict is None and f"{pictures[1]}: gets a score that is no finite number" in found[1].error
    with pytest.raises(InlierError, match=f"{pictures[1]}: gets a score that is no finite number"):
        list(model.predict(pictures[:4]))
    with pytest.raises(InlierError, match=f"{pictures[1]}: gets a score that is no finite number"):
        model.calibrate(pictures[:4])


def test_a_folder_is_no_picture_to_inspect(fitted, plates):
    with pytest.raises(InlierError, match="is a folder; `predict` judges its pictures"):
        fitted["padim"].inspect(plates / "plate/test/good")


@every_method
def test_same_seed_same_result_bit_for_bit(name, shapes):
    one, again, other = (short(name, seed=seed).fit(shapes) for seed in (1, 1, 2))
    same_weights(one, again)
    np.testing.assert_array_equal(one.calibration_.scores, again.calibration_.scores)
    if one.trains:
        assert not np.array_equal(one.calibration_.scores, other.calibration_.scores)


# every network that a method can build
VARIANTS = [(name, {}) for name in methods.names()] + [
    *(("diad", {"variant": variant, "autoencoder_kind": kind}) for variant in ("ldm", "sg") for kind in ("kl", "tiny")),
    ("diad", {"variant": "ddpm", "patch": 4}),
    ("diad", {"variant": "inversion", "start": 999}),
    ("memseg", {"frozen": False}),
    ("differnet", {"view_pool": 0, "whiten": 0.1}),
    ("joined", {"second": "differnet taps=4,8 width=32 blocks=2 batch_size=8 steps=3"}),
]


@pytest.mark.parametrize("name, settings", VARIANTS)
def test_a_loaded_detector_gives_the_bits_of_the_fitted_one(name, settings, plates, shapes, tmp_path):
    if settings.get("autoencoder_kind") == "tiny":
        settings = settings | {"autoencoder_channels": (4, 4, 4, 4)}
    detector = short(name, **settings).fit(shapes)
    detector.save(tmp_path / "model.inlier")
    loaded = load(tmp_path / "model.inlier")
    assert type(loaded) is type(detector) and loaded.header() == detector.header()
    assert loaded.get_params() == detector.get_params() | vars(detector.settings_) | {"weights": None}
    pictures = sorted((plates / "plate/test/dent").iterdir())[:2]
    for before, after in zip(detector.predict(pictures), loaded.predict(pictures), strict=True):
        assert before == after  # score, p-value, thresholds and verdict
        np.testing.assert_array_equal(before.map, after.map)
        np.testing.assert_array_equal(before.reconstruction, after.reconstruction)


@every_method
def test_a_loaded_detector_does_not_live_in_its_file(name, fitted, shapes, tmp_path):
    fitted[name].save(tmp_path / "m.inlier")
    loaded = load(tmp_path / "m.inlier")
    before = list(loaded.predict(shapes))
    with (tmp_path / "m.inlier").open("r+b") as file:
        file.write(bytes(file.seek(0, 2) and file.tell()))
        file.seek(0)
        file.write(bytes(file.seek(0, 2)))
    assert list(loaded.predict(shapes)) == before


def keeps_its_calibration(detector, count, picture, tmp_path):
    p = detector.inspect(picture)
    assert len(detector.calibration_.scores) == len(detector.calibration_.peaks) == count
    detector.save(tmp_path / "model.inlier")
    assert load(tmp_path / "model.inlier").inspect(picture) == p
    if count == 0:
        assert p.p_value is p.verdict is p.region is p.threshold is None
    else:
        assert 1 / (count + 1) <= p.p_value <= 1 and p.verdict in ("good", "defect")


@every_method
@pytest.mark.parametrize("kind", ["split", "none"])
def test_a_calibration_is_kept(name, kind, shapes, tmp_path):
    detector = short(name)
    assert not [attribute for attribute in vars(detector) if attribute.endswith("_")], "the constructor only stores"
    assert detector.fit(shapes, calibration=kind) is detector
    keeps_its_calibration(detector, {"split": 4, "none": 0}[kind], shapes[0], tmp_path)


@every_method
def test_folds_start_from_the_pretrained_backbone_and_keep_workers_and_log(name, shapes, tmp_path, monkeypatch):
    seen = []
    kind = methods.get(name)
    learn = kind.learn

    def spy(self, network, images, run):
        start = {key: tensor.clone() for key, tensor in network.backbone.state_dict().items()}
        seen.append((start, images.workers, run.workers))
        learn(self, network, images, run)

    monkeypatch.setattr(kind, "learn", spy)
    options = {"frozen": False} if name == "memseg" else {}
    detector = short(name, **options).fit(shapes[:3], calibration="folds", workers=3)
    keeps_its_calibration(detector, 3, shapes[0], tmp_path)
    assert len(seen) == (1 if name == "padim" else 4)  # PaDiM leaves one out in closed form
    for start, *workers in seen:
        assert workers == [3, 3]
        for key, tensor in start.items():
            assert torch.equal(tensor, seen[0][0][key]), key


@every_method
def test_calibrate_renews_verdicts_without_a_new_fit(name, shapes, plates, tmp_path):
    detector = short(name).fit(shapes, calibration="none")
    before = {key: tensor.clone() for key, tensor in detector.network_.state_dict().items()}
    assert detector.inspect(shapes[0]).verdict is None
    assert detector.calibrate(plates / "plate/test/good") is detector
    assert len(detector.calibration_.scores) == 6 and detector.inspect(shapes[0]).verdict in ("good", "defect")
    assert all(torch.equal(tensor, before[key]) for key, tensor in detector.network_.state_dict().items())
    detector.save(tmp_path / "m.inlier")
    assert load(tmp_path / "m.inlier").inspect(shapes[0]) == detector.inspect(shapes[0])


@every_method
def test_maps_come_back_at_the_size_of_the_picture(name, fitted):
    wide = Image.fromarray(np.full((50, 90), 120, np.uint8))
    p = next(fitted[name].predict([wide]))
    assert p.map.shape == p.region.shape == (50, 90) and p.map.dtype == np.float32
    assert np.isfinite(p.map).all()


@every_method
def test_outside_the_crop_is_not_inspected(name, shapes):
    detector = short(name, shorter_side=80).fit(shapes[:4], calibration="none")
    p = detector.inspect(np.full((100, 200), 120, np.uint8))
    inspected = np.isfinite(p.map)
    assert inspected[50, 100] and not inspected[:, :50].any() and not inspected[:8].any()


@every_method
def test_one_model_for_several_categories(name, plates, tmp_path):
    from conftest import write_dataset

    root = write_dataset(write_dataset(tmp_path, category="a", train=6, good=2, defects=2), train=6, category="b")
    detector = short(name).fit(root)
    assert detector.categories_ == ("a", "b")
    results = inlier.evaluate(detector, root)
    assert set(results.categories) == {"a", "b"} and results.mean["image"]["auroc"] is not None


@every_method
def test_arrays_paths_and_generators_are_fitted_alike(name, shapes):
    def arrays():
        return (np.asarray(Image.open(path)) for path in shapes[:4])

    pictures = shapes[:4]
    from_paths, *others = (short(name).fit(data, calibration="none") for data in (pictures, list(arrays()), arrays()))
    for other in others:
        same_weights(from_paths, other)


@pytest.fixture(scope="session")
def resnet_weights(tmp_path_factory):
    from inlier.features import Backbone

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(Backbone("resnet18", (32,)).net.state_dict(), path)
    return path


@every_method
def test_another_backbone(name, shapes, resnet_weights, tmp_path):
    options = {"taps": (8, 16)} if name == "padim" else {}  # its matrices are as wide as all taps together
    detector = short(name, backbone="resnet18", weights=resnet_weights, **options).fit(shapes[:4])
    detector.save(tmp_path / "model.inlier")
    assert load(tmp_path / "model.inlier").inspect(shapes[0]) == detector.inspect(shapes[0])


@every_method
def test_an_unreadable_picture_stops_or_is_kept_as_asked(name, fitted, plates, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_text("not a picture")
    good = plates / "plate/test/good/000.png"
    kept = list(fitted[name].predict([good, bad, good], errors="keep"))
    assert [p.error is None for p in kept] == [True, False, True] and str(bad) in kept[1].error
    assert kept[1].score is kept[1].map is None
    with pytest.raises(InlierError, match="bad.png"):
        list(fitted[name].predict([good, bad]))


@every_method
def test_prediction_reads_only_a_little_ahead(name, fitted, plates):
    """Constant memory: a folder of 100,000 pictures is not read before the first answer."""
    read = []
    from inlier.data import batches

    sources = [plates / "plate/test/good/000.png"] * 1000
    original = batches.read_scaled

    def counting(*arguments, **options):
        read.append(1)
        return original(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "read_scaled", counting)
        stream = fitted[name].predict(sources)
        list(itertools.islice(stream, 3))
        stream.close()
    assert 3 <= len(read) < 100


@every_method
@pytest.mark.parametrize("count", [0, 1])
def test_too_few_good_images(name, count, tmp_path):
    (tmp_path / "good").mkdir()
    for i in range(count):
        part(np.random.default_rng(i))[0].save(tmp_path / "good" / f"{i}.png")
    with pytest.raises(InlierError, match="no file at all|needs at least"):
        tiny(name).fit(tmp_path / "good")


@every_method
def test_not_fitted_unknown_preset_unknown_device(name):
    with pytest.raises(InlierError, match="not fitted"):
        tiny(name).predict(np.zeros((64, 64), np.uint8))
    with pytest.raises(InlierError, match="no preset 'huge'. Known: "):
        methods.create(name, "huge")
    with pytest.raises(InlierError, match="device 'gpu' cannot be used here"):
        tiny(name, device="gpu").fit([np.zeros((64, 64), np.uint8)] * 8)
    with pytest.raises(InlierError, match="seed: 1.5 is not a whole number"):
        tiny(name, seed=1.5)


def test_a_method_is_found_by_its_file_alone():
    assert {"padim", "simplenet"} <= set(methods.names())
    assert inlier.list_methods("*net") == ["differnet", "simplenet"]
    assert repr(inlier.create("padim", size=128)) == "PaDiM(preset='light', size=128)"
    with pytest.raises(InlierError, match="Did you mean 'padim'"):
        methods.get("padin")


FOREIGN = '''"""Nearest: a method of another package."""
from inlier.methods.padim import PaDiM

class Nearest(PaDiM):
    """Somebody else's."""
    name = "nearest"
'''


def test_other_packages_bring_methods_that_load_again(tmp_path, monkeypatch, shapes):
    from importlib.metadata import EntryPoint

    (tmp_path / "their_package.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(tmp_path)
    points = [EntryPoint("nearest", "their_package:Nearest", "inlier.methods")]
    monkeypatch.setattr(methods, "entry_points", lambda group: points if group == "inlier.methods" else [])
    assert "nearest" in inlier.list_methods() and methods.summary("nearest") == "Nearest: a method of another package."
    detector = inlier.create("nearest", backbone="tiny", size=32).fit(shapes)
    detector.save(tmp_path / "m.inlier")
    assert type(load(tmp_path / "m.inlier")).__name__ == "Nearest"
    points.clear()
    with pytest.raises(ArtifactError, match="method 'nearest' is unknown to inlier .* install that package"):
        load(tmp_path / "m.inlier")


def test_models_of_renamed_presets_and_dropped_settings_keep_loading(tmp_path, fitted, caplog, shapes):
    from inlier import artifact

    fitted["padim"].save(tmp_path / "m.inlier")
    tensors, header = artifact.read(tmp_path / "m.inlier")
    header["preset"] = "featherweight"
    header["settings"]["colour"] = "blue"
    artifact.write(tmp_path / "m.inlier", tensors, header)
    loaded = load(tmp_path / "m.inlier")
    assert "m.inlier: settings that are no longer known: colour" in caplog.text
    assert loaded.inspect(shapes[0]) == fitted["padim"].inspect(shapes[0])
    assert repr(loaded).startswith("PaDiM(preset='featherweight', backbone='tiny'")
    header["settings"]["size"] = -1
    artifact.write(tmp_path / "m.inlier", tensors, header)
    with pytest.raises(InlierError, match="m.inlier: setting 'size': -1 is out of range"):
        load(tmp_path / "m.inlier")


def test_load_refuses_what_is_not_a_model(tmp_path):
    for data in (b"", b"hello", b"\x80\x04]q", b"PK\x03\x04" + bytes(99), bytes(5000)):
        (tmp_path / "x.inlier").write_bytes(data)
        with pytest.raises(ArtifactError, match="x.inlier"):
            load(tmp_path / "x.inlier")
    with pytest.raises(ArtifactError, match="no such model file"):
        load(tmp_path / "nothing.inlier")


def test_a_missing_tensor_is_an_error_of_the_file(fitted, tmp_path):
    from inlier import artifact

    fitted["padim"].save(tmp_path / "m.inlier")
    tensors, header = artifact.read(tmp_path / "m.inlier")
    del tensors["network.mean"]
    artifact.write(tmp_path / "m.inlier", tensors, header)
    with pytest.raises(ArtifactError, match="does not fit method 'padim'"):
        load(tmp_path / "m.inlier")
