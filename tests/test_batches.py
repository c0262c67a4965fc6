"""Batches: order, failures, how far ahead they are read, and the end of their threads."""

import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inlier.data.batches import read_batches
from inlier.data.geometry import Geometry
from inlier.errors import ImageError, InlierError

GREY = np.random.default_rng(0).integers(0, 256, (12, 20), np.uint8)


def save(path: Path, array: np.ndarray) -> Path:
    Image.fromarray(array).save(path)
    return path


def test_batches_keep_the_order(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{i}.png", np.full((4 + i, 5), i, np.uint8)) for i in range(11)]
    batches = list(read_batches(paths, Geometry(4), batch_size=4, workers=3))
    assert [batch.owners for batch in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert [p.size for batch in batches for p in batch.pictures] == [(4 + i, 5) for i in range(11)]
    images = np.concatenate([batch.images for batch in batches])
    assert images.shape == (11, 3, 4, 4)
    np.testing.assert_allclose(images[:, 0, 0, 0] * 255, range(11), atol=1e-5)
    assert list(read_batches([], Geometry(4))) == []


def test_failures_stay_in_their_batch(tmp_path: Path) -> None:
    good = save(tmp_path / "good.png", GREY)
    sources = [good, tmp_path / "gone.png", GREY, np.zeros(3), tmp_path / "gone.png", good]
    batches = list(read_batches(sources, Geometry(4), batch_size=2, errors="keep"))
    assert [batch.owners for batch in batches] == [[0], [2], [5]]
    assert [[p.number for p in batch.pictures if p.error] for batch in batches] == [[1], [3], [4]]
    assert "gone.png: No such file" in batches[0].pictures[1].error
    assert batches[1].pictures[1].error.startswith("image 3: ")
    (nothing,) = read_batches([tmp_path / "gone.png"], Geometry(4), errors="keep")
    assert nothing.images.shape == (0, 3, 4, 4)
    with pytest.raises(ImageError, match="gone.png"):
        list(read_batches(sources, Geometry(4)))


@pytest.mark.parametrize("batch_size", [2, 8])
def test_what_comes_before_an_unreadable_picture_is_not_lost(tmp_path: Path, batch_size: int) -> None:
    batches = read_batches([GREY, GREY, GREY, tmp_path / "gone.png", GREY], Geometry(4), batch_size)
    seen: list[int] = []
    with pytest.raises(ImageError, match="gone.png"):
        seen.extend(picture.number for batch in batches for picture in batch.pictures)
    assert seen == [0, 1, 2]


def test_an_image_the_geometry_refuses_is_a_failure_with_its_name() -> None:
    strip = np.zeros((1, 60_000, 3), np.uint8)
    (batch,) = read_batches([GREY, strip], Geometry(224, 256), errors="keep")
    assert batch.owners == [0]
    assert batch.pictures[1].error.startswith("image 1: 60000 x 1 pixels")


def test_a_batch_knows_its_sources_and_those_that_failed(tmp_path: Path) -> None:
    sources = [GREY, tmp_path / "gone.png", str(save(tmp_path / "a.png", GREY))]
    first, second = read_batches(sources, Geometry(4), batch_size=2, errors="keep")
    assert [p.number for p in first.pictures] == [0, 1] and [p.number for p in second.pictures] == [2]
    assert all(p.source is source for p, source in zip([*first.pictures, *second.pictures], sources, strict=True))


@pytest.mark.parametrize("count", [0, 1, 4, 9])
def test_a_generator_gives_what_a_list_gives(count: int) -> None:
    pictures = [np.full((5, 6), i, np.uint8) for i in range(count)]
    listed = list(read_batches(pictures, Geometry(4), batch_size=4))
    generated = list(read_batches((picture for picture in pictures), Geometry(4), batch_size=4))
    assert [batch.owners for batch in generated] == [batch.owners for batch in listed]
    for one, other in zip(generated, listed, strict=True):
        np.testing.assert_array_equal(one.images, other.images)


def test_an_endless_generator_is_read_a_bounded_part_ahead() -> None:
    asked = 0

    def camera() -> Iterator[np.ndarray]:
        nonlocal asked
        while True:
            asked += 1
            yield GREY

    batches = read_batches(camera(), Geometry(4), batch_size=4, workers=2)
    assert asked == 0
    for number in (1, 2, 3):
        assert next(batches).owners == list(range(4 * number - 4, 4 * number))
        time.sleep(0.02)
        assert 4 * number <= asked <= 4 * number + 4 + 2
    batches.close()


def test_pictures_are_let_go_with_their_batch() -> None:
    pictures: list[weakref.ref[Image.Image]] = []
    most = 0

    def camera() -> Iterator[Image.Image]:
        for _ in range(60):
            picture = Image.new("L", (6, 5))
            pictures.append(weakref.ref(picture))
            yield picture

    for _ in read_batches(camera(), Geometry(4), batch_size=4, workers=2):
        most = max(most, sum(picture() is not None for picture in pictures))
    assert most <= 3 * (4 + 2)  # of the last batch, of this one, and those ahead


def test_an_error_of_the_generator_comes_through_and_ends_the_threads() -> None:
    def broken() -> Iterator[np.ndarray]:
        yield GREY
        raise RuntimeError("the camera is unplugged")

    before, seen = threading.active_count(), []
    with pytest.raises(RuntimeError, match="unplugged"):
        seen.extend(batch.owners for batch in read_batches(broken(), Geometry(4)))
    assert threading.active_count() == before
    assert seen == [[0]]  # what came before it is not lost


@pytest.mark.parametrize("close", [True, False], ids=["closed", "abandoned"])
def test_threads_end_with_the_iterator(close: bool) -> None:
    before = threading.active_count()
    batches = read_batches([GREY] * 100, Geometry(4), workers=4)
    next(batches)
    assert threading.active_count() > before
    if close:
        batches.close()
    else:
        del batches
    assert threading.active_count() == before


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"workers": 0}, {"errors": "skip"}], ids=str)
def test_wrong_arguments_are_refused_at_the_call(wrong: dict[str, Any]) -> None:
    with pytest.raises(InlierError, match="read_batches needs"):
        read_batches([GREY], Geometry(4), **wrong)


