"""Reading pictures: files, arrays, what cannot be used, and folders of them."""

import io
import os
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps
from PIL.PngImagePlugin import PngInfo

from inlier.data import images
from inlier.data.images import (
    SUFFIX_LIST,
    decode_image,
    inspect_mask,
    list_images,
    read_image,
    read_mask,
    read_scaled,
    source_name,
)
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
    with pytest.raises(
        ImageError, match=r"in \[0, 1\], .* 200.0; divide all pictures by one number, or save them with"
    ):
        read_image(save(tmp_path / "b.tif", np.full((3, 3), 200, np.float32)))


def transparent_but_for_one_pixel(folder: Path, opaque: bool) -> None:
    """A PNG of each kind of transparency."""
    rgba, grey = Image.new("RGBA", (4, 4), (200, 100, 50, 0)), Image.new("LA", (4, 4), (200, 0))
    palette, key = Image.new("P", (4, 4), 1), Image.new("RGB", (4, 4), (9, 9, 9))
    palette.putpalette([0, 0, 0, 255, 0, 0])
    if opaque:
        for image, value in ((rgba, (0, 0, 0, 255)), (grey, (0, 255)), (palette, 0), (key, (0, 0, 0))):
            image.putpixel((0, 0), value)
    rgba.save(folder / "rgba.png")
    grey.save(folder / "la.png")
    palette.save(folder / "palette.png", transparency=1)
    key.save(folder / "key.png", transparency=(9, 9, 9))


def test_transparent_parts_are_black(tmp_path: Path) -> None:
    transparent_but_for_one_pixel(tmp_path, opaque=True)
    for path in list_images(tmp_path):
        assert not np.asarray(read_image(path)).any(), path
    half = read_image(Image.new("RGBA", (1, 1), (200, 100, 50, 128)))
    assert half.getpixel((0, 0)) == (100, 50, 25)


def test_a_picture_that_is_transparent_everywhere_is_refused(tmp_path: Path) -> None:
    transparent_but_for_one_pixel(tmp_path, opaque=False)
    for source in (*list_images(tmp_path), np.zeros((4, 4, 4), np.uint8)):
        with pytest.raises(ImageError, match=r"transparent everywhere, .*save it without an alpha channel"):
            read_image(source)


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


# --- read_image: files are read as a viewer shows them


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPE", ".ppm", ".pgm", ".pnm", ".pbm", ".jp2", ".j2k"])
def test_less_common_suffixes_are_listed_and_read(tmp_path: Path, suffix: str) -> None:
    image = Image.fromarray(GREY)
    image = {".pbm": image.convert("1"), ".pgm": image}.get(suffix, image.convert("RGB"))
    image.save(tmp_path / f"a{suffix}")
    assert list_images(tmp_path) == [tmp_path / f"a{suffix}"]
    assert read_image(tmp_path / f"a{suffix}").size == (20, 12)
    assert suffix.lower() in SUFFIX_LIST


def test_metadata_does_not_stop_whole_pixels(tmp_path: Path) -> None:
    garbage, text = PngInfo(), PngInfo()
    garbage.add(b"eXIf", b"garbage" * 3)
    text.add_text("settings", "x" * 2_000_000, zip=True)
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", COLOUR, pnginfo=garbage)), COLOUR)
    np.testing.assert_array_equal(read_image(save(tmp_path / "b.png", COLOUR, pnginfo=text)), COLOUR)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_exif_that_cannot_be_written_back_still_turns(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 7 / 3  # orientation, resolution
    broken = exif.tobytes().replace(struct.pack(">II", 7, 3), struct.pack(">II", 7, 0))
    assert broken != exif.tobytes()
    assert read_image(save(tmp_path / f"a{suffix}", COLOUR, exif=broken)).size == (12, 20)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tif"])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK"])
def test_a_picture_that_was_turned_is_not_turned_again(tmp_path: Path, suffix: str, mode: str) -> None:
    if (suffix, mode) in {(".png", "CMYK"), (".webp", "CMYK"), (".webp", "L"), (".jpg", "RGBA")}:
        pytest.skip("no such files")
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / f"a{suffix}"
    Image.fromarray(COLOUR).convert(mode).save(path, exif=exif)
    once = read_image(path)
    assert once.size == (12, 20)
    np.testing.assert_array_equal(read_image(once), once)
    np.testing.assert_array_equal(decode_image(images.encoded(once), "again"), once)


