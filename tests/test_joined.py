"""Two methods on one backbone: what their joined score is, what is shared, and when a choice joins them."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import inlier
from conftest import write_dataset
from inlier import InlierError, load, methods
from inlier.bench import auto as bench
from inlier.bench import trial
from inlier.bench.choice import Row
from inlier.bench.trial import Trial
from inlier.calibration import split
from inlier.methods import joined

PADIM = {"backbone": "tiny", "size": 64, "taps": (4, 8), "channels": None}
QUICK = {"taps": (4, 8), "features": 32, "steps": 2, "patches": 256, "hidden": 32}
SIMPLENET = "simplenet taps=4,8 features=32 steps=2 patches=256 hidden=32"


@pytest.fixture(scope="module")
def twenty(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("twenty"), train=20, good=2, defects=2)


@pytest.fixture(scope="module")
def fitted(twenty):
    return methods.create("joined", backbone="tiny", size=64, second=SIMPLENET).fit(twenty, calibration="none")


def pictures(n=3):
    return torch.rand(n, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_the_score_is_the_sum_of_both_deviates_over_the_root_of_two(fitted):
    network = fitted.network_
    images = pictures()
    scores, maps = network(images)
    z = [(own(images)[0] - network.mean[k]) / network.deviation[k] for k, own in enumerate(network.networks)]
    torch.testing.assert_close(scores, (z[0] + z[1]) / math.sqrt(2))
    drawn = [(own(images)[1] - network.mean[k]) / network.deviation[k] for k, own in enumerate(network.networks)]
    torch.testing.assert_close(maps, (drawn[0] + drawn[1]) / math.sqrt(2))


def test_each_method_is_what_it_is_alone_and_its_units_come_from_pictures_it_had_not_seen(fitted, twenty):
    files = sorted((twenty / "plate/train/good").iterdir())
    fitted_on, held_out = split(list(range(20)), ["plate"] * 20, seed=0)
    assert (len(fitted_on), len(held_out)) == (10, 10)
    kind = PADIM | {"taps": (8, 16, 32), "grid": 1}
    alone = methods.create("padim", **kind).fit(files, calibration="none").network_
    ours = fitted.network_.networks[0]
    torch.testing.assert_close(ours.mean, alone.mean)
    torch.testing.assert_close(ours.whitening, alone.whitening, rtol=1e-3, atol=1e-4)
    without = methods.create("padim", **kind).fit([files[i] for i in fitted_on], calibration="none")
    scores = torch.tensor([without.inspect(files[i]).score for i in held_out], dtype=torch.float64)
    assert fitted.network_.mean[0].item() == pytest.approx(scores.mean().item(), rel=1e-4)
    assert fitted.network_.deviation[0].item() == pytest.approx(scores.std(correction=0).item(), rel=1e-2)


def test_units_that_are_given_need_no_first_fit(twenty, monkeypatch):
    fits = []
    learn = methods.joined.Joined._learn_both
    monkeypatch.setattr(methods.joined.Joined, "_learn_both", lambda *given: fits.append(given) or learn(*given))
    given = {"mean": (3.0, -1.0), "deviation": (2.0, 0.5)}
    detector = methods.create("joined", backbone="tiny", size=64, second=SIMPLENET, **given)
    detector.fit(twenty, calibration="none")
    assert len(fits) == 1
    assert detector.network_.mean.tolist() == [3.0, -1.0] and detector.network_.deviation.tolist() == [2.0, 0.5]


def test_each_method_may_see_a_size_of_its_own(twenty):
    """A smaller picture is made of the larger one, in training and in judging; maps are as large as the larger."""
    detector = methods.create("joined", backbone="tiny", size=96, first="padim size=64", second=SIMPLENET)
    detector.fit(twenty, calibration="none")
    network, images = detector.network_, torch.rand(2, 3, 96, 96)
    assert not network.is_shared
    scores, maps = network.judged(images)
    smaller = torch.nn.functional.interpolate(images, (64, 64), mode="bilinear", antialias=True)
    torch.testing.assert_close(network.to_own[0](images), smaller, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scores[0], network.networks[0](smaller)[0], rtol=1e-3, atol=1e-3)
    assert maps[0].shape == maps[1].shape == (2, 96, 96)
    seen = torch.zeros(2, 96, 96, dtype=torch.bool)
    seen[:, :48] = True
    disturbed = images.clone()
    disturbed[:, :, 80:] = 0.5
    torch.testing.assert_close(network(images, seen)[0], network(disturbed, seen)[0], rtol=0.5, atol=0.5)


def test_a_picture_passes_the_backbone_once(fitted, monkeypatch):
    passes = []
    forward = inlier.features.Backbone.forward
    monkeypatch.setattr(
        inlier.features.Backbone, "forward", lambda self, images: passes.append(len(images)) or forward(self, images)
    )
    fitted.network_(pictures(3))
    assert passes == [3]
    assert fitted.network_.backbone.kept is None, "no picture stays in memory"
    assert not [name for name in fitted.network_.state_dict() if "networks" in name and "backbone" in name]


def test_another_thread_may_look_at_another_picture_meanwhile(fitted, monkeypatch):
    backbone, images = fitted.network_.backbone, pictures(1)
    right = backbone(images)
    others = images[:0], [torch.zeros_like(m) for m in right]
    reads = iter([(images, right), (images, right), others])
    monkeypatch.setattr(joined.SharedBackbone, "kept", property(lambda self: next(reads)))
    assert all(torch.equal(m, its) for m, its in zip(backbone(images), right, strict=True))


def test_views_that_differnet_chose_are_remembered(twenty, tmp_path):
    second = "differnet taps=4,8 width=32 blocks=2 batch_size=8 steps=3"
    detector = methods.create("joined", backbone="tiny", size=64, second=second).fit(twenty, calibration="none")
    found = joined.parts(detector.settings_)[1].settings
    assert joined.parts(detector.settings)[1].settings.view_pool is None and found.view_pool in (1, 2, 4)
    detector.save(tmp_path / "m.inlier")
    again = load(tmp_path / "m.inlier")
    assert again.settings_ == detector.settings_
    assert again.network_.networks[1].angles == detector.network_.networks[1].angles
    assert len(again.network_.networks[1].angles) == found.view_pool


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"second": "memseg"}, "'second': 'memseg' cannot be joined, these can: padim, simplenet, differnet"),
        ({"first": ""}, "'first': '' cannot be joined"),
        ({"first": "differnet", "second": "padim"}, "'first': differnet judges whole pictures; name it as 'second'"),
        ({"second": "padim"}, "two of the same know no more than one"),
        ({"second": "simplenet tile=128"}, "'second': tile must be the same for both"),
        ({"second": "simplenet size=512"}, "'second': 'simplenet size=512' would see more pixels than there are"),
        ({"second": "simplenet heeds=2"}, "'second': unknown setting 'heeds'. Did you mean 'heads'"),
        ({"mean": (1.0, 2.0)}, "'mean' and 'deviation': give both, two numbers each, or neither"),
        ({"mean": (1.0,), "deviation": (1.0, 2.0)}, "'mean' and 'deviation': give both"),
        ({"second": "simplenet heads"}, "'second': 'heads' is not KEY=VALUE"),
        ({"first": "padim size=abc"}, "'first': setting 'size': 'abc' is not "),
        ({"first": "padim size=none"}, "'first': setting 'size': "),
        ({"taps": (4, 8)}, "'taps': each method reads its own; name them there"),
        ({"second": "simplenet heads=0"}, "'second': setting 'heads': 0 is out of range"),
    ],
)
def test_what_cannot_be_joined_is_told_before_a_picture_is_read(settings, words):
    with pytest.raises(InlierError, match=words):
        methods.create("joined", **settings).fit("no/such/folder")


def test_a_pair_is_made_of_what_sees_the_same_pictures():
    padim, simplenet = methods.create("padim", seed=3), methods.create("simplenet", heads=2)
    made = joined.pair(simplenet, padim)
    assert (made.settings.first, made.settings.second) == ("simplenet heads=2", "padim")
    assert [d.settings for d in joined.parts(made.settings)] == [simplenet.settings, padim.settings]
    assert joined.pair(padim, simplenet).seed == 3
    assert joined.pair(padim, methods.create("simplenet", tile=320)) is None
    assert joined.pair(padim, methods.create("padim", epsilon=0.1)) is None
    assert joined.pair(padim, methods.create("memseg")) is None
    of_whole = joined.pair(methods.create("differnet"), padim)
    assert (of_whole.settings.first, of_whole.settings.second) == ("padim size=256", "differnet")
    assert of_whole.settings.size == 448


def trials(n=100, seed=0):
    """Two judges of equal worth whose errors have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    numbers, kinds = np.arange(n), ("spot",) * n
    return [
        Trial(
            s := rng.normal(size=n), scale * (1 + rng.normal(size=n)) if scale else s, numbers, kinds, np.ones(n), 0.5
        )
        for scale in (1.0, 1.0)
    ]


