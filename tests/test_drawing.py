"""Maps on pictures: colours, outlines, what was not inspected, and rows of pictures with captions."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from PIL import Image, ImageColor, ImageFont
from scipy.ndimage import binary_dilation, binary_erosion, gaussian_filter

from inlier import drawing


def painted(picture, colour):
    return (np.asarray(picture) == colour).all(axis=2)


def test_overlay_outlines_exactly_the_border():
    map_ = np.zeros((30, 40), np.float32)
    map_[10:20, 5:15] = 2
    picture = drawing.overlay(Image.new("RGB", (40, 30), "white"), map_, 1.0, (0, 3))
    line, rim = np.zeros((2, 30, 40), bool)
    line[10:20, 5:15] = True
    line[11:19, 6:14] = False
    rim[9:21, 5:15] = rim[10:20, 4:16] = True
    rim[10:20, 5:15] = False
    np.testing.assert_array_equal(painted(picture, drawing.OUTLINE), line)
    np.testing.assert_array_equal(painted(picture, drawing.RIM), rim)
    np.testing.assert_array_equal(np.asarray(picture)[0, 0], (255, 255, 255))  # nothing over quiet parts


def test_overlay_of_a_region_at_the_edge_and_of_values_at_the_threshold():
    map_ = np.zeros((8, 8), np.float32)
    map_[:3] = 2
    map_[4:] = 1  # not above
    map_[:, 6:] = np.nan
    line = painted(drawing.overlay(Image.new("RGB", (8, 8)), map_, 1.0, (0, 3)), drawing.OUTLINE)
    expected = np.zeros((8, 8), bool)
    expected[:3, :6] = True
    expected[1, 1:5] = False
    np.testing.assert_array_equal(line, expected)


def test_large_pictures_are_drawn_in_bands_as_if_whole(monkeypatch):
    rng = np.random.default_rng(0)
    map_ = gaussian_filter(rng.normal(size=(700, 400)), 15).astype(np.float32) * 50
    map_[:, :50] = np.nan
    picture = Image.fromarray(rng.integers(0, 256, (700, 400, 3), np.uint8))
    assert len(drawing._bands(map_)) == 1
    whole = drawing.overlay(picture, map_, 0.8, (-1, 2)), drawing.heat_map(map_, (-1, 2))
    monkeypatch.setattr(drawing, "_bands", lambda map: [slice(top, min(top + 9, 700)) for top in range(0, 700, 9)])
    for drawn, expected in zip((drawing.overlay(picture, map_, 0.8, (-1, 2)), drawing.heat_map(map_, (-1, 2))), whole):
        np.testing.assert_array_equal(np.asarray(drawn), np.asarray(expected))


def test_overlay_mixes_picture_and_heat_map():
    rng = np.random.default_rng(0)
    map_ = rng.normal(size=(60, 80)).astype(np.float32)
    map_[:20] = np.nan
    part = rng.integers(0, 256, (60, 80, 3))
    share = 0.6 * np.clip((map_ + 1) / 2, 0, 1)[..., None]
    share[np.isnan(share)] = 0.35
    expected = part * (1 - share) + np.asarray(drawing.heat_map(map_, (-1, 1))) * share
    drawn = drawing.overlay(Image.fromarray(part.astype(np.uint8)), map_, None, (-1, 1))
    # half a grey level by rounding, and as much by 256 levels of the map
    np.testing.assert_allclose(np.asarray(drawn), expected, rtol=0, atol=0.5 + 0.6 * 255 / 510)


def test_outlines_are_of_even_width_on_large_pictures():
    rng = np.random.default_rng(0)
    region = gaussian_filter(rng.normal(size=(900, 700)), 30) > 0.01
    line, rim = drawing.outline(region)
    width = round(900 / 200)
    np.testing.assert_array_equal(line, region & ~binary_erosion(region, iterations=width))
    np.testing.assert_array_equal(rim, binary_dilation(region, iterations=width) & ~region)
    for nothing_to_outline in (np.zeros((30, 40), bool), np.ones((30, 40), bool)):
        line, rim = drawing.outline(nothing_to_outline)
        assert not rim.any() and line.any() == nothing_to_outline.any()


def test_drawing_a_large_picture_takes_little_more_memory_than_the_result():
    picture, map_ = Image.new("RGB", (2500, 2000)), np.zeros((2000, 2500), np.float32)
    map_[500:1500, 500:1500] = 2
    tracemalloc.start()
    drawing.overlay(picture, map_, 1.0, (0, 3))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2500 * 2000  # bytes a pixel; whole pictures of float would take 64


def test_overlay_without_threshold_has_no_outline():
    map_ = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    assert not painted(drawing.overlay(Image.new("RGB", (8, 8)), map_, None, (0, 1)), drawing.OUTLINE).any()


def test_overlay_of_another_size_is_an_error():
    with pytest.raises(ValueError, match="differ in size"):
        drawing.overlay(Image.new("RGB", (8, 9)), np.zeros((8, 9), np.float32), None, (0, 1))


def test_overlay_of_16_bit_grey_keeps_its_brightness():
    grey = Image.fromarray(np.full((8, 8), 0.5, np.float32))
    assert np.asarray(drawing.overlay(grey, np.zeros((8, 8), np.float32), None, (0, 1)))[0, 0].tolist() == [128] * 3


def test_same_value_same_colour():
    rng = np.random.default_rng(0)
    one, two = rng.uniform(0, 10, (2, 20, 20)).astype(np.float32)
    two[3, 4] = one[7, 8]
    scale = (2.0, 8.0)
    assert drawing.heat_map(one, scale).getpixel((8, 7)) == drawing.heat_map(two, scale).getpixel((4, 3))
    ends = np.array([[-5, 2, 8, 99]], np.float32)
    colours = np.asarray(drawing.heat_map(ends, scale))[0]
    assert (colours[0] == colours[1]).all()
    assert (colours[2] == colours[3]).all()


def test_heat_map_hatches_what_was_not_inspected():
    map_ = np.zeros((40, 40), np.float32)
    map_[:10] = np.nan
    pixels = np.asarray(drawing.heat_map(map_, (0, 1)))
    assert {tuple(p) for p in pixels[:10].reshape(-1, 3).tolist()} == set(drawing.HATCH)
    assert {tuple(p) for p in pixels[10:].reshape(-1, 3).tolist()}.isdisjoint(drawing.HATCH)
    drawing.heat_map(np.full((4, 4), np.nan, np.float32), drawing.colour_scale([np.full((4, 4), np.nan, np.float32)]))


def test_maps_over_orders_of_magnitude_are_drawn_by_their_logarithm():
    drawn = drawing.drawable(np.array([0.0, 1e-3, 1.0, 100.0], np.float32), True)
    assert drawn.tolist() == pytest.approx([-30, -3, 0, 2], abs=1e-5)
    assert drawing.drawable(0.01, True) == -2 and drawing.drawable(0.01, False) == 0.01
    assert drawing.drawable(None, True) is None


def test_colour_scale():
    rng = np.random.default_rng(0)
    maps = list(rng.uniform(1, 2, (20, 30, 30)).astype(np.float32))
    maps[0][0, 0] = 1000  # a single extreme value decides nothing
    maps[1][:9] = np.nan
    low, high = drawing.colour_scale(maps)
    assert low == pytest.approx(1.05, abs=0.02)
    assert high == pytest.approx(2, abs=0.02)
    assert drawing.colour_scale(maps, 5.0) == (low, 5.0)
    assert drawing.colour_scale([np.ones((3, 3), np.float32)]) == (1, 2)


def test_shrink_keeps_the_aspect_and_small_defects():
    mask = np.zeros((1200, 600), bool)
    mask[700, 300] = True
    image, small, map_ = drawing.shrink(Image.new("RGB", (600, 1200)), mask, np.zeros((1200, 600), np.float32))
    assert image.size == (150, 300)
    assert small.shape == map_.shape == (300, 150)
    assert small.sum() == 1
    assert drawing.shrink(Image.new("RGB", (2000, 10)), None, np.zeros((10, 2000), np.float32))[0].size == (450, 2)


def lightness(colours):
    """CIE L* of sRGB colours (..., 3) in [0, 255]."""
    share = colours / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)
    return np.where(linear > 0.008856, 116 * np.cbrt(linear) - 16, 903.3 * linear)


def test_palette_grows_lighter_in_even_steps():
    bar = np.asarray(drawing.colour_bar())
    assert bar.shape == (1, 256, 3)
    steps = np.diff(lightness(bar[0]))
    assert steps.min() > 0
    assert steps.max() < 0.7  # 256 of them make up the whole range of about 100


def test_palette_is_inferno():
    colormaps = pytest.importorskip("matplotlib", reason="matplotlib is the reference of the palette").colormaps
    inferno = np.asarray(colormaps["inferno"](np.arange(256), bytes=True))[:, :3]
    np.testing.assert_allclose(np.asarray(drawing.colour_bar())[0].astype(int), inferno, rtol=0, atol=2)


def test_drawing_needs_neither_charts_nor_pages():
    code = """
