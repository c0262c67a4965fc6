"""What is recognised as what, what is refused, and that no picture is lost on the way, on made-up folders."""

import json
import os
import unicodedata
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image

from inlier.data.datasets import open_dataset
from inlier.data.datasets.masks import match_masks
from inlier.data.images import LIKE_PICTURES, SUFFIXES, find_pictures, list_images
from inlier.errors import InlierError
from inlier.inspection.inspector import pictures_of


def touch(root: Path, *names: str) -> Path:
    """Files that no reader looks into."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def roles(data: Path) -> dict[tuple[str, str, str | None], list[str]]:
    """(category, split, defect) -> names below the folder, and how many masks each has."""
    dataset, found = open_dataset(data), {}
    for s in dataset.samples:
        assert isinstance(s.source, Path)
        name = os.path.relpath(s.source, data) + (f" +{len(s.masks)}" if s.masks else "")
        found.setdefault((s.category, s.split, s.defect), []).append(Path(name).as_posix())
    return found


def notes(data: Path) -> str:
    return "\n".join(open_dataset(data).notes)


# --- what must never be trained as good


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["mvtec/plate/train/good/0.png", "mvtec/screw/train/good/0.png"], r"pass one of: \S*/mvtec \(MVTec-AD layout"),
        (["a/b/plate/Train/Good/0.png"], r"pass one of: \S*/a/b \(MVTec-AD"),
        (["x/visa/candle/Data/Images/Normal/0.JPG"], r"pass one of: \S*/x/visa \(VisA"),
        (["good/0.png", "crack/0.png", "mask/crack/0.png"], r"holds crack, mask.*pass .*/good\)"),
        (["OK/0.png", "NG/0.png"], "holds NG"),
        (["good/0.png", "odd/0.png"], "holds odd"),
        (["good/0.png", "odd.png"], r"holds odd\.png"),
        (["part/monday/good/0.png", "part/monday/odd/0.png"], "holds part/monday/odd"),
        (["0.png", "Defects_2024/0.png"], "holds Defects_2024"),
        (["Test/hole/0.png", "0.png"], "holds Test, Test/hole"),
        (["0.png", "Masks/0.png"], "holds Masks"),
        (["0.png", "0_mask.png"], r"holds 0_mask\.png"),
        (["kos01/Part0.jpg", "kos01/Part0_label.bmp"], r"holds kos01/Part0_label\.bmp"),
    ],
)
def test_a_folder_that_holds_more_than_good_parts_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(InlierError, match=message):
        open_dataset(touch(tmp_path / "data", *names))


def test_the_defects_and_masks_of_a_category_alone_are_refused(tmp_path: Path) -> None:
    root = touch(tmp_path / "bolt", "train/good/0.png", "test/good/0.png", "test/bent/0.png", "ground_truth/bent/0.png")
    for name, message in {
        "test": "holds tests of bolt",
        "test/bent": "holds tests of bolt",
        "ground_truth": "holds the masks of bolt",
        "ground_truth/bent": "holds the masks of bolt",
    }.items():
        with pytest.raises(InlierError, match=f"{message}, not .*; pass .*/bolt"):
            open_dataset(root / name)


DEFECTS = (
    "defects,scratches,NOK,NG parts,not ok,nicht_io,Ausschuß,defekt,NIO,n.i.O.,schlecht,Ma\u0308ngel,不良品,缺陷_2024"
)


@pytest.mark.parametrize("name", DEFECTS.split(","))
def test_a_folder_whose_name_says_defects_is_not_trained_on(tmp_path: Path, name: str) -> None:
    root = touch(tmp_path / name, "0.png", "monday/1.png")
    with pytest.raises(InlierError, match="says that these are defects.* if these are good parts, rename the folder"):
        open_dataset(root)
    with pytest.raises(InlierError, match=f"To evaluate, move .*, and pass {tmp_path}$"):
        open_dataset(f"{root}/monday/..")
    with pytest.raises(InlierError, match=f"holds {name}"):
        open_dataset(touch(tmp_path / "all", f"{name}/0.png"))
    assert len(list(pictures_of(root))) == 2  # to judge them is another matter


@pytest.mark.parametrize(
    ("names", "passed", "above"),
    [
        (["OK/0.png", "NOK/monday/1.png"], "NOK/monday", "NOK"),
        (["Gut/0.png", "schlecht/2024/may/1.png"], "schlecht/2024/may", "schlecht"),
        (["train/good/0.png", "不良/a/1.png"], "不良/a", "不良"),
        (["good/0.png", "good/NOK/monday/1.png"], "good/NOK/monday", "good/NOK"),
        (["train/good/0.png", "test/bent/monday/1.png"], "test/bent/monday", "test"),
        (["train/good/0.png", "ground_truth/bent/monday/1.png"], "ground_truth/bent/monday", "ground_truth"),
    ],
)
def test_folders_above_that_sort_are_heard(tmp_path: Path, names: list[str], passed: str, above: str) -> None:
    root = touch(tmp_path / "bolt", *names)
    with pytest.raises(InlierError, match=f"{passed}: lies in {root / above}, .* says that these are no good parts"):
        open_dataset(root / passed)
    (tmp_path / "link").symlink_to(root / passed)
    with pytest.raises(InlierError, match=f"lies in {root / above}"):
        open_dataset(tmp_path / "link")


@pytest.mark.parametrize(
    "name", ["defects/screw", "NOK study/part", "hole_plate/monday", "NOK/good/monday", "crack/train/good/monday"]
)
def test_a_name_above_that_sorts_nothing_is_no_hindrance(tmp_path: Path, name: str) -> None:
    if "good" in name:  # the nearest name decides
        touch(tmp_path / "OK", "0.png")
    dataset = open_dataset(touch(tmp_path / name, "0.png"))
    assert len(dataset.train) == 1
    noted = "the folder above is called 'defects'" in "".join(dataset.notes)
    assert noted == name.startswith("defects") and len(dataset.notes) == ("study" in name) + noted


def test_a_folder_whose_name_says_masks_is_not_trained_on(tmp_path: Path) -> None:
    with pytest.raises(InlierError, match="says that these are masks, .* rename the folder"):
        open_dataset(touch(tmp_path / "bolt" / "Masks", "0.png"))
    assert len(open_dataset(touch(tmp_path / "labels", "0.png")).train) == 1  # parts may be labels


@pytest.mark.parametrize(
    "name", ["defect_free", "ohne Fehler", "keine_kratzer", "nicht defekt", "hole_plate", "crack/good", "NOK/gut"]
)
def test_a_name_that_denies_defects_or_is_a_parts_is_no_defect(tmp_path: Path, name: str) -> None:
    assert len(open_dataset(touch(tmp_path / name, "0.png")).train) == 1
    if "/" in name:
        assert len(open_dataset((tmp_path / name).parent).train) == 1


@pytest.mark.parametrize("name", ["GUT", "iO", "i.O.", "良品", "合格"])
def test_words_for_good_of_other_languages(tmp_path: Path, name: str) -> None:
    root = touch(tmp_path / "bolt", f"train/{name}/0.png", f"test/{name}/1.png", "test/Kratzer/2.png")
    assert roles(root) == {
        ("bolt", "train", None): [f"train/{name}/0.png"],
        ("bolt", "test", None): [f"test/{name}/1.png"],
        ("bolt", "test", "Kratzer"): ["test/Kratzer/2.png"],
    }


@pytest.mark.parametrize("name", ["train/good", "Train/OK", "train", "good", "validation/good", "test/Normal"])
def test_a_folder_of_good_parts_is_named_after_the_part(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "bolt", f"{name}/0.png", f"{name}/monday/defect_free/1.png")
    dataset = open_dataset(tmp_path / "bolt" / name)
    assert (dataset.categories, len(dataset.train), dataset.layout) == (("bolt",), 2, "folder of good pictures")


def test_a_part_with_a_folder_good_alone(tmp_path: Path) -> None:
    assert roles(touch(tmp_path / "bolt", "good/0.png")) == {("bolt", "train", None): ["good/0.png"]}
    assert notes(tmp_path / "bolt") == "taken as good: good"


# --- MVTec AD and its relatives


def test_capitals_and_other_words_for_good(tmp_path: Path) -> None:
    names = (
        "Train/Good/0.png",
        "TEST/ok/1.png",
        "TEST/Normal/2.png",
        "TEST/Hole/3.png",
        "Ground_Truth/hole/3_MASK.PNG",
    )
    assert roles(touch(tmp_path / "p", *names)) == {
        ("p", "train", None): ["Train/Good/0.png"],
        ("p", "test", None): ["TEST/Normal/2.png", "TEST/ok/1.png"],
        ("p", "test", "Hole"): ["TEST/Hole/3.png +1"],
    }
    assert notes(tmp_path / "p") == "taken as good: TEST/Normal, TEST/ok, Train/Good"


def test_mvtec_loco(tmp_path: Path) -> None:
    root = touch(
        tmp_path / "loco",
        *("box/train/good/0.png", "box/validation/good/0.png", "box/test/good/0.png"),
        *("box/test/logical_anomalies/000.png", "box/test/structural_anomalies/000.png"),
        *("box/ground_truth/logical_anomalies/000/000.png", "box/ground_truth/logical_anomalies/000/001.png"),
        "box/ground_truth/structural_anomalies/000/000.png",
    )
    assert roles(root) == {
        ("box", "train", None): ["box/train/good/0.png"],
        ("box", "validation", None): ["box/validation/good/0.png"],
        ("box", "test", None): ["box/test/good/0.png"],
        ("box", "test", "logical_anomalies"): ["box/test/logical_anomalies/000.png +2"],
        ("box", "test", "structural_anomalies"): ["box/test/structural_anomalies/000.png +1"],
    }
    dataset = open_dataset(root)
    assert dataset.layout == "MVTec LOCO AD layout, 1 category"
    assert dataset.validation[0].source == root / "box/validation/good/0.png"
    (note,) = dataset.notes
    assert "1 good picture of box/validation/good is neither fitted on nor tested on" in note
    assert f"`inlier calibrate MODEL {root}/box/validation/good`" in note


def test_mvtec_ad_2(tmp_path: Path) -> None:
    root = touch(
        tmp_path / "can",
        *("train/good/0.png", "validation/good/1.png", "test_public/good/2.png", "test_public/bad/3.png"),
        *("test_public/ground_truth/bad/3_mask.png", "test_private/4.png", "test_private_mixed/5.png"),
    )
    assert roles(root) == {
        ("can", "train", None): ["train/good/0.png"],
        ("can", "validation", None): ["validation/good/1.png"],
        ("can", "test", None): ["test_public/good/2.png"],
        ("can", "test", "bad"): ["test_public/bad/3.png +1"],
    }
    assert open_dataset(root).layout == "MVTec AD 2 layout, 1 category"
    for said in ("those of test_public", "1 picture of test_private is not", "1 picture of test_private_mixed is not"):
        assert said in notes(root)


def test_pictures_beside_the_folders_of_types_are_no_defects(tmp_path: Path) -> None:
    stray = ("test_public/3.png", "test/4.png", "test_005.png")
    root = touch(tmp_path / "can", "train/good/0.png", "test_public/bad/2.png", *stray)
    assert roles(root) == {
        ("can", "train", None): ["train/good/0.png"],
        ("can", "test", "bad"): ["test_public/bad/2.png"],
    }
    (left,) = open_dataset(root).left_out
    assert left.reason == "pictures outside train/good and test/TYPE are not used"
    assert {path.relative_to(root).as_posix() for path in left.paths} == set(stray)


def test_mvtec_3d(tmp_path: Path) -> None:
    root = touch(
        tmp_path / "bagel",
        *("train/good/rgb/000.png", "train/good/xyz/000.tiff", "test/hole/rgb/000.png", "test/hole/gt/000.png"),
        *("test/hole/xyz/000.tiff", "test/good/rgb/000.png", "test/good/gt/000.png"),
    )
    assert roles(root) == {
        ("bagel", "train", None): ["train/good/rgb/000.png"],
        ("bagel", "test", None): ["test/good/rgb/000.png +1"],
        ("bagel", "test", "hole"): ["test/hole/rgb/000.png +1"],
    }
    assert notes(root).startswith("2 depth pictures (xyz) are not used")


@pytest.mark.parametrize("name", ["test/hole/mask/0.png", "test/hole/0_mask.png"])
def test_masks_among_the_tests_are_refused(tmp_path: Path, name: str) -> None:
    touch(tmp_path / "p", "train/good/0.png", "test/hole/0.png", name)
    with pytest.raises(InlierError, match="1 file among the pictures seems to be masks.*belong into .*ground_truth"):
        open_dataset(tmp_path / "p")


def test_defects_inside_of_the_good_ones_are_refused(tmp_path: Path) -> None:
    touch(tmp_path / "p", "train/good/monday/0.png", "train/good/rejects/1.png")
    with pytest.raises(
        InlierError, match=r"1 picture of good parts lies in folders whose names say otherwise: .*rejects/1"
    ):
        open_dataset(tmp_path / "p")


# --- masks


@pytest.mark.parametrize(
    ("picture", "mask"),
    [
        *(("000.png", name) for name in ("000_mask.png", "000.png", "000_gt.png", "000_label.png", "000-seg.bmp")),
        *(("000.png", name) for name in ("000_MASK.PNG", "000.png.png", "000.png_mask.png", "000 mask.tif")),
        (unicodedata.normalize("NFC", "Gehäuse.png"), unicodedata.normalize("NFD", "Gehäuse_mask.png")),
        ("part 1.a.jpg", "part 1.a_mask.png"),
    ],
)
def test_names_of_masks(picture: str, mask: str) -> None:
    assert match_masks([("hole", picture)], [("Hole", mask)]) == ({("hole", picture): (("Hole", mask),)}, [])


def test_a_mask_that_matches_nothing_is_named_and_none_is_used_twice_by_chance(tmp_path: Path) -> None:
    pictures = [("hole", "1.png"), ("hole", "1_gt.png"), ("hole", "11.png")]
    masks = [
        ("hole", "1_gt_mask.png"),
        ("hole", "1_mask.png"),
        ("hole", "1.png"),
        ("hole", "111.png"),
        ("cut", "11.png"),
    ]
    found, free = match_masks(pictures, masks)
    assert found == {("hole", "1.png"): (masks[1],), ("hole", "1_gt.png"): (masks[0],)}
    assert free == masks[2:]
    touch(tmp_path / "p", "train/good/0.png", "test/hole/0.png", "ground_truth/hole/1.png", "ground_truth/2.png")
    assert notes(tmp_path / "p").startswith("2 masks match no picture: ")


# --- other sets, as they are distributed


def test_visa_without_a_split(tmp_path: Path) -> None:
    images = [f"candle/Data/Images/Normal/{i:04}.JPG" for i in range(10)]
    defect = ("candle/Data/Images/Anomaly/000.JPG", "candle/Data/Masks/Anomaly/000.png", "candle/image_anno.csv")
    root = touch(tmp_path / "visa", *images, *defect)
    dataset = open_dataset(root)
    assert dataset.layout == "VisA, 1 category"
    assert (len(dataset.train), [s.defect for s in dataset.test]) == (8, [None, None, "anomaly"])
    assert dataset.test[2].masks == (root / defect[1],)
    assert dataset.notes == (
        "good pictures are split 80 to 20 into train and test with a fixed seed: there is no split_csv/1cls.csv",
    )
    assert [s.split for s in open_dataset(root / "candle").samples] == [s.split for s in dataset.samples]
    (root / "split_csv").mkdir()
    rows = [f"candle,{'test' if i else 'train'},normal,{name}," for i, name in enumerate(images)]
    (root / "split_csv/1cls.csv").write_text("\n".join(["object,split,label,image,mask", *rows]))
    assert len(open_dataset(root / "candle").train) == len(open_dataset(root).train) == 1  # its parent knows the split
    assert "2 pictures are not used" in notes(root)  # the defect is not in the table


def test_kolektor(tmp_path: Path) -> None:
    for i, value in enumerate((0, 0, 255)):
        for split in ("train", "test"):
            touch(tmp_path / "k", f"{split}/1000{i}.png")
            Image.fromarray(np.full((4, 4), value, np.uint8)).save(tmp_path / "k" / split / f"1000{i}_GT.png")
    touch(tmp_path / "k", "train/20000.png")
    assert roles(tmp_path / "k") == {
        ("k", "train", None): ["train/10000.png +1", "train/10001.png +1"],
        ("k", "train", "defect"): ["train/10002.png +1"],
        ("k", "test", None): ["test/10000.png +1", "test/10001.png +1"],
        ("k", "test", "defect"): ["test/10002.png +1"],
    }
    assert open_dataset(tmp_path / "k").layout == "KolektorSDD2 layout, 1 category"
    assert "1 defect picture of the train split is not used" in notes(tmp_path / "k")
    assert "1 picture without a mask is not used" in notes(tmp_path / "k")


def test_dagm(tmp_path: Path) -> None:
    root = touch(
        tmp_path / "dagm",
        *(f"Class1/{split}/000{i}.PNG" for split in ("Train", "Test") for i in range(4)),
        *("Class1/Train/Label/0001_label.PNG", "Class1/Test/Label/0002_label.PNG"),
    )
    (root / "Class1/Train/Label/Labels.txt").write_text(
        "1\n1\t1\t0001.PNG\t0\t0001_label.PNG\n3\t1\t0003.PNG\t0\t0003_label.PNG"
    )
    assert roles(root) == {
        ("Class1", "train", None): ["Class1/Train/0000.PNG", "Class1/Train/0002.PNG"],
        ("Class1", "train", "defect"): ["Class1/Train/0001.PNG +1"],
        ("Class1", "test", None): [f"Class1/Test/000{i}.PNG" for i in (0, 1, 3)],
        ("Class1", "test", "defect"): ["Class1/Test/0002.PNG +1"],
    }
    assert open_dataset(root / "Class1").layout == open_dataset(root).layout == "DAGM 2007 layout, 1 category"
    assert "1 defect of Labels.txt has no label picture and is not used" in notes(root)


def realiad(root: Path) -> Path:
    """Two categories, each with a good picture, and one with a defect."""
    for folder in ("realiad_jsons", "realiad_jsons_sv"):
        for category in ("audiojack", "usb"):
            touch(root, *(f"realiad_256/{category}/{name}" for name in ("OK/0.jpg", "NG/BX/1.jpg", "NG/BX/1_mask.png")))
            good = {"category": category, "anomaly_class": "OK", "image_path": "OK/0.jpg", "mask_path": None}
            bad = good | {"anomaly_class": "BX", "image_path": "NG/BX/1.jpg", "mask_path": "NG/BX/1_mask.png"}
            table = {"meta": {"prefix": f"{category}/", "normal_class": "OK"}, "train": [good], "test": [bad]}
            path = root / folder / f"{category}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(table))
    return root


@pytest.mark.parametrize("passed", [".", "realiad_jsons", "realiad_jsons_sv"])
def test_realiad(tmp_path: Path, passed: str) -> None:
    dataset = open_dataset(realiad(tmp_path) / passed)
    assert (dataset.layout, dataset.categories) == ("Real-IAD, 2 categories", ("audiojack", "usb"))
    assert len(dataset.train) == 2
    assert dataset.test[0].defect == "BX"
    assert dataset.test[0].masks == (tmp_path / "realiad_256/audiojack/NG/BX/1_mask.png",)
    assert ("the split is that of" in "".join(dataset.notes)) == (passed == ".")


def test_pictures_that_no_table_of_realiad_names_and_those_named_twice(tmp_path: Path) -> None:
    root = touch(realiad(tmp_path), "realiad_256/usb/OK/9.jpg", "realiad_1024/readme.png")
    (left,) = open_dataset(root).left_out
    assert "are not used" in left.reason and [path.name for path in left.paths] == ["9.jpg", "readme.png"]
    path = root / "realiad_jsons" / "usb.json"
    table = json.loads(path.read_text())
    table["test"] *= 2
    path.write_text(json.dumps(table))
    dataset = open_dataset(root)
    assert len(dataset.test) == 2 and "5 rows name 4 pictures" in "".join(dataset.notes)
    table["test"].append(table["train"][0] | {"anomaly_class": "BX"})
    path.write_text(json.dumps(table))
    with pytest.raises(InlierError, match=r"usb.json, test, entry 2: 0.jpg is good and a defect, see train, entry 0"):
        open_dataset(root)


def test_one_table_of_realiad_and_broken_ones(tmp_path: Path) -> None:
    table = realiad(tmp_path) / "realiad_jsons" / "audiojack.json"
    assert open_dataset(table).categories == ("audiojack",)
    rows = {"meta": {}, "train": [{"image_path": "OK/0.jpg"}]}
    table.write_text(json.dumps(rows))
    with pytest.raises(InlierError, match=r"audiojack.json, train, entry 0: needs image_path and anomaly_class"):
        open_dataset(table)
    rows["train"] = [{"image_path": "gone.jpg", "anomaly_class": "OK"}]
    table.write_text(json.dumps(rows))
    with pytest.raises(InlierError, match=r"the picture audiojack/gone.jpg lies in no folder beside it"):
        open_dataset(table)


# --- files


def test_every_suffix_that_is_read_is_listed_in_any_case(tmp_path: Path) -> None:
    names = [f"{i}{suffix.upper() if i % 2 else suffix}" for i, suffix in enumerate(sorted(SUFFIXES))]
    assert [path.name for path in list_images(touch(tmp_path, *names))] == names


def test_what_looks_like_a_picture_and_is_not_read_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not LIKE_PICTURES & set(SUFFIXES)
    unread = sorted(LIKE_PICTURES)
    assert {".gif", ".heic", ".dng", ".nef", ".psd"} <= set(unread)
    touch(tmp_path / "parts", "0.png", *(f"x{suffix}" for suffix in unread), "notes.txt")
    assert f"{len(unread)} files are of kinds that are not read" in notes(tmp_path / "parts")
    assert len(open_dataset(tmp_path / "parts").left_out[0].paths) == len(unread)
    list_images(touch(tmp_path / "other", "0.png", "1.gif", "2.gif"))
    assert "files of kinds that are not read are left out: 2 .gif, such as 1.gif" in caplog.text


@pytest.mark.parametrize("folder", ["@eaDir/0.jpg", "Thumbs", "__MACOSX", "$RECYCLE.BIN"])
def test_thumbnails_of_storage_servers_are_left_out(tmp_path: Path, folder: str) -> None:
    touch(tmp_path / "parts", "0.png", ".thumbnails/0.png", f"{folder}/SYNOPHOTO_THUMB_M.jpg")
    assert roles(tmp_path / "parts") == {("parts", "train", None): ["0.png"]}
    assert "1 folder of storage servers or systems is left out" in notes(tmp_path / "parts")


def test_no_folder_is_listed_twice_whatever_leads_to_it(tmp_path: Path) -> None:
    root = touch(tmp_path / "parts", "b/0.png", "c/1.png", "../elsewhere/2.png", "../3.png")
    (root / "a alias").symlink_to("b", target_is_directory=True)
    (root / "b" / "up").symlink_to("..", target_is_directory=True)
    (root / "c" / "far up").symlink_to(tmp_path, target_is_directory=True)
    (root / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    found = find_pictures(root)
    assert [path.relative_to(root).as_posix() for path in found.pictures] == ["b/0.png", "c/1.png", "linked/2.png"]
    assert [path.relative_to(root).as_posix() for path in found.links] == ["a alias", "b/up", "c/far up"]
    assert "3 links lead to folders that are listed already and are not followed" in notes(root)


# --- nothing is lost, and nothing but our own errors comes out

FOLDERS = "train test Test validation good OK crack ground_truth mask gt rgb Label Data Images Masks Normal @eaDir x"
FILES = "0.png 0_mask.png 0_GT.png 1.PNG 0_label.PNG 1.gif x.txt Labels.txt a.json"
PATHS = st.builds(
    lambda folders, name: "/".join((*folders, name)),
    st.lists(
        st.sampled_from(FOLDERS.split()) | st.text("äA .[-", min_size=1).filter(lambda n: n.strip(". ")), max_size=4
    ),
    st.sampled_from(FILES.split()),
)
quick = settings(max_examples=int(os.environ.get("INLIER_FUZZ", "40")), deadline=None, derandomize=True)


@quick
@given(st.sets(PATHS, min_size=1, max_size=8))
def test_every_picture_is_in_a_sample_or_named(names: set[str]) -> None:
    with TemporaryDirectory() as folder:
        root = touch(Path(folder) / "data", *names)
        try:
            dataset = open_dataset(root)
        except InlierError:
            return
        pictures = [s.source for s in dataset.samples]
        assert len(pictures) == len(set(pictures))
        named = {path for left in dataset.left_out for path in left.paths}
        named |= {path for s in dataset.samples for path in (s.source, *s.masks) if isinstance(path, Path)}
        for path in root.rglob("*.*"):
            hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
            if path.is_file() and not hidden and path.suffix.lower() in LIKE_PICTURES | set(SUFFIXES):
                assert named & {path, *path.parents}, path
        for sample in dataset.train:
            assert isinstance(sample.source, Path)
            words = {part.casefold() for part in sample.source.relative_to(root).parts[:-1]}
            assert not words & {"crack", "mask", "masks", "gt", "ground_truth", "label", "test"}, sample.source


HEADERS = st.sampled_from(["path", "path,label", "image,split,label,mask", "lable,path", "\ufeffpath", "a;b", ""])


@quick
@given(HEADERS, st.binary(max_size=60) | st.text('a.png,good\n"1;train ', max_size=60).map(str.encode))
def test_any_bytes_as_a_table(header: str, content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        path.write_bytes(header.encode() + b"\n" + content)
        with suppress(InlierError):
            assert open_dataset(path).samples


KEYS = st.sampled_from(["meta", "train", "test", "image_path", "anomaly_class", "mask_path", "category", "prefix"])
JSON = st.recursive(
    st.none() | st.text(max_size=5) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)


@quick
@given(
    JSON | st.fixed_dictionaries({"meta": st.dictionaries(KEYS, JSON, max_size=2), "train": st.lists(JSON, max_size=2)})
)
def test_any_json_as_a_table(content: object) -> None:
    with TemporaryDirectory() as folder:
        root = touch(Path(folder) / "parts", "0.png")
        (root / "a.json").write_text(json.dumps(content))
        with suppress(InlierError):
            assert open_dataset(root).samples
