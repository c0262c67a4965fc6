"""Reading pictures: files, arrays, what cannot be used, and folders of them."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from inlier.data.images import list_images, read_image, read_mask, source_name
from inlier.errors import ImageError, InlierError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (12, 20), np.uint8)
COLOUR = RNG.integers(0, 256, (12, 20, 3), np.uint8)
DEEP = RNG.integers(0, 65536, (12, 20)).astype(np.uint16)


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def huge_png(path: Path, side: int) -> Path:
    """A PNG of a few bytes whose header promises side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


# --- read_image: files


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".tiff", ".PNG"])
def test_lossless_formats_keep_every_value(tmp_path: Path, suffix: str) -> None:
    image = read_image(save(tmp_path / f"a{suffix}", COLOUR))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), COLOUR)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_formats(tmp_path: Path, suffix: str) -> None:
    image = read_image(str(save(tmp_path / f"a{suffix}", np.full((12, 20, 3), 90, np.uint8))))
    assert (image.mode, image.size) == ("RGB", (20, 12))
    assert abs(np.asarray(image).astype(int) - 90).max() <= 2


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    pixels = np.asarray(read_image(save(tmp_path / "a.png", GREY)))
    np.testing.assert_array_equal(pixels, np.repeat(GREY[:, :, None], 3, axis=2))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_keeps_its_precision(tmp_path: Path, suffix: str) -> None:
    image = read_image(save(tmp_path / f"a{suffix}", DEEP))
    assert image.mode == "F"
    np.testing.assert_array_equal(np.rint(np.asarray(image) * 65535), DEEP)


def test_16_bit_grey_in_every_pillow_mode(tmp_path: Path) -> None:
    big_endian = Image.frombytes("I;16B", (20, 12), DEEP.astype(">u2").tobytes())
    big_endian.save(tmp_path / "big.tif")
    save(tmp_path / "int32.tif", DEEP.astype(np.int32))
    for path in list_images(tmp_path):
        np.testing.assert_array_equal(np.rint(np.asarray(read_image(path)) * 65535), DEEP)


def test_32_bit_values_beyond_16_bit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"a.tif: values must lie in \[0, 65535\], these go from 70000 to 70000"):
        read_image(save(tmp_path / "a.tif", np.full((3, 3), 70000, np.int32)))


def test_float_tiff(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "a.tif", np.full((3, 3), 0.25, np.float32)))
    assert image.mode == "F"
    assert np.asarray(image).max() == 0.25
    with pytest.raises(ImageError, match=r"in \[0, 1\]"):
        read_image(save(tmp_path / "b.tif", np.full((3, 3), 200, np.float32)))


def test_transparent_parts_are_black(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (200, 100, 50, 0)).save(tmp_path / "rgba.png")
    Image.new("LA", (4, 4), (200, 0)).save(tmp_path / "la.png")
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(tmp_path / "palette.png", transparency=1)
    Image.new("RGB", (4, 4), (9, 9, 9)).save(tmp_path / "key.png", transparency=(9, 9, 9))
    for path in list_images(tmp_path):
        assert not np.asarray(read_image(path)).any(), path
    half = read_image(Image.new("RGBA", (1, 1), (200, 100, 50, 128)))
    assert half.getpixel((0, 0)) == (100, 50, 25)


