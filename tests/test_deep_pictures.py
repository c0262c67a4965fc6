"""Pictures of 16 bit keep their fine steps all the way through training."""

import numpy as np
import pytest
import torch

from inlier import methods
from inlier.data.batches import read_batches
from inlier.data.geometry import Geometry
from inlier.good import Good, Images, to_8_bit, to_input
from inlier.training import Run

RNG = np.random.default_rng(0)
SHALLOW = [RNG.integers(0, 256, (40, 30, 3), np.uint8) for _ in range(9)]
FAINT = [(30_000 + RNG.integers(0, 200, (40, 30))).astype(np.uint16) for _ in range(3)]  # less than a step of 8 bit


def kept(pictures):
    """(what is kept for training, what the network sees of them when it judges)"""
    geometry = Geometry(16)
    (batch,) = read_batches(pictures, geometry, len(pictures))
    images = Images([Good(picture, "part", i, geometry, 1) for i, picture in enumerate(pictures)], 2)
    return images.cache(Run(0, torch.device("cpu")))[0], torch.from_numpy(batch.images)


def test_pictures_of_8_bit_are_kept_in_8_bit():
    cache, seen = kept(SHALLOW)
    assert cache.dtype == torch.uint8
    assert torch.equal(to_input(cache), seen)
    assert to_8_bit(cache) is cache


def test_16_bit_is_kept_and_changes_nothing_for_8_bit():
    cache, seen = kept([*SHALLOW, *FAINT, *SHALLOW])
    assert cache.dtype == torch.uint16
    again = to_input(cache)
    assert torch.equal(again[:9], seen[:9]) and torch.equal(again[12:], seen[12:])
    torch.testing.assert_close(again, seen, rtol=0, atol=1e-5)
    assert len(again[9:12].unique()) > 50  # 8 bit would leave two values
    assert torch.equal(to_8_bit(cache)[:9], kept(SHALLOW)[0])


@pytest.mark.parametrize("method", ["differnet", "memseg"])
def test_methods_train_on_what_8_bit_does_not_show(method, monkeypatch):
    seen = []

    def watch(pictures):
        seen.append(pictures.dtype)
        return to_input(pictures)

    monkeypatch.setattr(f"inlier.methods.{method}.to_input", watch)
    extra = (
        {"taps": (4, 8), "width": 32, "blocks": 2, "view_pool": 0, "views": 1}
        if method == "differnet"
        else {"decoder": 8, "memory": 2}
    )
    detector = methods.create(method, backbone="tiny", size=32, batch_size=4, steps=2, **extra)
    detector.fit(FAINT * 2, calibration="none")
    assert set(seen) == {torch.uint16}


def test_a_simulated_defect_leaves_the_fine_steps_around_it(monkeypatch):
    """Else a network could tell defects by their coarse background alone."""
    module = methods.get("memseg").__module__
    batches = []

    def watch(pictures):
        batches.append(pictures)
        return to_input(pictures)

    monkeypatch.setattr(f"{module}.to_input", watch)
    detector = methods.create("memseg", backbone="tiny", size=32, batch_size=4, steps=1, memory=2, decoder=8)
    detector.fit(FAINT * 2, calibration="none")
    (batch,) = [batch for batch in batches if len(batch) == 4]
    for picture in batch:  # every second one has a defect
        assert len(picture[..., 0].int().unique()) > 100