def test_an_image_that_is_in_a_list_twice_is_read_once(tmp_path: Path) -> None:
    save(tmp_path / "a.png", RNG.integers(0, 256, (600, 600, 3), np.uint8))
    with ThreadPoolExecutor(4) as pool:
        for _ in range(8):
            image = Image.open(tmp_path / "a.png")
            first, *others = pool.map(read_image, 6 * [image])
            assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_that_of_pillow(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", COLOUR, exif=exif)
    np.testing.assert_array_equal(read_image(path), ImageOps.exif_transpose(Image.open(path)))
    np.testing.assert_array_equal(read_image(Image.open(path)), ImageOps.exif_transpose(Image.open(path)))


def tiff(values: bytes, bits: int, photometric: int, height: int = 12) -> bytes:
    """An uncompressed grey TIFF with one strip of 12 rows of 20 pixels."""
    tags = {256: 20, 257: height, 258: bits, 259: 1, 262: photometric, 273: 0, 277: 1, 278: 12, 279: len(values)}
    start = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, start if tag == 273 else n) for tag, n in tags.items())
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(4) + values


def test_tiff_of_packed_12_bit_uses_the_bits_it_states(tmp_path: Path) -> None:
    twelve = DEEP >> 4
    pairs = twelve.reshape(-1, 2).astype(np.uint32)
    packed = ((pairs[:, 0] << 12) | pairs[:, 1]).astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:]
    (tmp_path / "a.tif").write_bytes(tiff(packed.tobytes(), 12, 1))
    np.testing.assert_array_equal(np.rint(np.asarray(read_image(tmp_path / "a.tif")) * 4095), twelve)


def test_white_is_zero_is_honoured(tmp_path: Path) -> None:
    for bits, values in ((8, GREY), (16, DEEP)):
        (tmp_path / "white.tif").write_bytes(tiff(values.tobytes(), bits, 0))
        (tmp_path / "black.tif").write_bytes(tiff(values.tobytes(), bits, 1))
        white, black = (np.asarray(read_image(tmp_path / f"{n}.tif"), float) for n in ("white", "black"))
        np.testing.assert_allclose(white + black, 255 if bits == 8 else 1, atol=1e-6)


def test_of_several_pages_the_first_is_taken_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "_said_pages", set())
    for name in ("a", "b"):
        save(tmp_path / f"{name}.tif", COLOUR, save_all=True, append_images=[Image.fromarray(COLOUR[::-1])] * 2)
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}.tif"), COLOUR)
    save(tmp_path / "c.webp", COLOUR, save_all=True, append_images=[Image.fromarray(COLOUR[::-1])])
    read_image(tmp_path / "c.webp")
    assert caplog.messages == [
        f"{tmp_path / 'a.tif'}: holds 3 pages; the first is taken, here and in every TIFF file",
        f"{tmp_path / 'c.webp'}: holds 2 pages; the first is taken, here and in every WEBP file",
    ]


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("options", [{"subsampling": s} for s in (0, 1, 2)] + [{"progressive": True}, {"quality": 30}])
def test_jpeg_has_the_bits_that_pillow_gives(tmp_path: Path, mode: str, options: dict) -> None:
    path = tmp_path / "a.jpg"
    texture().convert(mode).save(path, **options)
    np.testing.assert_array_equal(read_image(path), Image.open(path).convert("RGB"))


def test_other_kinds_of_jpeg_are_read_too(tmp_path: Path) -> None:
    texture().save(tmp_path / "rgb.jpg", keep_rgb=True)
    texture().convert("CMYK").save(tmp_path / "cmyk.jpg")
    for path in list_images(tmp_path):
        np.testing.assert_array_equal(read_image(path), Image.open(path).convert("RGB"))


# --- read_scaled


def test_a_jpeg_file_is_decoded_no_larger_than_needed(tmp_path: Path) -> None:
    picture = Image.effect_noise((20, 16), 40).resize((803, 645))  # smooth: how a decoder averages hardly counts
    path, turned, png = tmp_path / "a.jpg", tmp_path / "b.jpg", tmp_path / "c.png"
    picture.save(path, quality=95)
    exif = Image.Exif()
    exif[274] = 6
    picture.save(turned, quality=95, exif=exif)
    picture.save(png)
    small, size = read_scaled(path, least=(200, 250))
    assert size == (645, 803) and (small.height, small.width) == (242, 302) and small.mode == "RGB"
    whole = read_image(path).resize(small.size, Image.Resampling.BOX)
    assert np.abs(np.asarray(small, float) - np.asarray(whole)).mean() < 2
    assert read_scaled(turned, least=(250, 200))[1] == (803, 645)
    np.testing.assert_array_equal(read_scaled(turned, least=(250, 200))[0], small.transpose(images.UPRIGHT[6]))
    for source, least in (
        (path, None),
        (path, (646, 100)),
        (path, (5000, 5000)),
        (png, (8, 8)),
        (np.array(picture), (8, 8)),
    ):
        image, size = read_scaled(source, least=least)
        assert size == (image.height, image.width) == (645, 803)
        np.testing.assert_array_equal(image, read_image(source))


