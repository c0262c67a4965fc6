"""Every layout a dataset may have, every way it may be broken, and the check before training."""

import hashlib
import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inlier.data.check import check
from inlier.data.datasets import open_dataset
from inlier.data.datasets.sample import Dataset
from inlier.errors import InlierError


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (8, 6)) -> Path:
    """A noise picture of height x width; equal seeds give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


def mask(path: Path, size: tuple[int, int] = (8, 6), value: int = 255) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros(size, np.uint8)
    pixels[:3] = value
    Image.fromarray(pixels).save(path)
    return path


def mvtec(root: Path) -> Path:
    """3 good training images, 1 good and 3 defect test images with masks; all differ."""
    for i in range(3):
        picture(root / "train" / "good" / f"{i}.png", i)
    picture(root / "test" / "good" / "0.png", 10)
    for i, kind in enumerate(["scratch", "scratch", "dent"]):
        picture(root / "test" / kind / f"{i:03}.png", 20 + i)
        mask(root / "ground_truth" / kind / f"{i:03}_mask.png")
    return root


def kinds(dataset: Dataset) -> dict[str | None, int]:
    found = [sample.defect for sample in dataset.test]
    return {kind: found.count(kind) for kind in found}


# --- layouts


def test_mvtec_one_category(tmp_path: Path) -> None:
    dataset = open_dataset(mvtec(tmp_path / "bottle"))
    assert (dataset.name, dataset.layout, dataset.notes) == ("bottle", "MVTec-AD layout, 1 category", ())
    assert dataset.categories == ("bottle",)
    assert len(dataset.train) == 3
    assert kinds(dataset) == {"dent": 1, "scratch": 2, None: 1}
    assert all(bool(sample.masks) == sample.is_defect for sample in dataset.samples)
    scratch = next(sample for sample in dataset.test if sample.defect == "scratch")
    assert scratch.masks == (tmp_path / "bottle" / "ground_truth" / "scratch" / "000_mask.png",)
    assert scratch.name == str(tmp_path / "bottle" / "test" / "scratch" / "000.png")


def test_mvtec_many_categories_beside_other_things(tmp_path: Path) -> None:
    mvtec(tmp_path / "screw")
    mvtec(tmp_path / "metal nut ß")
    picture(tmp_path / "textures" / "a.png")
    (tmp_path / "README.md").write_text("hello")
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "MVTec-AD layout, 2 categories"
    assert dataset.categories == ("metal nut ß", "screw")
    textures = tmp_path / "textures" / "a.png"
    assert dataset.notes == (f"1 picture is not used, it fits nowhere in this layout: {textures}",)
    assert dataset.left_out[0].paths == (textures,)
    assert len(dataset.train) == 6


@pytest.mark.parametrize("name", ["{}_mask.png", "{}.png", "{}.bmp", "{}_mask.tif"])
def test_names_of_masks(tmp_path: Path, name: str) -> None:
    picture(tmp_path / "train" / "good" / "0.png")
    picture(tmp_path / "test" / "dent" / "part 1.a.jpg")
    expected = mask(tmp_path / "ground_truth" / "dent" / name.format("part 1.a"))
    (sample,) = open_dataset(tmp_path).test
    assert sample.masks == (expected,)


def test_what_fits_nowhere_is_named(tmp_path: Path) -> None:
    root = mvtec(tmp_path / "bottle")
    picture(root / "train" / "extra.png")
    picture(root / "train" / "bad" / "1.png")
    picture(root / "test" / "loose.png")
    dataset = open_dataset(root)
    assert len(dataset.train) == 3
    assert len(dataset.test) == 4
    (note,) = dataset.notes
    assert note.startswith("3 pictures outside train/good and test/TYPE are not used: ")
    assert all(name in note for name in ("extra.png", "loose.png", "1.png"))


def test_a_test_folder_alone_can_be_evaluated(tmp_path: Path) -> None:
    root = mvtec(tmp_path / "bottle")
    for path in (root / "train").rglob("*.png"):
        path.unlink()
    (root / "train" / "good").rmdir()
    (root / "train").rmdir()
    dataset = open_dataset(root)
    assert (len(dataset.train), len(dataset.test)) == (0, 4)
    (root / "test" / "good" / "0.png").unlink()
    (root / "test" / "good").rmdir()
    assert kinds(open_dataset(root)) == {"dent": 1, "scratch": 2}


def btad(root: Path) -> None:
    picture(root / "train" / "ok" / "0.bmp", 1)
    picture(root / "test" / "ok" / "1.bmp", 2)
    picture(root / "test" / "ko" / "2.bmp", 3)
    mask(root / "ground_truth" / "ko" / "2.png")


def test_btad(tmp_path: Path) -> None:
    btad(tmp_path / "01")
    btad(tmp_path / "03")
    many = open_dataset(tmp_path)
    assert (many.layout, many.categories) == ("BTAD layout, 2 categories", ("01", "03"))
    one = open_dataset(tmp_path / "03")
    assert (one.layout, len(one.train), kinds(one)) == ("BTAD layout, 1 category", 1, {"ko": 1, None: 1})
    (ko,) = (sample for sample in one.test if sample.is_defect)
    assert ko.masks == (tmp_path / "03" / "ground_truth" / "ko" / "2.png",)
    assert one.notes == ("taken as good: test/ok, train/ok",)


def test_defects_of_btad_alone_can_be_evaluated(tmp_path: Path) -> None:
    picture(tmp_path / "01" / "test" / "ko" / "2.bmp")
    mask(tmp_path / "01" / "ground_truth" / "ko" / "2.png")
    assert kinds(open_dataset(tmp_path)) == {"ko": 1}


def test_visa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "candle/Data/Images/Normal/0.JPG",
        "candle/Data/Images/Normal/1.JPG",
        "pcb1/Data/Images/Anomaly/0.JPG",
    ):
        picture(tmp_path / name)
    mask(tmp_path / "pcb1/Data/Masks/Anomaly/0.png")
    table = tmp_path / "split_csv" / "1cls.csv"
    table.parent.mkdir()
    table.write_text(
        "object,split,label,image,mask\n"
        "candle,train,normal,candle/Data/Images/Normal/0.JPG,\n"
        "candle,test,normal,candle/Data/Images/Normal/1.JPG,\n"
        "pcb1,test,anomaly,pcb1/Data/Images/Anomaly/0.JPG,pcb1/Data/Masks/Anomaly/0.png\n"
    )
    dataset = open_dataset(tmp_path)
    assert (dataset.layout, dataset.categories) == ("VisA, 1-class split", ("candle", "pcb1"))
    assert len(dataset.train) == 1
    assert kinds(dataset) == {None: 1, "anomaly": 1}
    assert dataset.test[1].masks == (tmp_path / "pcb1/Data/Masks/Anomaly/0.png",)
    # one of its folders, whatever it is called here; a row that is there twice is one picture
    (tmp_path / "elsewhere").symlink_to(tmp_path / "candle", target_is_directory=True)
    table.write_text(table.read_text() + "candle,train,normal,candle/../candle/Data/Images/Normal/0.JPG,\n")
    monkeypatch.chdir(tmp_path)
    for name in (tmp_path / "candle", "candle", "elsewhere"):
        dataset = open_dataset(name)
        assert len(dataset.samples) == 2
        assert dataset.notes == ("4 rows name 3 pictures: rows of one picture are joined",)
    table.write_text("object,split,label,image,mask\ncandle,vol,normal,a.JPG,\n")
    with pytest.raises(InlierError, match=r"1cls.csv, line 2: split must be train, validation or test, got 'vol'"):
        open_dataset(tmp_path)
    table.write_text("split,label,image,mask\ntrain,normal,a.JPG,\n")
    with pytest.raises(InlierError, match=r"line 2: the columns object, split, label and image"):
        open_dataset(tmp_path)


def test_csv_table(tmp_path: Path) -> None:
    table = tmp_path / "my parts.csv"
    rows = [
        "\ufeffPath, split ,label,mask,category",
        "a b.png,,,,",
        '"c,d.png",train,GOOD,,left',
        "e.png,test,0,,left",
        "f.png,test,1,f_mask.png,left",
        f"{tmp_path}/g.png,test,Kratzer,,left",
        "h.png,train,bad,,left",
    ]
    table.write_text("\n".join(rows), encoding="utf-8")
    dataset = open_dataset(str(table))
    assert (dataset.layout, dataset.categories) == ("CSV table, 2 categories", ("left", "my parts"))
    assert [sample.source for sample in dataset.train] == [tmp_path / "a b.png", tmp_path / "c,d.png"]
    assert [sample.defect for sample in dataset.test] == [None, "defect", "Kratzer"]
    assert dataset.test[1].masks == (tmp_path / "f_mask.png",)
    assert dataset.test[2].source == tmp_path / "g.png"
    assert dataset.notes == (
        "1 defect picture of the train split is not used for training",
        "1 row without a label is taken as good",
        "1 row without a split is taken for training",
        "1 row without a category is taken as my parts",
    )


def test_csv_with_the_column_image(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image\na.png\n")
    (sample,) = open_dataset(tmp_path / "t.csv").train
    assert sample.source == tmp_path / "a.png"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: no column path"),
        ("file;split\na.png;train\n", "line 1: no column path"),
        ("path\n", "a table without a row"),
        ("path,split\na.png,train\nb.png,vol\n", "line 3: split must be train, validation or test, got 'vol'"),
        ("path,split\n,train\n", "line 2: no path"),
        ("path,split\na,b.png,train\n", "line 2: more cells than columns"),
        ("path,label,mask\na.png,good,m.png\n", "line 2: a good picture with a mask"),
    ],
)
def test_csv_errors_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InlierError, match=f"t.csv.*{message}"):
        open_dataset(tmp_path / "t.csv")


def test_a_csv_that_is_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("path\nä.png\n".encode("latin-1"))
    with pytest.raises(InlierError, match="UTF-8"):
        open_dataset(tmp_path / "t.csv")


def test_a_folder_of_good_images(tmp_path: Path) -> None:
    folder = tmp_path / "Gehäuse links"
    picture(folder / "10.png")
    picture(folder / "2.png")
    picture(folder / "monday" / "1.jpg")
    dataset = open_dataset(folder)
    assert (dataset.name, dataset.layout) == ("Gehäuse links", "folder of good pictures")
    assert dataset.categories == ("Gehäuse links",)
    assert [sample.source for sample in dataset.train] == [folder / n for n in ("2.png", "10.png", "monday/1.jpg")]
    assert dataset.test == ()
    assert dataset.notes == ("pictures in folders inside Gehäuse links are taken as good too: monday",)


@pytest.mark.parametrize("spelling", [".", "./", "../bottle", "../bottle/"])
def test_the_category_is_the_real_name_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    monkeypatch.chdir(mvtec(tmp_path / "bottle"))
    assert open_dataset(spelling).categories == ("bottle",)
    monkeypatch.chdir(tmp_path / "bottle" / "train" / "good")
    assert open_dataset(".").categories == ("bottle",)


def test_a_list_of_good_images(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png")
    array = np.arange(16, dtype=np.uint8).reshape(4, 4)
    dataset = open_dataset([path, str(path), array, Image.fromarray(array)])
    assert dataset.layout == "list of 4 good pictures"
    assert dataset.categories == ("parts",)
    assert [sample.name for sample in dataset.train] == [str(path), str(path), "image 2", "image 3"]
    (only,) = check(dataset).warnings
    assert only.startswith("2 training pictures look like others saved again (2 byte-equal) and count as one")


def test_a_generator_of_good_images_is_as_good_as_a_list() -> None:
    pictures = [np.full((4, 4), i, np.uint8) for i in range(3)]
    dataset = open_dataset(picture for picture in pictures)
    assert (dataset.layout, dataset.categories) == ("list of 3 good pictures", ("parts",))
    assert all(sample.source is picture for sample, picture in zip(dataset.train, pictures, strict=True))
    assert dataset.train[2].name == "image 2"


def test_a_dataset_is_taken_as_it_is(tmp_path: Path) -> None:
    dataset = open_dataset(mvtec(tmp_path / "bottle"))
    assert open_dataset(dataset) is dataset


@pytest.mark.skipif(importlib.util.find_spec("elpv_dataset") is None, reason="elpv-dataset is not installed")
def test_elpv() -> None:
    dataset = open_dataset("elpv")
    assert dataset.categories == ("mono", "poly")
    counts = {
        name: (len(d.train), sum(not s.is_defect for s in d.test), sum(s.is_defect for s in d.test))
        for name in dataset.categories
        for d in [dataset.select([name])]
    }
    assert counts == {"mono": (470, 118, 313), "poly": (736, 184, 402)}
    assert len(dataset.samples) + 401 == 2624
    assert len({sample.name for sample in dataset.samples}) == len(dataset.samples)
    assert dataset.notes[0].startswith("401 cells")
    assert "CC BY-NC-SA 4.0" in dataset.notes[-1]
    assert [s.name for s in dataset.train] == [s.name for s in open_dataset("elpv").train]
    assert all(isinstance(s.source, Path) and s.source.is_file() for s in dataset.samples)


def test_elpv_without_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "elpv_dataset", None)
    with pytest.raises(InlierError, match="pip install elpv-dataset"):
        open_dataset("elpv")
    picture(tmp_path / "elpv" / "a.png")
    assert open_dataset("elpv").layout == "folder of good pictures"


# --- what cannot be opened


def test_missing_empty_and_imageless_folders(tmp_path: Path) -> None:
    with pytest.raises(InlierError, match=r"gone: no such file or folder$"):
        open_dataset(tmp_path / "gone")
    picture(tmp_path / "one.png")
    with pytest.raises(
        InlierError, match=r"one.png: one picture is no data set; pass its folder, or a list of pictures$"
    ):
        open_dataset(tmp_path / "one.png")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InlierError, match=r"empty: holds no pictures \(\.png .*\), no file at all$"):
        open_dataset(tmp_path / "empty")
    (tmp_path / "empty" / "notes.txt").write_text("no picture")
    with pytest.raises(InlierError, match=r"empty: holds no pictures \(\.png .*\), but 1 \.txt$"):
        open_dataset(tmp_path / "empty")
    (tmp_path / "empty" / "train" / "good").mkdir(parents=True)
    with pytest.raises(InlierError, match="no pictures"):
        open_dataset(tmp_path / "empty")


def test_a_folder_that_may_hold_defects_is_not_taken_as_good(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "0.png")
    picture(tmp_path / "test" / "1.png")
    with pytest.raises(InlierError, match="not all of it seems to be good parts: it holds test, train"):
        open_dataset(tmp_path)


def test_good_and_defect_side_by_side_are_told_how_to_go_on(tmp_path: Path) -> None:
    """Who opens a dataset may want to train or to evaluate; and what the message says to do, works."""
    good, bad = picture(tmp_path / "parts" / "good" / "0.png"), picture(tmp_path / "parts" / "defect" / "1.png", 1)
    with pytest.raises(InlierError) as error:
        open_dataset(tmp_path / "parts")
    told, test = str(error.value), tmp_path / "parts" / "test"
    assert f"To train, pass the folder of the good ones alone ({good.parent})" in told
    assert f"to evaluate, move the pictures to {test / 'good'} and {test / 'defect'};" in told
    assert len(open_dataset(good.parent).train) == 1
    test.mkdir()
    good.parent.rename(test / "good")
    bad.parent.rename(test / "defect")
    assert [sample.defect for sample in open_dataset(tmp_path / "parts").test] == ["defect", None]


def test_other_things_than_datasets(tmp_path: Path) -> None:
    with pytest.raises(InlierError, match="pass its folder"):
        open_dataset(picture(tmp_path / "a.png"))
    with pytest.raises(InlierError, match="empty list"):
        open_dataset([])
    with pytest.raises(InlierError, match="empty list"):
        open_dataset(iter(()))
    with pytest.raises(InlierError, match="not int"):
        open_dataset(5)  # type: ignore[arg-type]
    with pytest.raises(InlierError, match="image 1: expected a path, an array or a PIL image, got int"):
        open_dataset([tmp_path / "a.png", 5])  # type: ignore[list-item]
    with pytest.raises(InlierError, match=r"not ndarray; pass list\(array\)"):
        open_dataset(np.zeros((2, 4, 4, 3)))  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(InlierError, match="Permission denied"):
        open_dataset(tmp_path / "closed")


def test_categories_are_selected_by_name(tmp_path: Path) -> None:
    mvtec(tmp_path / "screw")
    mvtec(tmp_path / "bottle")
    assert open_dataset(tmp_path, ["screw"]).categories == ("screw",)
    assert open_dataset(tmp_path, "screw").categories == ("screw",)
    with pytest.raises(InlierError, match=r"no category 'srew'. Did you mean 'screw'\? There are: bottle, screw"):
        open_dataset(tmp_path, ["bottle", "srew"])


# --- check


def test_a_sound_dataset_passes(tmp_path: Path) -> None:
    steps: list[int] = []
    report = check(open_dataset(mvtec(tmp_path / "bottle")), show=steps.append)
    assert report.warnings == ()
    assert steps == [1, 2, 3, 4, 5, 6, 7]


def test_the_fingerprint_is_that_of_the_good_training_files(tmp_path: Path) -> None:
    root = mvtec(tmp_path / "bottle")
    digests = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in (root / "train" / "good").iterdir())
    fingerprint = check(open_dataset(root)).fingerprint
    assert fingerprint == hashlib.sha256("".join(digests).encode()).hexdigest()
    (root / "train" / "good" / "0.png").rename(root / "train" / "good" / "9.png")
    picture(root / "test" / "good" / "5.png", 50)
    assert check(open_dataset(root)).fingerprint == fingerprint
    picture(root / "train" / "good" / "3.png", 51)
    assert check(open_dataset(root)).fingerprint != fingerprint


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    root = mvtec(tmp_path / "bottle")
    (root / "train" / "good" / "0.png").write_bytes(b"")
    broken = root / "train" / "good" / "1.png"
    broken.write_bytes(broken.read_bytes()[:100])
    mask(root / "ground_truth" / "scratch" / "000_mask.png", (6, 8))
    (root / "ground_truth" / "scratch" / "001_mask.png").write_text("no picture")
    picture(root / "test" / "dent" / "new.png", 60)
    with pytest.raises(InlierError) as caught:
        check(open_dataset(root))
    first, *lines = str(caught.value).splitlines()
    assert first == "bottle: 5 problems; mend or remove these files:"
    expected = [
        ("defect without a mask: ", "new.png"),
        ("mask of another size: ", "000_mask.png: 8 x 6 pixels, its picture"),
        ("unreadable image: ", "0.png: the file is empty"),
        ("unreadable image: ", "1.png: cannot be decoded"),
        ("unreadable mask: ", "001_mask.png: not a PNG"),
    ]
    assert len(lines) == 5
    for line, (kind, what) in zip(lines, expected, strict=True):
        assert line.startswith(f"  {kind}")
        assert what in line


def test_a_long_list_of_problems_is_cut(tmp_path: Path) -> None:
    for i in range(25):
        (tmp_path / f"{i}.png").touch()
    with pytest.raises(InlierError) as caught:
        check(open_dataset(tmp_path))
    lines = str(caught.value).splitlines()
    assert "25 problems" in lines[0]
    assert (len(lines), lines[-1]) == (22, "  ... and 5 more")


def test_a_mask_turned_by_exif_fits_its_image(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "good" / "0.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "test" / "dent").mkdir(parents=True)
    Image.new("RGB", (6, 8)).save(tmp_path / "test" / "dent" / "0.jpg", exif=exif)
    mask(tmp_path / "ground_truth" / "dent" / "0.png", (6, 8))
    check(open_dataset(tmp_path))


def test_without_any_mask_pixel_metrics_are_not_available(tmp_path: Path) -> None:
    root = mvtec(tmp_path / "bottle")
    for path in (root / "ground_truth").rglob("*.png"):
        path.unlink()
    assert check(open_dataset(root)).warnings == ("bottle: no masks: pixel metrics are not available",)


def test_empty_masks_are_a_warning(tmp_path: Path) -> None:
    root = mvtec(tmp_path / "bottle")
    path = mask(root / "ground_truth" / "dent" / "002_mask.png", value=0)
    assert check(open_dataset(root)).warnings == (f"1 mask shows no defect pixel: {path}",)


def test_equal_files_are_a_warning(tmp_path: Path) -> None:
    root = mvtec(tmp_path / "bottle")
    picture(root / "train" / "good" / "copy.png", 0)
    picture(root / "test" / "good" / "leak.png", 1)
    copies, leak = check(open_dataset(root)).warnings
    assert copies.startswith("1 training picture looks like another saved again (1 byte-equal) and counts as one")
    good = root / "train" / "good" / "1.png"
    assert leak.startswith("1 test picture is byte-equal to a training picture")
    assert leak.endswith(f"{good} = {root / 'test' / 'good' / 'leak.png'}")


@pytest.mark.parametrize(
    ("low", "high", "weak"),
    [(0, 4095, True), (30_200, 30_400, True), (7_000, 9_000, True), (0, 8191, False), (0, 65535, False)],
)
def test_16_bit_pictures_of_little_contrast_are_a_warning(tmp_path: Path, low: int, high: int, weak: bool) -> None:
    for i in range(3):
        pixels = np.random.default_rng(i).integers(low, high, (30, 30), np.uint16)
        pixels[3, i] = 65535  # a hot pixel
        pixels[4, i] = 0  # and a dead one
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    warnings = check(open_dataset(tmp_path)).warnings
    assert [text for text in warnings if "16-bit pictures use" in text and "stretch" in text] == list(warnings)
    assert len(warnings) == weak


def test_12_bit_colour_in_16_bit_files_is_a_warning() -> None:
    colour = np.random.default_rng(0).integers(0, 4096, (30, 30, 3), np.uint16)
    assert "nearly black (12-bit colour" in check(open_dataset([colour, colour[::-1]])).warnings[0]
    assert check(open_dataset([colour * 16, colour[::-1] * 16])).warnings == ()


def test_pictures_of_one_colour_are_a_warning(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / f"{i}.png", i)
    Image.new("RGB", (6, 8), (200, 100, 0)).save(tmp_path / "3.png")
    (warning,) = check(open_dataset(tmp_path)).warnings
    assert warning == f"1 picture is of one colour, nothing is to be seen in it: {tmp_path / '3.png'}"


def test_masks_that_mark_nearly_all_or_have_soft_edges_are_a_warning(tmp_path: Path) -> None:
    root = mvtec(tmp_path / "bottle")
    path = mask(root / "ground_truth" / "dent" / "002_mask.png")
    pixels = 255 - np.asarray(Image.open(path))
    Image.fromarray(pixels).save(path)
    (warning,) = check(open_dataset(root)).warnings
    assert warning == f"1 mask calls more than half of the picture defect; is it inverted? {path}"
    pixels = np.zeros((8, 6), np.uint8)
    pixels[2:4] = 1, 2, 3, 3, 3, 3
    Image.fromarray(pixels).save(path)
    (warning,) = check(open_dataset(root)).warnings
    assert warning.startswith(f"1 mask has more than two values; the first, {path}: holds the values 0, 1, 2, 3")


def test_arrays_are_checked_too() -> None:
    with pytest.raises(InlierError, match=r"unreadable image: image 1: .*int64"):
        check(open_dataset([np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.int64)]))
    one, other = (check(open_dataset([np.full((4, 4), v, np.uint8)])).fingerprint for v in (1, 2))
    assert one != other


def test_the_training_folder_of_a_category_is_named_after_it(tmp_path: Path) -> None:
    folder = tmp_path / "bolt" / "train" / "good"
    folder.mkdir(parents=True)
    Image.new("L", (8, 8)).save(folder / "0.png")
    assert open_dataset(folder).categories == ("bolt",)