import sys

sys.modules |= dict.fromkeys(("matplotlib", "jinja2", "markupsafe"))  # None: importing them fails
import numpy as np
from PIL import Image

from inlier import drawing

drawing.panels([drawing.overlay(Image.new("RGB", (8, 8)), np.eye(8, dtype="f4"), 0.5, (0, 1))], ["overlay"])
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_drawing_does_not_load_matplotlib():
    code = "import sys, inlier.drawing; sys.exit('matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# -- panels -----------------------------------------------------------------------------------------------------------


def ink(sheet):
    """(columns,) of a part of a sheet that holds only text: whether there is any."""
    return (np.asarray(sheet) < 255).any(axis=(0, 2))


def test_panels_shows_every_picture_unchanged():
    colours = ["red", "lime", "blue"]
    pictures = [Image.new("RGB", (100 + 20 * i, 90), colour) for i, colour in enumerate(colours)]
    sheet = drawing.panels(pictures, ["one", "two", "three"], "title")
    assert sheet.mode == "RGB"
    places = [painted(sheet, ImageColor.getrgb(colour)) for colour in colours]
    assert [place.sum() for place in places] == [90 * 100, 90 * 120, 90 * 140]
    rows = [np.flatnonzero(place.any(axis=1)) for place in places]
    assert (rows[0] == rows[1]).all() and (rows[0] == rows[2]).all()
    assert sheet.height - 1 > rows[0][-1]
    assert (np.asarray(sheet)[[0, -1]] == 255).all() and (np.asarray(sheet)[:, [0, -1]] == 255).all()


