"""What every method promises, checked on every method that exists, with tiny settings."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

import inlier
from conftest import part
from inlier import InlierError, load, methods
from inlier.artifact import ArtifactError

# Small and quick variants of the light presets; a method that is not listed is tested as it is.
TINY = {
    "differnet": {"size": 64, "taps": (16,), "width": 32, "blocks": 2, "batch_size": 8, "steps": 40, "lr": 3e-3},
    # noised halfway only: from pure noise no network learns to paint a part in seconds
    "diad": {
        "size": 64,
        "taps": (4, 8),
        "autoencoder_kind": "kl",
        "autoencoder_channels": (4, 8, 16, 16),
        "autoencoder_groups": 4,
        "latent_channels": 8,
        "autoencoder_steps": 30,
        "autoencoder_lr": 0.01,
        "channels": (16, 16, 32),
        "groups": 4,
        "heads": 2,
        "context_width": 8,
        "hint_channels": (4, 8, 8, 8),
        "steps": 6,
        "batch_size": 4,
        "lr": 4e-3,
        "warm_up": 1,
        "ema": 0.8,
        "start": 300,
        "ddim_steps": 2,
        "sigma": 2.0,
    },
    "memseg": {"size": 64, "memory": 4, "decoder": 8, "steps": 100, "lr": 0.01, "look_every": 1000},
    "simplenet": {
        "size": 64,
        "taps": (8,),
        "features": 96,
        "epochs": 100,
        "batch_size": 8,
        "hidden": 64,
        "adapter_lr": 1e-3,
        "discriminator_lr": 2e-3,
    },
    "padim": {"size": 64},
}
every_method = pytest.mark.parametrize("name", methods.names())


def tiny(name, **settings):
    return methods.get(name)("light", **{**TINY.get(name, {}), **settings})


@pytest.fixture(scope="module")
def fitted(plates):
    return {name: tiny(name).fit(plates) for name in methods.names()}


@every_method
def test_has_the_presets_paper_and_light_and_a_summary(name):
    assert {"paper", "light"} <= set(methods.get(name).presets)
    assert len(methods.summary(name)) > 20


@every_method
def test_fit_returns_self_and_the_constructor_only_stores(name, plates):
    detector = tiny(name)
    assert not [attribute for attribute in vars(detector) if attribute.endswith("_")]
    assert detector.fit(plates, calibration="none") is detector


@every_method
def test_the_network_maps_images_to_scores_and_maps(name, fitted):
    with torch.inference_mode():
        scores, maps = fitted[name].network_(torch.rand(3, 3, 64, 64))
    assert scores.shape == (3,) and maps.shape == (3, 64, 64) and torch.isfinite(maps).all()


@every_method
def test_dents_score_above_good_parts_and_are_located(name, fitted, plates):
    result = inlier.evaluate(fitted[name], plates).categories["plate"]
    assert (result.n_good, result.n_defect) == (6, 6)
    assert result.image.auroc > 0.9 and result.pixel.auroc > 0.8


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


@every_method
def test_same_seed_same_result_bit_for_bit(name, plates, fitted):
    again = tiny(name).fit(plates)
    for key, tensor in fitted[name].network_.state_dict().items():
        assert torch.equal(tensor, again.network_.state_dict()[key]), key
    np.testing.assert_array_equal(fitted[name].calibration_.scores, again.calibration_.scores)


@every_method
def test_save_and_load_change_nothing(name, fitted, plates, tmp_path):
    fitted[name].save(tmp_path / "model.inlier")
    loaded = load(tmp_path / "model.inlier")
    assert type(loaded) is type(fitted[name]) and loaded.header() == fitted[name].header()
    for before, after in zip(fitted[name].predict(plates / "plate/test"), loaded.predict(plates / "plate/test")):
        assert (before.score, before.p_value, before.verdict) == (after.score, after.p_value, after.verdict)
        np.testing.assert_array_equal(before.map, after.map)


@every_method
@pytest.mark.parametrize("kind", ["split", "folds", "none"])
def test_every_calibration(name, kind, plates, tmp_path):
    detector = tiny(name).fit(plates, calibration=kind)
    p = next(detector.predict(plates / "plate/test/good/000.png"))
    count = {"split": 8, "folds": 16, "none": 0}[kind]
    assert len(detector.calibration_.scores) == len(detector.calibration_.peaks) == count
    detector.save(tmp_path / "model.inlier")
    assert next(load(tmp_path / "model.inlier").predict(plates / "plate/test/good/000.png")).p_value == p.p_value
    if kind == "none":
        assert p.p_value is p.verdict is p.region is None
    else:
        assert 1 / (count + 1) <= p.p_value <= 1 and p.verdict in ("good", "defect")


@every_method
def test_maps_come_back_at_the_size_of_the_picture(name, fitted):
    wide = Image.fromarray(np.full((50, 90), 120, np.uint8))
    p = next(fitted[name].predict([wide]))
    assert p.map.shape == p.region.shape == (50, 90) and p.map.dtype == np.float32
    assert np.isfinite(p.map).all()


@every_method
def test_outside_the_crop_is_not_inspected(name, plates):
    detector = tiny(name, shorter_side=80).fit(plates, calibration="none")
    p = next(detector.predict([np.full((100, 200), 120, np.uint8)]))
    inspected = np.isfinite(p.map)
    assert inspected[50, 100] and not inspected[:, :50].any() and not inspected[:8].any()


@every_method
def test_one_model_for_several_categories(name, plates, tmp_path):
    from conftest import write_dataset

    root = write_dataset(write_dataset(tmp_path, category="a"), category="b")
    detector = tiny(name).fit(root)
    assert detector.categories_ == ("a", "b")
    results = inlier.evaluate(detector, root)
    assert set(results.categories) == {"a", "b"} and results.mean["image"]["auroc"] is not None


@every_method
def test_arrays_and_paths_are_fitted_alike(name, plates):
    paths = sorted((plates / "plate/train/good").iterdir())
    arrays = [np.asarray(Image.open(path)) for path in paths]
    from_paths, from_arrays = (tiny(name).fit(data, calibration="none") for data in (paths, arrays))
    for key, tensor in from_paths.network_.state_dict().items():
        assert torch.equal(tensor, from_arrays.network_.state_dict()[key]), key


@every_method
def test_another_backbone(name, plates, tmp_path):
    from inlier.features import Backbone

    torch.manual_seed(0)
    weights = tmp_path / "resnet18.pth"
    torch.save(Backbone("resnet18", (32,)).net.state_dict(), weights)
    detector = methods.get(name)("light", **{**TINY.get(name, {}), "backbone": "resnet18"}, weights=weights)
    detector.fit(plates)
    detector.save(tmp_path / "model.inlier")
    assert next(load(tmp_path / "model.inlier").predict(plates / "plate/test/good/000.png")).score is not None


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

    class Source:
        def __array__(self, dtype=None, copy=None):
            read.append(1)
            return np.zeros((64, 64), np.uint8)

    from inlier.data import images

    sources = [plates / "plate/test/good/000.png"] * 1000
    original = images.read_image

    def counting(*arguments, **options):
        read.append(1)
        return original(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "read_image", counting)
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
    with pytest.raises(InlierError, match="no images|needs at least"):
        tiny(name).fit(tmp_path / "good")


@every_method
def test_not_fitted_unknown_preset_unknown_device(name):
    with pytest.raises(InlierError, match="not fitted"):
        next(tiny(name).predict(np.zeros((64, 64), np.uint8)))
    with pytest.raises(InlierError, match="no preset 'huge'. Known: "):
        methods.get(name)("huge")
    with pytest.raises(InlierError, match="device 'gpu' cannot be used here"):
        tiny(name).__class__("light", device="gpu", **TINY.get(name, {})).fit([np.zeros((64, 64), np.uint8)] * 8)


def test_a_method_is_found_by_its_file_alone():
    assert {"padim", "simplenet"} <= set(methods.names())
    with pytest.raises(InlierError, match="Did you mean 'padim'"):
        methods.get("padin")


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