def test_scaled_jpeg_files_keep_the_size_of_the_original(tmp_path: Path) -> None:
    picture = Image.fromarray(GREY).resize((640, 400))
    picture.save(tmp_path / "a.jpg", quality=95)
    whole, scaled = (next(read_batches([tmp_path / "a.jpg"], Geometry(32, scaled_jpeg=on))) for on in (False, True))
    assert whole.pictures[0].size == scaled.pictures[0].size == (400, 640)
    assert 0 < np.abs(whole.images - scaled.images).max() < 0.05


def test_the_crop_of_a_scaled_jpeg_file_lies_where_the_whole_one_has_it(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, 4001), (601, 4001)).astype(np.uint8)  # 1001 x 151 is another shape
    Image.fromarray(ramp).save(tmp_path / "a.jpg", quality=95)
    geometries = [Geometry(64, shorter_side=72, scaled_jpeg=on) for on in (False, True)]
    whole, scaled = (next(read_batches([tmp_path / "a.jpg"], geometry)) for geometry in geometries)
    assert np.abs(whole.images - scaled.images).max() < 0.004  # a level; ten pixels of the original are 0.0025


def test_a_generator_may_give_the_same_array_again_and_again() -> None:
    def camera() -> Iterator[np.ndarray]:
        picture = np.zeros((4, 4), np.uint8)
        for i in range(20):
            picture[:] = i
            yield picture

    batches = list(read_batches(camera(), Geometry(4), batch_size=4, workers=3))
    shown = np.concatenate([batch.images for batch in batches])[:, 0, 0, 0] * 255
    np.testing.assert_allclose(shown, range(20), atol=1e-5)