def test_panels_takes_what_is_drawn_elsewhere():
    grey = Image.fromarray(np.full((60, 80), 0.5, np.float32))
    sheet = drawing.panels([grey, Image.fromarray(np.ones((60, 80), bool))], ["16 bit", "ground truth"])
    assert painted(sheet, (128,) * 3).sum() >= 60 * 80


def test_panels_without_title_leaves_no_line_for_it():
    picture = Image.new("RGB", (200, 180))
    bare, titled = drawing.panels([picture], ["a"]), drawing.panels([picture], ["a"], "b")
    assert bare.width == titled.width
    assert bare.height < titled.height


@pytest.mark.parametrize("side", [40, 180, 900])
def test_long_text_is_cut_and_never_overlaps(side):
    pictures = [Image.new("RGB", (side, side), "white")] * 2  # white, so that all ink is text
    short, long = "W", "Wide words\nwithout an end " * 20
    sheet = drawing.panels(pictures, [long, short])
    second = np.flatnonzero(ink(drawing.panels(pictures, ["", short])))[0]
    alone = ink(drawing.panels(pictures, [long, ""]))
    assert alone[: second - 1].any() and not alone[second - 2 :].any()
    np.testing.assert_array_equal(ink(sheet)[: second - 1], alone[: second - 1])
    assert not ink(drawing.panels(pictures, ["", ""], long))[-2:].any()


def test_cut_text_ends_in_an_ellipsis():
    font = ImageFont.load_default(20)
    assert drawing._cut("short", font, 200) == "short"
    cut = drawing._cut("far too long for this place", font, 100)
    assert cut.endswith("…") and "far too long for this place".startswith(cut[:-1])
    assert 50 < font.getbbox(cut)[2] <= 100
    assert drawing._cut("nothing fits", font, 3) == ""
    dots, unknown = (font.getmask(sign).getbbox() for sign in ("…", "\uffff"))
    assert dots != unknown  # the font has it


def test_panels_wants_a_caption_for_each_picture():
    with pytest.raises(ValueError):
        drawing.panels([Image.new("RGB", (8, 8))], [])


def test_evidence_is_drawn_with_its_limit_and_the_change():
    calm = drawing.evidence([(0, 0.0), (50, -0.3), (100, -0.5)], 2.0, None)
    assert (
        painted(calm, ImageColor.getrgb(drawing.CURVE)).any() and painted(calm, ImageColor.getrgb(drawing.LIMIT)).any()
    )
    alarmed = np.asarray(drawing.evidence([(0, 0.0), (50, -0.3), (100, 300.0)], 2.0, (50, 80)))
    shaded = np.flatnonzero((alarmed == ImageColor.getrgb(drawing.CHANGED)).all(2).any(axis=0))
    assert shaded.min() >= 60 + 0.5 * 810 - 2 and shaded.max() <= 60 + 0.8 * 810 + 2
    assert drawing.evidence([(0, 0.0)], 2.0, None).size == calm.size  # before the first picture
