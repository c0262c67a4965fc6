"""Tiles: one model over parts of large pictures, put together without seams, calibrated on whole pictures."""

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import part
from inlier import InlierError, load
from inlier.data.batches import read_batches
from inlier.data.geometry import Geometry, View
from test_contract import every_method, short, tiny


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(8, 64), st.floats(0, 0.8))
def test_tiles_cover_every_pixel_and_overlap_as_asked(height, width, tile, overlap):
    geometry = Geometry(16, tile=tile, overlap=overlap)
    views = geometry.views(height, width)
    count = np.zeros((height, width), int)
    for view in views:
        assert (view.bottom - view.top, view.right - view.left) == (min(tile, height), min(tile, width))
        count[view.top : view.bottom, view.left : view.right] += 1
    assert count.min() >= 1
    rows = sorted({view.top for view in views})
    assert all(below - above <= max(1, tile * (1 - overlap)) + 1 for above, below in itertools.pairwise(rows))


def test_a_picture_that_one_tile_holds_is_one_tile():
    assert Geometry(16, tile=64).views(64, 40) == [View(0, 0, 64, 40)]
    with pytest.raises(InlierError, match="tile and shorter_side"):
        Geometry(16, 32, tile=64)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_a_smooth_map_is_put_together_without_seams(overlap):
    """Each tile sees a ramp through the whole picture; together they are the ramp again."""
    geometry = Geometry(32, tile=64, overlap=overlap)
    y, x = np.mgrid[:150, :210].astype(np.float32)
    ramp = y + 2 * x
    views = np.stack([view[0] for view in geometry.inputs(Image.fromarray(ramp / 1000))])
    back = 1000 * geometry.to_original(views, 150, 210)
    inner = np.abs(back - ramp)[4:-4, 4:-4]
    assert inner.max() < (4.5 if overlap == 0 else 1.5)  # a tile's own edge sees one side only, by half a network pixel
    assert np.abs(np.diff(back, axis=1)).max() < (8 if overlap == 0 else 4.5)  # no step: the ramp rises by 2


@every_method
def test_the_score_is_that_of_the_worst_tile(name, plates):
    shapes = sorted((plates / "plate/train/good").iterdir())[:6]
    # a tile of 64 makes the made-up plates, 64 pixels themselves, one tile; larger pictures are several
    detector = short(name, tile=64, overlap=0.0).fit(shapes)
    first, second = (np.array(Image.open(path)) for path in shapes[:2])
    (pair,) = detector.predict([np.concatenate([first, second], 1)])
    alone = detector.score_samples([first, second])
    assert pair.score == pytest.approx(alone.max(), rel=1e-4) and pair.map.shape == (64, 128)
    assert pair.network_maps.shape[0] == 2
    only = detector.inspect(first).map
    np.testing.assert_allclose(pair.map[:, :60], only[:, :60], rtol=1e-3, atol=1e-4 * np.abs(only).max())


@every_method
def test_tiles_are_fitted_calibrated_saved_and_loaded(name, tmp_path):
    rng = np.random.default_rng(0)
    pictures = [np.array(part(rng, size=96)[0])[16:80] for _ in range(4)]  # two tiles each
    detector = short(name, tile=64).fit(pictures)
    detector.save(tmp_path / "m.inlier")
    loaded = load(tmp_path / "m.inlier")
    one, other = detector.inspect(pictures[0]), loaded.inspect(pictures[0])
    assert one == other and one.map.shape == (64, 96) and len(detector.calibration_) in (2, 4)
    np.testing.assert_array_equal(one.map, other.map)


def test_a_small_defect_in_a_large_picture_is_found_and_outlined():
    rng = np.random.default_rng(1)

    def sheet(height, width):
        return (150 + rng.normal(0, 4, (height, width))).clip(0, 255).astype(np.uint8)

    detector = tiny("padim", size=64, tile=64).fit([sheet(200, 260) for _ in range(20)])
    large = sheet(1500, 2000)
    large[700:712, 1200:1212] = 60
    p = detector.inspect(large)
    assert p.verdict == "defect" and detector.inspect(sheet(200, 260)).p_value > 1 / 21
    box = p.boxes()[0]
    assert box.left < 1212 and box.right > 1200 and box.top < 712 and box.bottom > 700
    assert box.right - box.left < 80 and box.bottom - box.top < 80


def test_memory_is_bounded_by_the_batch_not_by_the_picture():
    large = np.zeros((2000, 3000, 3), np.uint8)
    geometry = Geometry(64, tile=64)
    n = len(geometry.views(2000, 3000))
    tracemalloc.start()
    seen, most = 0, 0
    for batch in read_batches([large], geometry, batch_size=8, workers=1):
        seen += len(batch.images)
        most = max(most, tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert seen == n > 2000
    assert most < 3 * large.nbytes  # the decoded picture and a batch or two; all inputs together would be 110 MB
