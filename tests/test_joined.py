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
from inlier.bench.trial import Trial
from inlier.calibration import split
from inlier.methods import joined
from test_contract import short

PADIM = {"backbone": "tiny", "size": 64, "taps": (4, 8), "channels": None}
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


def test_each_method_is_what_it_is_alone_on_the_same_pictures(fitted, twenty):
    files = sorted((twenty / "plate/train/good").iterdir())
    fitted_on, held_out = split(list(range(20)), ["plate"] * 20, seed=0)
    alone = methods.create("padim", **PADIM | {"taps": (8, 16, 32), "grid": 1})
    alone.fit([files[i] for i in fitted_on], calibration="none")
    ours, theirs = fitted.network_.networks[0], alone.network_
    torch.testing.assert_close(ours.mean, theirs.mean)
    torch.testing.assert_close(ours.whitening, theirs.whitening, rtol=1e-3, atol=1e-4)
    scores = torch.tensor([alone.inspect(files[i]).score for i in held_out], dtype=torch.float64)
    assert fitted.network_.mean[0].item() == pytest.approx(scores.mean().item(), rel=1e-4)
    assert fitted.network_.deviation[0].item() == pytest.approx(scores.std(correction=0).item(), rel=1e-2)


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
        ({"second": "simplenet size=128"}, "'second': size must be the same for both"),
        ({"second": "simplenet heeds=2"}, "'second': unknown setting 'heeds'. Did you mean 'heads'"),
        ({"second": "simplenet heads"}, "'second': 'heads' is not KEY=VALUE"),
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
    assert joined.pair(padim, methods.create("simplenet", size=320)) is None
    assert joined.pair(padim, methods.create("padim", epsilon=0.1)) is None
    assert joined.pair(padim, methods.create("memseg")) is None
    of_whole = joined.pair(methods.create("differnet", size=256), padim)
    assert of_whole.settings.first == "padim" and of_whole.settings.second.startswith("differnet")


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
    """Two tests with a shift of 1 are one with a shift of sqrt(2): AUROC .76 and .84 (the normal of shift / sqrt(2))."""
    one, other = trials(n=20000)
    both = trial.together(one, other)
    assert (one.auroc, other.auroc, both.auroc) == pytest.approx((0.7602, 0.7602, 0.8413), abs=0.01)
    assert both.pixel_ap is None and both.kinds == one.kinds


def test_the_joined_trial_does_not_depend_on_the_units_of_a_score():
    one, other = trials()
    scaled = replace(other, good=1000 * other.good + 7, defects=1000 * other.defects + 7)
    np.testing.assert_allclose(trial.together(one, scaled).defects, trial.together(one, other).defects, rtol=1e-9)


def test_auto_tries_a_pair_that_promises_more(forty_of_two, monkeypatch):
    chosen = forty_of_two
    choice = chosen.choice_
    names = [row.method for row in choice.rows]
    assert names[:2] == ["padim", "simplenet"]
    assert names[2:] in ([], ["joined"])


@pytest.fixture(scope="module")
def forty_of_two(tmp_path_factory):
    data = write_dataset(tmp_path_factory.mktemp("forty"), train=40, good=2, defects=2)
    two = [methods.create("padim", **PADIM), short("simplenet")]
    return bench.auto(data, 60, candidates=two, with_examples=True)