def test_a_damaged_jpeg_file_is_refused_at_any_scale(tmp_path: Path) -> None:
    Image.effect_noise((400, 320), 40).save(tmp_path / "a.jpg", quality=90)
    data = (tmp_path / "a.jpg").read_bytes()
    middle = len(data) // 2
    hurt = {"cut": data[:middle], "gap": data[:middle] + bytes(400) + data[middle + 400 :], "empty": b""}
    for name, content in hurt.items():
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(content)
        with pytest.raises(ImageError, match=f"{name}.jpg: "):
            read_scaled(path, least=(32, 32))
    with pytest.raises(ImageError, match="gone.jpg: No such file"):
        read_scaled(tmp_path / "gone.jpg", least=(32, 32))


# --- read_image: damaged files


def texture(height: int = 320, width: int = 400) -> Image.Image:
    """Colour with fine and coarse structure, as a photograph has."""
    y, x = np.mgrid[:height, :width]
    waves = [128 + 50 * np.sin(x / (9 + c)) * np.cos(y / (17 - c)) for c in range(3)]
    noise = np.random.default_rng(0).normal(0, 12, (height, width, 3))
    return Image.fromarray((np.stack(waves, 2) + noise).clip(0, 255).astype(np.uint8))


DAMAGED = [  # format, mode, options, and the share that must be refused: bytes missing; set to zero in the middle
    ("JPEG", "RGB", {}, 1.0, 0.9),
    ("JPEG", "L", {}, 1.0, 0.9),
    ("JPEG", "RGB", {"progressive": True}, 0.9, 0.6),
    ("PNG", "RGB", {}, 1.0, 1.0),
    ("WEBP", "RGB", {}, 1.0, 0.8),
    ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}, 1.0, 1.0),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}, 1.0, 1.0),
    ("TIFF", "RGB", {"compression": "jpeg"}, 1.0, 0.9),
    ("TIFF", "L", {"compression": "jpeg"}, 1.0, 0.9),
    ("JPEG2000", "RGB", {"quality_mode": "rates", "quality_layers": [8]}, 1.0, 1.0),
]


@pytest.mark.parametrize("kind, mode, options, missing, zeroed", DAMAGED)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_pictures_are_refused_and_whole_ones_are_not(
    kind: str, mode: str, options: dict, missing: float, zeroed: float
) -> None:
    rng, buffer = np.random.default_rng(0), io.BytesIO()
    texture().convert(mode).save(buffer, kind, **options)
    data = buffer.getvalue()
    assert decode_image(data, "whole").size == (400, 320)
    refused = np.zeros(2)
    for _ in range(20):
        n = int(rng.integers(512, 2048))
        start = int(rng.integers(len(data) // 4, 3 * len(data) // 4 - n))
        for i, filling in enumerate((b"", bytes(n))):
            try:
                decode_image(data[:start] + filling + data[start + n :], "hurt")
            except ImageError:
                refused[i] += 1
    assert (refused / 20 >= (missing, zeroed)).all()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "kind, options",
    [(kind, {}) for kind in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000")]
    + [("TIFF", {"compression": c}) for c in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")],
)
def test_cut_files_are_refused_whatever_pillow_was_told(
    kind: str, options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    buffer = io.BytesIO()
    texture(64, 80).save(buffer, kind, **options)
    data = buffer.getvalue()
    assert decode_image(data, "whole").size == (80, 64)
    for kept in (0.5, 0.9, 0.99):
        with pytest.raises(ImageError, match="cut: .*(probably damaged or incomplete|cut off)"):
            decode_image(data[: int(kept * len(data))], "cut")


def test_a_tiff_with_fewer_parts_than_its_size_needs_is_refused() -> None:
    """Pillow leaves the rest black."""
    assert decode_image(tiff(GREY.tobytes(), 8, 1), "whole").size == (20, 12)
    with pytest.raises(ImageError, match="tall: .*fewer parts than its size needs"):
        decode_image(tiff(GREY.tobytes(), 8, 1, height=30_000), "tall")


@pytest.mark.parametrize("value", [0, 127, 255])
@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"quality": 100, "method": 0}])
def test_flat_webp_is_whole_though_it_holds_many_zeros(value: int, options: dict) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (1600, 1200), (value,) * 3).save(buffer, "WEBP", **options)
    assert decode_image(buffer.getvalue(), "flat").size == (1600, 1200)


