"""Simulated defects: the numbers of the released code, exact masks, and nothing left to the order of things."""

import hashlib
import pickle
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from golden import load
from inlier.data.simulation import simulator as simulating
from inlier.data.simulation.foreground import (
    RELEASED,
    WHOLE,
    Foreground,
    choose_foreground,
    foreground_rule,
    grey,
    otsu,
)
from inlier.data.simulation.noise import draw_noise, perlin_noise
from inlier.data.simulation.sheet import outlined, preview_sheet
from inlier.data.simulation.simulator import FALLBACK_SHARE, Simulator, blend, is_grey
from inlier.data.simulation.sources import OPERATIONS, Textures, draw_structure, open_textures, shuffle_tiles
from inlier.errors import InlierError

CASE, TENSORS = load("memseg_data")
GOLDEN = {name: tensor.numpy() for name, tensor in TENSORS.items()}
RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (48, 64, 3), np.uint8)


def unpack(name, shape):
    return np.unpackbits(GOLDEN[name], count=shape[0] * shape[1]).reshape(shape).astype(bool)


def disc(part, background, radius=20, size=96):
    """A round part in the middle of a plain picture, with the grain of a camera."""
    y, x = np.indices((size, size)) - size / 2
    values = np.where(x**2 + y**2 < radius**2, float(part), float(background))
    return np.repeat((values + RNG.normal(0, 3, values.shape)).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


def rgb(values):
    return np.repeat(np.asarray(values).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)


@pytest.fixture
def textures(tmp_path):
    for name in ("a.png", "deep/b.jpg", "deep/er/c.png"):
        path = tmp_path / "textures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (30, 20, 3), np.uint8)).save(path)
    return open_textures(tmp_path / "textures")


# --- the released code's numbers


@pytest.mark.parametrize("name", CASE["config"]["perlin"])
def test_perlin_noise(name):
    height, width, *_ = CASE["config"]["perlin"][name]
    noise = perlin_noise(GOLDEN[f"in.perlin.{name}.u"], height, width)
    if f"out.perlin.{name}.noise" in GOLDEN:  # the others are left out for size
        np.testing.assert_allclose(noise, GOLDEN[f"out.perlin.{name}.noise"], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(noise > 0.5, unpack(f"out.perlin.{name}.mask", noise.shape))


@pytest.mark.parametrize("index, name", list(enumerate(CASE["config"]["blends"])))
def test_foreground_and_blend(index, name):
    used, threshold, brighter, beta = CASE["config"]["blends"][name]
    assert float(GOLDEN["in.blend.beta"][index]) == pytest.approx(beta)
    image, source = GOLDEN["in.blend.image"], GOLDEN["in.blend.source"]
    foreground = (Foreground(threshold, not brighter, radius=0) if used else WHOLE)(image)
    if used:
        np.testing.assert_array_equal(foreground, unpack(f"out.blend.{name}.foreground", foreground.shape))
    mask = unpack("in.blend.mask", foreground.shape) & foreground
    np.testing.assert_array_equal(mask, unpack(f"out.blend.{name}.mask", mask.shape))
    blended = blend(image, source, mask, float(GOLDEN["in.blend.beta"][index]))
    np.testing.assert_array_equal(blended, GOLDEN[f"out.blend.{name}.image"])


def test_tiles():
    shuffled = shuffle_tiles(GOLDEN["in.blend.image"], (8, 8), GOLDEN["out.tiles.order"])
    np.testing.assert_array_equal(shuffled, GOLDEN["out.tiles.image"])


# --- noise and tiles at sizes that do not divide


def test_noise_is_zero_at_every_corner_of_the_cells():
    noise = perlin_noise(RNG.random((4, 6)), 30, 50)
    np.testing.assert_allclose(noise[::10, ::10], 0, atol=1e-15)
    assert noise.std() > 0.1


def test_noise_of_cells_without_a_whole_number_of_pixels():
    angles = RNG.random((4, 4))
    coarse, fine = perlin_noise(angles, 20, 31), perlin_noise(angles, 200, 310)
    np.testing.assert_allclose(coarse, fine[::10, ::10], atol=1e-12)


def test_turned_noise_comes_from_the_generator_alone():
    first, second = (draw_noise(np.random.default_rng(5), (40, 60)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (40, 60) and first.dtype == np.float32 and np.abs(first).max() < 1.5


@pytest.mark.parametrize("shape", [(48, 64), (50, 61), (3, 5)])
def test_tiles_of_any_size(shape):
    image = RNG.integers(0, 256, (*shape, 3), np.uint8)
    np.testing.assert_array_equal(shuffle_tiles(image, (4, 8), range(32)), image)
    shuffled = shuffle_tiles(image, (4, 8), RNG.permutation(32))
    assert shuffled.shape == image.shape
    colours = {tuple(pixel) for pixel in image.reshape(-1, 3)}
    assert {tuple(pixel) for pixel in shuffled.reshape(-1, 3)} <= colours


def test_tiles_that_divide_only_move():
    shuffled = shuffle_tiles(PICTURE, (4, 8), np.roll(np.arange(32), 1))
    np.testing.assert_array_equal(shuffled[:12, 8:], PICTURE[:12, :-8])
    np.testing.assert_array_equal(shuffled[:12, :8], PICTURE[-12:, -8:])


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_every_operation_keeps_size_and_kind_and_changes_something(operation):
    image = Image.fromarray(PICTURE)
    results = [operation(image, np.random.default_rng(seed)) for seed in range(8)]
    assert {(result.size, result.mode) for result in results} == {((64, 48), "RGB")}
    assert any(np.asarray(result).tobytes() != PICTURE.tobytes() for result in results)


def test_structure_is_made_of_the_picture():
    flat = np.full((40, 40, 3), 128, np.uint8)
    flat[:20] = 60
    source = draw_structure(np.random.default_rng(0), flat)
    assert source.shape == flat.shape and source.dtype == np.uint8
    assert source.tobytes() != flat.tobytes()


# --- foreground


def test_grey_weighs_the_colours():
    pixels = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    assert grey(pixels).tolist() == [[76, 150, 29, 255]]
    assert grey(np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2)).tolist() == [list(range(256))]


def test_grey_of_every_colour_is_opencvs():
    """Table by table, as OpenCV's fixed point: 15 bits, the weights of red and green rounded, blue the rest."""
    weights = round(0.299 * 2**15), round(0.587 * 2**15)
    red, green, blue = (w * np.arange(256) for w in (*weights, 2**15 - sum(weights)))
    digest, square = hashlib.sha256(), np.zeros((256, 256, 3), np.uint8)
    square[..., 1:] = np.moveaxis(np.indices((256, 256)), 0, 2)
    for value in range(256):
        square[..., 0] = value
        found = grey(square)
        np.testing.assert_array_equal(found, (red[value] + green[:, None] + blue + 2**14) // 2**15)
        digest.update(found.tobytes())
    # of cv2.cvtColor(colours, cv2.COLOR_RGB2GRAY), in this order
    assert digest.hexdigest() == "6d4f6d7f4301c52d2672db66451b4a06a5502bef956dd81b577660f956f410ae"


def test_otsu_splits_in_the_middle_of_two_peaks():
    values = np.repeat(np.array([[50, 200]], np.uint8), 8, axis=0)
    threshold, explained = otsu(values)
    assert 120 <= threshold <= 130 and explained == pytest.approx(1)
    assert otsu(np.full((4, 4), 7, np.uint8)) == (7, 0.0)


def test_opening_removes_dust_and_closing_fills_pin_holes():
    image = np.full((40, 40, 3), 200, np.uint8)
    image[5, 5] = 0  # dust
    image[15:30, 15:] = 0  # a part that reaches the border
    wanted = image[..., 0] == 0
    image[20, 20] = 200  # a pin hole
    assert Foreground(100, darker=True, radius=0)(image).tolist() == (image[..., 0] == 0).tolist()
    wanted[5, 5] = False
    np.testing.assert_array_equal(Foreground(100, darker=True)(image), wanted)
    np.testing.assert_array_equal(Foreground("otsu", darker=True)(image), wanted)


@pytest.mark.parametrize("part, background, darker", [(60, 200, True), (210, 30, False)])
def test_the_part_is_what_avoids_the_border(part, background, darker):
    rule = choose_foreground([disc(part, background) for _ in range(5)])
    assert rule == Foreground("otsu", darker)
    mask = rule(disc(part, background))
    assert mask[48, 48] and not mask[0, 0]
    assert mask.mean() == pytest.approx(np.pi * 20**2 / 96**2, rel=0.05)


def stripes():
    return rgb(np.where(np.indices((96, 96))[1] // 8 % 2, 200, 40))


def cell():
    """Hardly any background, and dark lines that belong to the part."""
    values = np.full((96, 96), 180.0)
    values[[0, 1, -1, -2]] = values[:, [0, 1, -1, -2]] = values[30:33] = values[60:63] = 20
    return rgb(values)


@pytest.mark.parametrize(
    "picture",
    [
        lambda: rgb(RNG.normal(120, 30, (96, 96))),
        lambda: rgb(np.tile(np.linspace(20, 220, 96), (96, 1))),
        lambda: rgb(np.full((96, 96), 90)),
        lambda: rgb(np.where(RNG.random((96, 96)) < 0.05, 20, 200)),
        stripes,
        cell,
    ],
    ids=["grain", "gradient", "one colour", "speckles", "stripes", "no background"],
)
def test_without_a_clear_part_the_whole_picture_counts(picture):
    assert choose_foreground([picture() for _ in range(4)]) == WHOLE
    assert WHOLE(picture()).all()


def test_the_good_images_must_agree():
    dark, bright = disc(60, 200), disc(200, 60)
    assert choose_foreground([dark] * 9 + [bright]) == Foreground("otsu", darker=True)
    assert choose_foreground([dark] * 6 + [bright] * 4) == WHOLE
    assert choose_foreground([]) == WHOLE


@pytest.mark.parametrize(
    "choice, rule",
    [
        ("whole", WHOLE),
        ("brighter", Foreground("otsu", False)),
        ("darker", Foreground("otsu", True)),
        ("darker:120", Foreground(120, True)),
        ("brighter:0", Foreground(0, False)),
        ("released", RELEASED["screw"]),
        ("auto", Foreground("otsu", True)),
    ],
)
def test_a_rule_by_name(choice, rule):
    assert foreground_rule(choice, "screw", [disc(60, 200)]) == rule


@pytest.mark.parametrize("choice", ["", "darker:", "darker:x", "darker:300", "darker:²", "otsu", "auto:3", "lighter:3"])
def test_an_unknown_rule_is_refused(choice):
    with pytest.raises(InlierError, match="setting 'foreground': got .*0 to 255"):
        foreground_rule(choice, "screw", [])


def test_the_released_table_knows_mvtec_only():
    assert len(RELEASED) == 15
    with pytest.raises(InlierError, match="no released rule for 'bolt'.*bottle"):
        foreground_rule("released", "bolt", [])


# --- textures


def test_textures_of_a_folder_and_its_subfolders(textures):
    assert [path.name for path in textures.paths] == ["a.png", "b.jpg", "c.png"]
    drawn = {textures.draw(np.random.default_rng(seed), 24, 32).tobytes() for seed in range(20)}
    assert len(drawn) == 3
    expected = Image.open(textures.paths[0]).resize((32, 24), Image.Resampling.BILINEAR)
    assert np.asarray(expected).tobytes() in drawn


def test_a_grey_texture_of_16_bit(tmp_path):
    Image.fromarray(np.full((8, 8), 257 * 100, np.uint16)).save(tmp_path / "deep.png")
    drawn = open_textures(tmp_path).draw(np.random.default_rng(0), 4, 6)
    np.testing.assert_array_equal(drawn, np.full((4, 6, 3), 100, np.uint8))


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(InlierError, match=r"holds no pictures; --textures"):
        open_textures(tmp_path)
    with pytest.raises(InlierError, match=r"nowhere: not found; --textures .*takes a folder of pictures"):
        open_textures(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(InlierError, match="file: is a file; --textures"):
        open_textures(tmp_path / "file")


def test_all_unreadable_textures_are_named_at_once(tmp_path, textures):
    folder = tmp_path / "textures"
    (folder / "empty.png").touch()
    (folder / "text.jpg").write_text("not a picture")
    with pytest.raises(InlierError, match=r"2 of 5 textures cannot be read") as error:
        open_textures(folder)
    assert "empty.png" in str(error.value) and "text.jpg" in str(error.value) and "a.png" not in str(error.value)


def test_a_truncated_texture_is_named_when_it_is_drawn(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "cut.jpg")
    data = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    with pytest.raises(InlierError, match=r"cut\.jpg: cannot be decoded"):
        Textures((tmp_path / "cut.jpg",), "one").draw(np.random.default_rng(0), 8, 8)


def test_without_a_folder_the_textures_of_scikit_image_are_taken(tmp_path, monkeypatch):
    package = tmp_path / "skimage"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    monkeypatch.setattr("sys.path", [str(tmp_path)])  # stands for the installed package, which is optional
    monkeypatch.delitem(__import__("sys").modules, "skimage", raising=False)
    assert open_textures() is None  # a version without the pictures
    for name in ("brick", "grass", "gravel"):
        Image.new("L", (8, 8), 90).save(package / "data" / f"{name}.png")
    found = open_textures()
    assert [path.stem for path in found.paths] == ["brick", "grass", "gravel"]
    assert "scikit-image" in replace(Simulator(), textures=found).describe()


def test_without_any_textures_there_is_only_structure(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert open_textures() is None
    simulator = Simulator(texture_share=1.0)
    assert {simulator(PICTURE, (k,)).kind for k in range(8)} == {"structure"}
    assert "texture" not in simulator.describe()


# --- the whole simulation


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b))


@pytest.mark.parametrize("foreground", [WHOLE, Foreground("otsu", darker=True)])
def test_the_mask_is_exact(textures, foreground):
    simulator = Simulator(foreground=foreground, textures=textures)
    image = disc(60, 200)
    before = image.copy()
    kinds = set()
    for k in range(60):
        result = simulator(image, (k,))
        assert result.image.dtype == np.uint8 and result.mask.dtype == bool
        assert result.mask.any() and not (result.mask & ~result.foreground).any()
        np.testing.assert_array_equal(result.image[~result.mask], image[~result.mask])
        kinds.add(result.kind)
    np.testing.assert_array_equal(image, before)
    assert kinds == {"texture", "structure"}


def test_only_seed_and_key_decide(textures):
    simulator = Simulator(seed=3, textures=textures)
    forwards = [simulator(PICTURE, (1, k)) for k in range(6)]
    copy = pickle.loads(pickle.dumps(simulator))  # as in a worker
    backwards = [copy(PICTURE, (1, k)) for k in reversed(range(6))]
    assert copy == simulator
    assert all(equal(a, b) for a, b in zip(forwards, reversed(backwards)))
    assert len({result.noise.tobytes() for result in forwards}) == 6
    assert not np.array_equal(replace(simulator, seed=4)(PICTURE, (1, 0)).noise, forwards[0].noise)


def test_a_grey_picture_can_be_given_grey_defects_only(textures):
    grey, simulator = np.repeat(PICTURE[..., :1], 3, 2), Simulator(textures=textures, match_grey=True)
    assert all(is_grey(simulator(grey, (k,)).image) for k in range(6))
    assert not all(is_grey(replace(simulator, match_grey=False)(grey, (k,)).image) for k in range(6))
    assert equal(simulator(PICTURE, (1,)), replace(simulator, match_grey=False)(PICTURE, (1,)))


def test_both_kinds_of_defect_share_the_mask(textures):
    simulator = Simulator(textures=textures)
    texture, structure = (replace(simulator, texture_share=share)(PICTURE, (7,)) for share in (1.0, 0.0))
    assert (texture.kind, structure.kind) == ("texture", "structure")
    np.testing.assert_array_equal(texture.mask, structure.mask)


def test_an_opacity_of_one_is_the_source(monkeypatch):
    monkeypatch.setattr(simulating, "OPACITY", (1, 1))
    result = Simulator()(PICTURE, (0,))
    np.testing.assert_array_equal(result.image[result.mask], result.source[result.mask])


def test_a_picture_without_foreground_is_taken_whole_and_says_so():
    simulator = Simulator(foreground=Foreground(250))
    result = simulator(disc(60, 200), (0,))
    assert result.whole_image and result.foreground.all() and result.mask.any()
    assert not simulator(disc(255, 60), (0,)).whole_image


def test_a_mask_is_never_empty(monkeypatch):
    monkeypatch.setattr(simulating, "THRESHOLD", 2.0)  # no noise gets there
    simulator = Simulator()
    results = [simulator(PICTURE, (k,)) for k in range(5)]
    for result in results:
        assert result.mask.mean() == pytest.approx(FALLBACK_SHARE, rel=0.2)
        assert result.noise[result.mask].min() >= result.noise[~result.mask].max()
    dot = np.full((64, 64, 3), 10, np.uint8)
    dot[40:43, 20:23] = 250
    assert replace(simulator, foreground=Foreground(128))(dot, (0,)).mask.any()


def test_it_says_what_it_does(textures):
    simulator = Simulator(foreground=Foreground(120, darker=True), textures=textures, texture_share=0.25)
    sentence = simulator.describe()
    assert "darker than grey 120" in sentence and "25 %" in sentence and "3 pictures in" in sentence
    assert "anywhere" in Simulator().describe()


@pytest.mark.parametrize(
    "image",
    [PICTURE[..., 0], PICTURE[..., :2], PICTURE / 255, PICTURE.astype(np.uint16), PICTURE[:0]],
    ids=["grey", "two channels", "float", "16 bit", "no pixels"],
)
def test_other_pictures_are_refused(image):
    with pytest.raises(InlierError, match="uint8"):
        Simulator()(image, (0,))


@pytest.mark.parametrize(
    "setting",
    [
        {"seed": -1},
        {"texture_share": 1.5},
        {"grid": (0, 8)},
    ],
    ids=str,
)
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(InlierError, match=next(iter(setting))):
        Simulator(**setting)


@pytest.mark.parametrize("values", [{"threshold": 256}, {"threshold": "auto"}, {"radius": -1}], ids=str)
def test_rules_out_of_range_are_refused(values):
    with pytest.raises(InlierError, match=next(iter(values))):
        Foreground(**values)


# --- the sheet


def test_the_sheet_has_a_column_for_each_step_and_a_row_for_each_image(textures):
    simulator = Simulator(textures=textures)
    sheet, bare = preview_sheet([PICTURE], simulator), preview_sheet([PICTURE], replace(simulator, textures=None))
    assert sheet.mode == "RGB" and np.asarray(sheet).std() > 30
    assert sheet.width * 6 == pytest.approx(bare.width * 8, rel=0.01)
    rows = [preview_sheet([PICTURE] * n, replace(simulator, textures=None)).height for n in (1, 2, 3)]
    assert rows[2] - rows[1] == rows[1] - rows[0] > 256 * 48 / 64


def columns_with(sheet, colour):
    return np.flatnonzero((np.asarray(sheet) == colour).all(axis=2).any(axis=0))


def test_the_steps_stand_in_their_order(monkeypatch):
    monkeypatch.setattr(simulating, "OPACITY", (1, 1))
    picture = np.full((256, 256, 3), (200, 100, 50), np.uint8)
    picture[:128] = (20, 10, 5)
    simulator = Simulator(foreground=Foreground(100, darker=True))
    sheet, step = preview_sheet([picture], simulator), 266
    shade = picture[200, 0] // 4 + np.array((40, 70, 110)) // 4 * 3
    assert columns_with(sheet, shade).tolist() == list(range(10 + step, 10 + step + 256))
    original = columns_with(sheet, (200, 100, 50))
    assert original[0] == 10 and set(original // step) == {0, 5}  # the good image and the result
    result = simulator(picture, (0, 0))
    left, top = 10 + 3 * step, np.flatnonzero((np.asarray(sheet)[:, 10] == (20, 10, 5)).all(axis=1))[0]
    mask = np.asarray(sheet)[top : top + 256, left : left + 256]
    np.testing.assert_array_equal(mask[..., 0] == 255, result.mask)
    noise = np.asarray(sheet)[top : top + 256, left - step : left - step + 256, 0]
    np.testing.assert_allclose(noise / 127.5 - 1, result.noise.clip(-1, 1), atol=0.01)


def test_a_picture_without_foreground_has_a_note_below_it():
    simulator, images = Simulator(foreground=Foreground(250)), [disc(60, 200), disc(255, 60)]
    none, found = (preview_sheet([image], simulator) for image in images)
    assert none.height > found.height and none.width == found.width


@pytest.mark.parametrize("name", ["002.png", "a/very/long/way/" * 20 + "001.png", "", "\udcff\n.png"], ids=len)
def test_names_stand_at_the_left_and_long_ones_are_cut(name):
    without, sheet = preview_sheet([PICTURE], Simulator()), preview_sheet([PICTURE], Simulator(), [name])
    assert sheet.height == without.height
    assert 0 < sheet.width - without.width < 40
    beside = np.asarray(sheet)[:, 10 : sheet.width - without.width]
    assert (beside.min() < 100) == bool(name)


def test_a_long_description_takes_more_lines(textures):
    long = replace(textures, origin="/a/long/way" * 60)
    short, tall = (preview_sheet([PICTURE], Simulator(textures=origin)) for origin in (textures, long))
    assert short.height < tall.height and short.width == tall.width


def test_the_outline_hides_nothing_of_a_defect():
    result = Simulator()(PICTURE, (2,))
    shown = outlined(result)
    np.testing.assert_array_equal(shown[result.mask], result.image[result.mask])
    assert (shown[~result.mask] != result.image[~result.mask]).any()


def test_slow_changes_have_no_edge_and_reach_their_strength_inside_the_mask():
    plain = np.full((96, 96, 3), 120, np.uint8)
    for k in range(10):
        made = Simulator(seed=1, slow_share=1.0)(plain, (k,))
        change = made.image[..., 0].astype(int) - 120
        assert made.kind == "slow" and made.mask.any() and 10 <= np.abs(change).max() <= 60
        assert (
            np.abs(np.diff(change, axis=0)).max() <= 0.25 * np.abs(change).max() + 1
        )  # a sharp defect jumps by its whole strength
        assert np.abs(change[made.mask]).min() >= np.abs(change).max() / 2 - 1 > np.abs(change[~made.mask]).max() - 2


def test_without_slow_changes_defects_are_those_of_before():
    for k in range(4):
        one, other = (Simulator(seed=3, slow_share=share)(PICTURE, (k,)) for share in (0.0, 1e-9))
        assert one.kind in ("structure", "texture") and other.kind != "slow"
    with pytest.raises(InlierError, match="slow_share"):
        Simulator(slow_share=1.5)
