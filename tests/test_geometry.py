"""The network's input, and maps brought back to the original."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from inlier.data.geometry import Geometry, View
from inlier.data.images import read_image
from inlier.data.region import Region
from inlier.errors import InlierError

geometries = st.tuples(st.integers(8, 48), st.one_of(st.none(), st.integers(0, 24))).map(
    lambda pair: Geometry(pair[0], None if pair[1] is None else pair[0] + pair[1])
)
sides = st.integers(2, 150)


def test_settings_are_checked() -> None:
    for wrong in ({"size": 0}, {"size": 8, "shorter_side": 7}, {"size": 8, "filter": "nearest"}):
        with pytest.raises(InlierError, match=list(wrong)[-1]):
            Geometry(**wrong)  # type: ignore[arg-type]


def test_the_input_is_what_pillow_and_torchvision_give() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (61, 100, 3), np.uint8)
    got = Geometry(32, 41)(read_image(noise))
    # Resize(41): 41 x int(41 * 100 / 61) = 67; CenterCrop(32): top round(4.5) = 4, left round(17.5) = 18
    resized = np.asarray(Image.fromarray(noise).resize((67, 41), Image.Resampling.BILINEAR))
    expected = resized[4:36, 18:50].transpose(2, 0, 1).astype(np.float32) / 255
    assert (got.dtype, got.flags.c_contiguous) == (np.float32, True)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", ["bilinear", "lanczos"])
def test_16_bit_input_keeps_its_precision_and_range(name: str) -> None:
    low = np.zeros((40, 40), np.uint16)
    low[:, 20:] = 200  # less than one step of 8 bit
    got = Geometry(40, filter=name)(read_image(low))  # type: ignore[arg-type]
    np.testing.assert_allclose(got, np.repeat(low[None] / 65535, 3, axis=0), atol=1e-8)
    edge = np.zeros((40, 40), np.uint16)
    edge[:, 20:] = 65535
    got = Geometry(64, filter=name)(read_image(edge))  # type: ignore[arg-type]
    assert got.shape == (3, 64, 64)
    assert got.min() >= 0
    assert got.max() <= 1


def test_only_images_of_read_image_are_taken() -> None:
    with pytest.raises(InlierError, match="read_image"):
        Geometry(8)(Image.new("L", (9, 9)))


def test_a_thin_strip_does_not_fill_the_memory() -> None:
    strip = Image.new("RGB", (60_000, 1))
    with pytest.raises(InlierError, match="60000 x 1 pixels: too long and thin"):
        Geometry(224, 256)(strip)
    assert Geometry(16)(strip).shape == (3, 16, 16)


def test_crop_box_in_pixels_of_the_original() -> None:
    assert Geometry(256).crop_box(View(0, 0, 100, 300)) == (0, 0, 100, 300)
    assert Geometry(224, 256).crop_box(View(0, 0, 512, 1024)) == (32, 288, 480, 736)


@settings(deadline=None)
@given(geometries, sides, sides)
def test_the_crop_box_lies_inside_the_original(geometry: Geometry, height: int, width: int) -> None:
    top, left, bottom, right = geometry.crop_box(View(0, 0, height, width))
    assert 0 <= top < bottom <= height + 1e-9
    assert 0 <= left < right <= width + 1e-9


@settings(deadline=None)
@given(geometries, sides, sides)
def test_image_mask_and_map_share_one_geometry(geometry: Geometry, height: int, width: int) -> None:
    assert geometry(Image.new("RGB", (width, height))).shape == (3, geometry.size, geometry.size)
    mask = geometry.mask(np.ones((height, width), bool))
    assert (mask.dtype, mask.shape) == (np.dtype(bool), (geometry.size, geometry.size))
    assert mask.all()


@settings(deadline=None)
@given(geometries, sides, sides, st.floats(-1e6, 1e6, width=32))
def test_a_constant_map_stays_constant_and_nan_marks_what_was_not_inspected(
    geometry: Geometry, height: int, width: int, value: float
) -> None:
    back = geometry.to_original(np.full((geometry.size, geometry.size), value, np.float32)[None], height, width)
    assert (back.dtype, back.shape) == (np.float32, (height, width))
    top, left, bottom, right = geometry.crop_box(View(0, 0, height, width))
    y, x = np.arange(height) + 0.5, np.arange(width) + 0.5
    slack = 1e-6  # pixels whose centre is on the very edge may fall on either side
    inside = np.outer((y > top + slack) & (y < bottom - slack), (x > left + slack) & (x < right - slack))
    outside = ~np.outer((y > top - slack) & (y < bottom + slack), (x > left - slack) & (x < right + slack))
    assert np.isfinite(back[inside]).all()
    assert np.isnan(back[outside]).all()
    np.testing.assert_allclose(back[inside], value, rtol=1e-5, atol=1e-6)


def test_defects_smaller_than_a_network_pixel_do_not_vanish() -> None:
    defects = [np.zeros((1024, 1024), bool) for _ in range(16)]
    for i, mask in enumerate(defects):
        mask[100 + i // 4 : 103 + i // 4, 200 + i % 4] = True  # 3 x 1 pixels, where a network pixel has 4 x 4
    geometry = Geometry(256)
    assert {int(geometry.mask(mask).sum()) for mask in defects} == {1, 2}
    # nearest neighbour sees one column of four, if a row
    assert sum(geometry.mask_and_rescued(mask)[1] for mask in defects) == 13
    large = np.zeros((1024, 1024), bool)
    large[300:400, 500:720] = True
    nearest = np.asarray(Image.fromarray(large).resize((256, 256), Image.Resampling.NEAREST))
    assert geometry.mask_and_rescued(large)[1] == 0
    np.testing.assert_array_equal(geometry.mask(large), nearest)
    np.testing.assert_array_equal(geometry.mask(large | defects[0]), nearest | geometry.mask(defects[0]))


def test_a_defect_outside_of_the_crop_is_not_brought_in() -> None:
    mask = np.zeros((64, 128), bool)
    mask[30, 2] = True
    assert not Geometry(16, 16).mask(mask).any()
    assert Geometry(16, 16).mask_and_rescued(mask)[1] == 0


def test_a_crop_smaller_than_one_pixel_inspects_none() -> None:
    assert np.isnan(Geometry(8, 18).to_original(np.zeros((1, 8, 8), np.float32), 2, 2)).all()


@settings(max_examples=300, deadline=None)
@given(geometries, st.integers(20, 150), st.integers(20, 150), st.data())
def test_what_lies_in_the_original_comes_back_to_its_place(
    geometry: Geometry, height: int, width: int, data: st.DataObject
) -> None:
    """A ramp through the original, seen by the network and brought back, is the ramp again: nothing has moved."""
    along_y = data.draw(st.booleans())
    y, x = np.mgrid[:height, :width]
    ramp = ((y + 0.5) / height if along_y else (x + 0.5) / width).astype(np.float32)
    seen = geometry(Image.fromarray(ramp))[0]
    back = geometry.to_original(seen[None], height, width)
    off = np.abs(back - ramp) * (height if along_y else width)  # in original pixels
    # at the borders the filters see only one side, within one network pixel
    margin = int(np.ceil(2 * max(height, width) / geometry.size)) + 2
    inner = np.zeros_like(off, bool)
    inner[margin:-margin, margin:-margin] = True
    inner &= np.isfinite(off)
    top, left, bottom, right = geometry.crop_box(View(0, 0, height, width))
    inner &= (y > top + margin) & (y < bottom - margin) & (x > left + margin) & (x < right - margin)
    assert (off[inner] < 0.1).all()


@settings(deadline=None)
@given(geometries, st.integers(40, 150), st.integers(40, 150), st.data())
def test_a_blob_in_the_mask_comes_back_within_one_pixel(
    geometry: Geometry, height: int, width: int, data: st.DataObject
) -> None:
    top, left, bottom, right = geometry.crop_box(View(0, 0, height, width))
    radius = 8
    cy = data.draw(st.integers(int(np.ceil(top)) + radius, max(int(np.ceil(top)) + radius, int(bottom) - radius)))
    cx = data.draw(st.integers(int(np.ceil(left)) + radius, max(int(np.ceil(left)) + radius, int(right) - radius)))
    mask = np.zeros((height, width), bool)
    mask[max(cy - radius, 0) : cy + radius, max(cx - radius, 0) : cx + radius] = True
    seen = geometry.mask(mask).astype(np.float32)
    back = geometry.to_original(seen[None], height, width)
    inside = np.isfinite(back)
    step = max((bottom - top), (right - left)) / geometry.size  # original pixels per network pixel
    y, x = np.nonzero((back > 0.5) & inside)
    true_y, true_x = np.nonzero(mask & inside)
    if len(true_y) == 0 or step > radius / 2:
        return
    for found, true in ((y, true_y), (x, true_x)):
        assert abs(found.min() - true.min()) <= max(1, step)
        assert abs(found.max() - true.max()) <= max(1, step)


def test_scaled_jpeg_files_are_for_whole_pictures() -> None:
    assert Geometry(64).least is None
    assert Geometry(64, scaled_jpeg=True).least == (128, 128)
    assert Geometry(64, 72, scaled_jpeg=True).least == (144, 144)
    with pytest.raises(InlierError, match="scaled_jpeg: tiles and regions"):
        Geometry(64, tile=100, scaled_jpeg=True)
    with pytest.raises(InlierError, match="scaled_jpeg: tiles and regions"):
        Geometry(64, region=Region(np.ones((9, 9), bool)), scaled_jpeg=True)