def test_unlike_judges_find_more_together():
    """Two tests with a shift of 1 are one with a shift of sqrt(2): AUROC, the normal of shift / sqrt(2), .76, .84."""
    one, other = trials(n=20000)
    both = trial.together(one, other)
    assert (one.auroc, other.auroc, both.auroc) == pytest.approx((0.7602, 0.7602, 0.8413), abs=0.01)
    assert both.pixel_ap is None and both.kinds == one.kinds


def test_the_joined_trial_does_not_depend_on_the_units_of_a_score():
    one, other = trials()
    scaled = replace(other, good=1000 * other.good + 7, defects=1000 * other.defects + 7)
    np.testing.assert_allclose(trial.together(one, scaled).defects, trial.together(one, other).defects, rtol=1e-5)


def test_the_joined_trial_is_what_the_joined_model_makes_of_the_pictures(chosen_pair, monkeypatch):
    model, row, held_out = chosen_pair
    found = trial.run(model, held_out, seed=0)
    np.testing.assert_allclose(found.good, row.trial.good, rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(found.defects, row.trial.defects, rtol=1e-2, atol=1e-2)


@pytest.fixture(scope="module")
def choice_of_two(tmp_path_factory):
    """A choice between two whose pair is better by decree, and what was assembled on the way."""
    data = write_dataset(tmp_path_factory.mktemp("forty"), train=40, good=2, defects=2)
    two = [methods.create("padim", **PADIM), methods.create("simplenet", backbone="tiny", size=64, **QUICK)]
    made = []
    with pytest.MonkeyPatch.context() as patch:
        assembled = joined.assembled
        patch.setattr(joined, "assembled", lambda *given: made.append(assembled(*given)) or made[-1])
        patch.setattr(trial.Trial, "auroc", property(lambda self: 1.0 if self.pixel_ap is None else 0.5))
        patch.setattr(trial.Trial, "detection", lambda self: 1.0 if self.pixel_ap is None else 0.5)
        return (
            bench.auto(data, 600, candidates=two, with_examples=True),
            made[0],
            trial.hold_out(bench._good_pictures(data, ()), 0, aside=True).held_out,
        )


@pytest.fixture(scope="module")
def chosen_pair(choice_of_two):
    chosen, model, held_out = choice_of_two
    return model, chosen.choice_.rows[2], held_out


def test_a_winning_pair_is_fitted_on_all_with_the_units_of_the_search(choice_of_two, tmp_path):
    chosen, model, _ = choice_of_two
    choice = chosen.choice_
    assert [row.method for row in choice.rows] == ["padim", "simplenet", "joined"] and choice.winner == 2
    row = choice.rows[2]
    assert row.name.startswith("joined 'first=padim taps=4,8") and "' 'second=simplenet" in row.name
    assert row.ms > 0 and row.examples and row.fit_seconds == sum(r.fit_seconds for r in choice.rows[:2])
    assert choice.fitted_again and len(chosen.calibration_.scores) == 20
    torch.testing.assert_close(chosen.network_.mean, model.network_.mean)
    chosen.save(tmp_path / "m.inlier")
    assert load(tmp_path / "m.inlier").header() == chosen.header()


@pytest.fixture
def search():
    """A search in which these candidates were judged so, the better of a method kept."""

    def made(*judged):
        found = bench._Search.__new__(bench._Search)
        found.seed, found.detectors, found.rows, found.fitted, found.kept = 0, [], [], {}, None
        for d, t in judged:
            found._joins(d, Row(d.name, d.preset, {}, trial=t, ms=1.0, fit_seconds=10.0, refit_seconds=7.0), d)
        found._last_fit_seconds = lambda detector, fit_seconds, a_picture: fit_seconds
        return found

    return made


def test_the_choice_joins_the_two_that_find_most_together(search):
    padim, simplenet, memseg = (methods.create(name) for name in ("padim", "simplenet", "memseg"))
    one, other = trials()
    assert search((padim, one), (simplenet, other)).pair() == (0, 1)
    assert search((padim, one), (simplenet, one)).pair() is None, "the same twice finds no more"
    assert search((padim, one), (memseg, other)).pair() is None
    assert search((padim, one), (methods.create("simplenet", tile=384), other)).pair() is None
    perfect = replace(one, defects=one.defects + 100)
    assert search((padim, one), (simplenet, other), (memseg, perfect)).pair() is None, "the best alone finds more"
    assert search((padim, one)).pair() is None and search().pair() is None
    worse = replace(one, defects=one.defects - 0.3)
    assert search((padim, worse), (methods.create("padim", size=320), one), (simplenet, other)).pair() == (1, 2)


def test_room_is_kept_for_the_last_fit_of_a_pair_that_would_win(search):
    padim, simplenet = methods.create("padim"), methods.create("simplenet")
    one, other = trials()
    assert search((padim, one)).reserve() == 7.0
    assert search((padim, one), (simplenet, one)).reserve() == 7.0
    assert search((padim, one), (simplenet, other)).reserve() == pytest.approx(bench.MARGIN * 20.0)


@pytest.mark.parametrize("second", [SIMPLENET, "differnet taps=4,8 width=32 blocks=2 batch_size=8 steps=3"])
def test_a_pair_of_two_sizes_is_exported(twenty, tmp_path, second):
    pytest.importorskip("onnxscript")
    detector = methods.create("joined", backbone="tiny", size=96, first="padim size=64", second=second)
    detector.fit(twenty)
    detector.export(tmp_path / "m.onnx", check=twenty)
    model = load(tmp_path / "m.onnx")
    picture = sorted((twenty / "plate/test/dent").iterdir())[0]
    ours, theirs = detector.inspect(picture), model.inspect(picture)
    assert theirs.verdict == ours.verdict and theirs.score == pytest.approx(ours.score, rel=1e-3)
    np.testing.assert_allclose(theirs.map, ours.map, atol=1e-3 * np.abs(ours.map).max())


@pytest.mark.parametrize("calibration", ["split", "folds"])
def test_a_training_leaves_no_empty_folders(twenty, tmp_path, calibration):
    detector = methods.create("joined", backbone="tiny", size=64, second=SIMPLENET)
    detector.fit(twenty, calibration=calibration, run_folder=tmp_path / "run")
    detector.save(tmp_path / "m.inlier")
    assert [path.name for path in tmp_path.iterdir()] == ["m.inlier"]