def test_palette_cmyk_and_one_bit(tmp_path: Path) -> None:
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 255, 10, 20])
    palette.save(tmp_path / "p.png")
    assert read_image(tmp_path / "p.png").getpixel((0, 0)) == (255, 10, 20)
    Image.new("CMYK", (4, 4), (0, 0, 0, 255)).save(tmp_path / "c.tif")
    assert read_image(tmp_path / "c.tif").getpixel((0, 0)) == (0, 0, 0)
    Image.new("1", (4, 4), 1).save(tmp_path / "b.png")
    assert read_image(tmp_path / "b.png").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_exif_rotation(tmp_path: Path, suffix: str) -> None:
    array = np.zeros((16, 32), np.uint8)
    array[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    Image.fromarray(array).convert("RGB").save(tmp_path / f"a{suffix}", exif=exif)
    image = read_image(tmp_path / f"a{suffix}")
    assert image.size == (16, 32)
    assert np.asarray(image)[:8, -8:].mean() > 240


def test_exif_rotation_of_16_bit(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = read_image(save(tmp_path / "a.png", DEEP, exif=exif))
    np.testing.assert_array_equal(np.rint(np.asarray(image) * 65535), np.rot90(DEEP, -1))


def test_paths_with_spaces_and_other_alphabets(tmp_path: Path) -> None:
    folder = tmp_path / "gute Teile äöü 部品"
    folder.mkdir()
    path = save(folder / "bild nº 1.png", COLOUR)
    assert list_images(folder) == [path]
    assert read_image(path).size == (20, 12)


# --- read_image: what cannot be used


def test_missing_empty_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone.png: No such file"):
        read_image(tmp_path / "gone.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(ImageError, match=r"empty.png: the file is empty"):
        read_image(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("not a picture at all")
    with pytest.raises(ImageError, match=r"text.png: not a PNG, JPEG, BMP, TIFF or WebP image"):
        read_image(tmp_path / "text.png")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ImageError, match=r"folder.png: Is a directory"):
        read_image(tmp_path / "folder.png")
    with pytest.raises(ImageError, match="null"):
        read_image("a\0.png")


def test_formats_that_are_not_offered_are_refused(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.gif")
    with pytest.raises(ImageError, match="not a PNG"):
        read_image(tmp_path / "a.gif")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own remarks on broken TIFF
@settings(max_examples=30, deadline=None)
@given(share=st.floats(0.01, 0.97))
def test_truncated_files_are_refused(tmp_path_factory: pytest.TempPathFactory, suffix: str, share: float) -> None:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    Image.fromarray(noise).save(buffer, Image.registered_extensions()[suffix])
    path = tmp_path_factory.mktemp("cut") / f"cut{suffix}"
    path.write_bytes(buffer.getvalue()[: max(1, int(len(buffer.getvalue()) * share))])
    with pytest.raises(ImageError, match="cut"):
        read_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=150, deadline=None)
@given(
    suffix=st.sampled_from([".png", ".jpg", ".bmp", ".tif", ".webp"]),
    where=st.floats(0, 0.2),
    value=st.binary(min_size=4, max_size=4),
)
def test_damaged_files_raise_nothing_but_image_error(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, where: float, value: bytes
) -> None:
    buffer = io.BytesIO()
    Image.fromarray(COLOUR).save(buffer, Image.registered_extensions()[suffix])
    data = bytearray(buffer.getvalue())
    start = int(where * len(data))
    data[start : start + 4] = value
    path = tmp_path_factory.mktemp("damaged") / f"a{suffix}"
    path.write_bytes(data)
    try:
        mode = read_image(path).mode
    except ImageError as error:
        mode = f"error {error}"
    assert mode in ("RGB", "F") or str(path) in mode


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_no_permission(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", GREY)
    path.chmod(0)
    with pytest.raises(ImageError, match="a.png: Permission denied"):
        read_image(path)


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"huge.png: .*900000000 pixels.*limit of 178956970 pixels"):
        read_image(huge_png(tmp_path / "huge.png", 30_000))


def test_the_pixel_limit_is_read_at_call_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", COLOUR)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="240 pixels.*limit of 200 pixels"):
        read_image(path)


def test_large_but_allowed_pictures_give_no_warning(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", COLOUR)
    code = (
        "import sys; from PIL import Image; from inlier.data.images import read_image; "
        "Image.MAX_IMAGE_PIXELS = 200; print(read_image(sys.argv[1]).size)"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert (run.stdout.strip(), run.stderr) == ("(20, 12)", "")


def test_importing_the_readers_loads_neither_torch_nor_matplotlib() -> None:
    modules = "inlier.data.batches, inlier.data.check, inlier.data.simulation.sheet"
    code = f"import sys, {modules}; print({{'torch', 'matplotlib'}} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


# --- read_image: arrays and PIL images


def test_arrays() -> None:
    np.testing.assert_array_equal(np.asarray(read_image(COLOUR)), COLOUR)
    for grey in (GREY, GREY[:, :, None]):
        np.testing.assert_array_equal(np.asarray(read_image(grey))[:, :, 0], GREY)
    for deep in (DEEP, DEEP[:, :, None], DEEP.astype(">u2")):
        image = read_image(deep)
        assert image.mode == "F"
        np.testing.assert_array_equal(np.rint(np.asarray(image) * 65535), DEEP)
    assert read_image(GREY / 255).mode == "F"
    np.testing.assert_array_equal(np.asarray(read_image(COLOUR / 255)), COLOUR)
    np.testing.assert_array_equal(np.asarray(read_image(COLOUR.astype(np.uint16) * 257)), COLOUR)
    rgba = np.dstack([COLOUR, np.full((12, 20), 255, np.uint8)])
    np.testing.assert_array_equal(np.asarray(read_image(rgba)), COLOUR)
    np.testing.assert_array_equal(np.asarray(read_image(COLOUR[::2, ::-1])), COLOUR[::2, ::-1])


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((4, 4), np.int64), "expected uint8, uint16 or float"),
        (np.zeros((4, 4), bool), "expected uint8, uint16 or float"),
        (np.zeros(4, np.uint8), "expected shape"),
        (np.zeros((3, 4, 5), np.uint8), "channels last"),
        (np.zeros((0, 4), np.uint8), "expected shape"),
        (np.full((4, 4), 255.0), r"in \[0, 1\]"),
        (np.full((4, 4, 3), -0.1), r"in \[0, 1\]"),
        (np.array([[0.5, np.nan]]), "nan"),
        ([[1, 2]], "expected a path, an array or a PIL image, got list"),
    ],
)
def test_arrays_that_are_no_pictures(array: np.ndarray, reason: str) -> None:
    with pytest.raises(ImageError, match=f"part 7: .*{reason}"):
        read_image(array, "part 7")


def test_pil_images_are_read_and_left_as_they_are() -> None:
    image = Image.new("RGBA", (4, 4), (10, 20, 30, 255))
    assert read_image(image).getpixel((0, 0)) == (10, 20, 30)
    assert image.mode == "RGBA"
    with pytest.raises(ImageError, match="without pixels"):
        read_image(Image.new("RGB", (0, 4)))


# --- read_mask


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "P", "I;16", "RGBA"])
@pytest.mark.parametrize("value", [1, 255])
def test_any_value_above_zero_is_defect(tmp_path: Path, mode: str, value: int) -> None:
    expected = np.zeros((6, 9), bool)
    expected[2:4, 3:5] = True
    grey = Image.fromarray(expected.astype(np.uint8) * value)
    if mode == "I;16":
        grey = Image.fromarray(expected.astype(np.uint16) * value)
    elif mode == "1":
        grey = Image.fromarray(expected)
    elif mode == "P":
        grey.putpalette([0, 0, 0] + [5, 0, 0] * 255)
    else:
        grey = grey.convert(mode)
    grey.save(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png")
    assert mask.dtype == bool
    np.testing.assert_array_equal(mask, expected)


# --- names and lists


def test_what_has_no_path_is_named_by_its_place(tmp_path: Path) -> None:
    assert source_name(tmp_path / "a.png", 3) == str(tmp_path / "a.png")
    assert source_name("b.png", 3) == "b.png"
    assert source_name(COLOUR, 3) == source_name(Image.fromarray(COLOUR), 3) == "image 3"


def test_images_are_listed_in_natural_order(tmp_path: Path) -> None:
    names = ["1.png", "2.JPG", "10.png", "a/3.tiff", "a/20.webp", "b 1/x.bmp", "b 1/x.jpeg", "c.tif"]
    others = ["notes.txt", ".hidden.png", "._1.png", ".cache/1.png", "__MACOSX/1.png", "png"]
    for name in reversed(names + others):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)] == names
    flat = [path.name for path in list_images(tmp_path, recursive=False)]
    assert flat == ["1.png", "2.JPG", "10.png", "c.tif"]


def test_a_hidden_folder_that_was_asked_for_is_listed(tmp_path: Path) -> None:
    (tmp_path / ".parts").mkdir()
    (tmp_path / ".parts" / "1.png").touch()
    assert len(list_images(tmp_path / ".parts")) == 1


def test_a_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    with pytest.raises(InlierError, match="gone: cannot list this folder"):
        list_images(tmp_path / "gone")