# --- read_image: what cannot be used


def test_missing_empty_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone.png: No such file"):
        read_image(tmp_path / "gone.png")
    (tmp_path / "empty.png").touch()
    for read in (read_image, read_mask):
        with pytest.raises(ImageError, match=r"empty.png: the file is empty"):
            read(tmp_path / "empty.png")
    (tmp_path / "text.png").write_text("not a picture at all")
    with pytest.raises(ImageError, match=r"text.png: not a PNG, JPEG, BMP, TIFF, WebP, PPM or JPEG 2000 image"):
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


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp", ".ppm", ".jp2"])
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
    suffix=st.sampled_from([".png", ".jpg", ".bmp", ".tif", ".webp", ".ppm", ".jp2"]),
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


def square(height: int = 64, width: int = 64, side: int = 16) -> np.ndarray:
    """bool (H, W): a defect in the upper left."""
    mask = np.zeros((height, width), bool)
    mask[8 : 8 + side, 8 : 8 + side] = True
    return mask


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "P", "I;16", "RGBA"])
@pytest.mark.parametrize("value", [1, 255])
def test_masks_of_two_values(tmp_path: Path, mode: str, value: int) -> None:
    expected = square()
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
    mask, note = inspect_mask(tmp_path / "m.png")
    assert (mask.dtype, note) == (bool, "")
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize(("good", "defect"), [(1, 2), (1, 255), (127, 255)])
def test_the_lower_of_two_values_is_good(tmp_path: Path, good: int, defect: int) -> None:
    path = save(tmp_path / "m.png", np.where(square(), defect, good).astype(np.uint8))
    np.testing.assert_array_equal(read_mask(path), square())


def test_empty_full_and_transparent_masks(tmp_path: Path) -> None:
    assert not read_mask(save(tmp_path / "empty.png", np.zeros((9, 9), np.uint8))).any()
    assert read_mask(save(tmp_path / "full.png", np.full((9, 9), 255, np.uint8))).all()
    assert not read_mask(save(tmp_path / "empty.jpg", np.zeros((9, 9), np.uint8))).any()
    drawn = np.zeros((64, 64, 4), np.uint8)
    drawn[square()] = 0, 255, 0, 255
    drawn[~square()] = 255, 255, 255, 0  # white, but not to be seen
    np.testing.assert_array_equal(read_mask(save(tmp_path / "drawn.png", drawn)), square())


@pytest.mark.parametrize("values", [(1, 2, 3), (128, 255), (250, 254, 255), (64, 128, 192)])
def test_numbers_of_defects(tmp_path: Path, values: tuple[int, ...]) -> None:
    pixels = np.zeros((64, 64), np.uint8)
    for place, value in enumerate(values):
        pixels[10:14, 10 * place : 10 * place + 5] = value
    mask, note = inspect_mask(save(tmp_path / "m.png", pixels))
    np.testing.assert_array_equal(mask, pixels > 0)
    assert "all but 0 are counted as defect" in note


@pytest.mark.parametrize("options", [{"quality": 60}, {"quality": 95}, {"quality": 75, "subsampling": 2}])
@pytest.mark.parametrize("colour", [(255, 255, 255), (255, 0, 0)])
def test_masks_as_jpeg_do_not_grow(tmp_path: Path, options: dict, colour: tuple[int, int, int]) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[np.roll(square(), 3, (0, 1))] = colour  # across the blocks
    mask, note = inspect_mask(save(tmp_path / "m.jpg", pixels, **options))
    assert abs(int(mask.sum()) - 256) <= 16  # any value that is not 0 would be up to 409
    assert "soft edges, cut in the middle" in note


def test_smoothed_masks_are_cut_in_the_middle(tmp_path: Path) -> None:
    large = Image.fromarray(square(512, 512, 130)).convert("L").resize((110, 110), Image.Resampling.BICUBIC)
    large.save(tmp_path / "m.png")
    mask, note = inspect_mask(tmp_path / "m.png")
    assert abs(mask.sum() - (130 * 110 / 512) ** 2) < 30
    assert "soft edges" in note


def no_masks() -> dict[str, np.ndarray]:
    y, x = np.mgrid[:64, :64]
    wave = (127 + 60 * np.sin(x / 9) + 60 * np.cos(y / 7)).astype(np.uint8)
    part = np.where((x - 32) ** 2 + (y - 32) ** 2 < 400, wave, 250).astype(np.uint8)
    painted = np.repeat(part[..., None], 3, 2)
    painted[square()] = 255, 0, 0
    return {
        "photo": wave,
        "part on white": part,
        "painted photo": painted,
        "noise": RNG.integers(0, 256, (64, 64), np.uint8),
        "colour map": np.where(square()[..., None], (253, 231, 37), (68, 1, 84)).astype(np.uint8),
        "red on white": np.where(square()[..., None], (255, 0, 0), (255, 255, 255)).astype(np.uint8),
        "defect and ignored": np.select([square(), x > 50], [1, 255], 0).astype(np.uint8),
    }


@pytest.mark.parametrize("kind", no_masks())
def test_what_is_no_mask_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ImageError, match=r"m.png: not a mask: .*(values|colours) .*save masks as PNG with two values"):
        read_mask(save(tmp_path / "m.png", no_masks()[kind]))
    if kind != "defect and ignored":
        with pytest.raises(ImageError, match="not a mask"):
            read_mask(save(tmp_path / "m.jpg", no_masks()[kind], quality=90))


def test_a_palette_with_a_white_background(tmp_path: Path) -> None:
    image = Image.fromarray(square().astype(np.uint8))
    image.putpalette([255, 255, 255, 200, 0, 0])
    image.save(tmp_path / "m.png")
    with pytest.raises(ImageError, match=r"colours \(200, 0, 0\), \(255, 255, 255\) lack black"):
        read_mask(tmp_path / "m.png")


# --- masks of pictures that EXIF turns


def turned_picture(path: Path, orientation: int, height: int = 64, width: int = 96) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(path, np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8), exif=exif)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_mask_drawn_over_the_stored_picture_is_turned_with_it(tmp_path: Path, suffix: str, orientation: int) -> None:
    picture = turned_picture(tmp_path / f"a{suffix}", orientation)
    stored = save(tmp_path / "m.png", square(64, 96))
    same = turned_picture(tmp_path / "same.png", orientation)  # EXIF of its own: read like the picture
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(same, square(64, 96).astype(np.uint8), exif=exif)
    mask = read_mask(stored, picture)
    assert mask.shape == (96, 64)
    np.testing.assert_array_equal(mask, read_mask(same, picture))
    with Image.open(picture) as opened:
        np.testing.assert_array_equal(mask, read_mask(stored, opened))
    upright = save(tmp_path / "upright.png", mask)  # drawn over the picture as it is shown
    np.testing.assert_array_equal(read_mask(upright, picture), mask)


@pytest.mark.parametrize(("orientation", "width"), [(3, 96), (2, 96), (4, 96), (6, 64), (8, 64)])
def test_a_mask_that_fits_either_way_is_refused(tmp_path: Path, orientation: int, width: int) -> None:
    picture = turned_picture(tmp_path / "a.jpg", orientation, 64, width)
    path = save(tmp_path / "m.png", square(64, width))
    with pytest.raises(
        ImageError, match=rf"m.png: EXIF turns its picture \(orientation {orientation}\), the mask has no"
    ):
        read_mask(path, picture)
    assert not read_mask(save(tmp_path / "empty.png", np.zeros((64, width), bool)), picture).any()
    symmetric = np.zeros((64, width), bool)
    symmetric[20:-20, 20:-20] = True
    np.testing.assert_array_equal(read_mask(save(tmp_path / "s.png", symmetric), picture), symmetric)


def test_masks_of_upright_pictures_and_arrays_are_left_as_they_are(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", square())
    for picture in (turned_picture(tmp_path / "a.jpg", 1, 64, 64), np.zeros((64, 64), np.uint8)):
        np.testing.assert_array_equal(read_mask(path, picture), square())


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


def test_a_hidden_folder_that_was_asked_for_is_listed(tmp_path: Path) -> None:
    (tmp_path / ".parts").mkdir()
    (tmp_path / ".parts" / "1.png").touch()
    assert len(list_images(tmp_path / ".parts")) == 1


def test_a_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    with pytest.raises(InlierError, match="gone: cannot list this folder"):
        list_images(tmp_path / "gone")
