"""What the check before a training finds: copies, what looks wrong, and what stops whom; and `inlier check`."""

import hashlib
import io
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import part, write_dataset
from inlier.data import copies
from inlier.data.check import check, examine
from inlier.data.datasets import open_dataset
from inlier.data.datasets.sample import Dataset, Sample
from inlier.errors import InlierError


def shot(rng: np.random.Generator, light: float = 0, jitter: float = 0, turn: float = 0) -> Image.Image:
    """A part on a fixture, 128 px, with sensor noise; light, place and angle may vary."""
    y, x = np.mgrid[:128, :128] - 64 - rng.normal(0, jitter, (2, 1, 1))
    angle = rng.uniform(0, turn)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    picture = 110 + 60.0 * (u**2 + v**2 < 1000) - 40.0 * ((abs(v) < 6) & (abs(u) < 50))
    picture = picture * (1 + rng.normal(0, light)) + rng.normal(0, 3, picture.shape)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def pin(rng: np.random.Generator, angle: float, shift: float) -> Image.Image:
    """A pin with a thread that lies somewhere, 128 px, with hardly any noise."""
    y, x = np.mgrid[:128, :128] - 63.5 - rng.normal(0, shift, (2, 1, 1))
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    body = ((7 + 1.5 * np.cos(0.8 * u) - abs(v)) / 2 + 0.5).clip(0, 1) * ((48 - abs(u)) / 2 + 0.5).clip(0, 1)
    return Image.fromarray((200 - 120 * body + rng.normal(0, 0.5, x.shape)).clip(0, 255).astype(np.uint8))


def again(picture: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file)


def groups(pictures: list[Image.Image]) -> tuple[int, ...]:
    return check(open_dataset([picture.convert("RGB") for picture in pictures])).groups


# --- copies


@pytest.mark.parametrize(
    "changes", [{}, {"light": 0.05}, {"jitter": 1.5}, {"light": 0.05, "jitter": 1.5}, {"turn": 6.28}]
)
@pytest.mark.parametrize("quality", [None, 80])
def test_parts_on_a_fixture_are_no_copies(changes: dict[str, float], quality: int | None) -> None:
    rng = np.random.default_rng(0)
    pictures = [shot(rng, **changes) for _ in range(40)]
    assert groups([again(p, quality) if quality else p for p in pictures]) == tuple(range(40))


@pytest.mark.parametrize("changes", [{}, {"light": 0.05, "jitter": 1.5}, {"turn": 6.28}])
def test_ten_pictures_saved_four_times_are_ten_groups(changes: dict[str, float]) -> None:
    rng = np.random.default_rng(0)
    pictures = [shot(rng, **changes) for _ in range(10)]
    saved = [p for p in pictures for p in (p, *(again(p, int(q)) for q in rng.integers(60, 96, 3)))]
    assert groups(saved) == tuple(i // 4 for i in range(40))


@pytest.mark.parametrize(("seed", "shift", "n"), [(3, 2, 40), (2, 2, 60), (5, 2, 60), (1, 1, 60), (5, 1, 60)])
def test_parts_that_lie_at_nearly_one_angle_are_no_copies(seed: int, shift: int, n: int) -> None:
    """Pictures with little noise, whose edges agree; each of these sets has a pair as near as noisy copies are."""
    rng = np.random.default_rng(seed)
    pictures = [pin(rng, angle, shift) for angle in rng.uniform(0, 6.28, n)]
    assert groups(pictures) == tuple(range(n))
    assert groups([*pictures, again(pictures[4], 60), again(pictures[9], 95)])[n:] == (4, 9)


def test_the_size_may_differ_a_little_and_the_format_too() -> None:
    rng = np.random.default_rng(0)
    pictures = [shot(rng, turn=6.28) for _ in range(20)]
    file = io.BytesIO()
    pictures[7].save(file, "WEBP", quality=80)
    assert groups([*pictures, pictures[3].resize((122, 122), Image.Resampling.LANCZOS), Image.open(file)])[20:] == (
        3,
        7,
    )


def test_byte_equal_files_are_copies_wherever_they_lie_and_numbers_follow_appearance(tmp_path: Path) -> None:
    for name, seed in (("a/0", 1), ("a/1", 2), ("a/2", 1), ("b/0", 3), ("b/1", 2)):
        path = tmp_path / f"{name[0]}/train/good/{name[2]}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shot(np.random.default_rng(seed), turn=6.28).save(path)
    dataset = open_dataset(tmp_path)
    report = check(dataset)
    assert report.groups == (0, 1, 0, 2, 1)
    assert report.warnings[0].startswith("2 training pictures look like others saved again (2 byte-equal) and count")


def test_only_one_category_is_compared() -> None:
    rng = np.random.default_rng(0)
    pictures = [shot(rng, turn=6.28) for _ in range(8)]
    small = [copies.small(p.convert("RGB")) for p in (*pictures, again(pictures[0], 95))]
    names = [str(i) for i in range(9)]
    assert copies.group(small, names, ["a"] * 9)[-1] == 0
    assert copies.group(small, names, [*"aaaaaaaa", "b"])[-1] == 8


def test_many_pictures_are_compared_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    pictures = [shot(rng, turn=6.28) for _ in range(30)]
    small = [copies.small(p.convert("RGB")) for p in (*pictures, *(again(p, 90) for p in pictures[::7]))]
    whole = copies.group(small, [str(i) for i in range(35)], ["a"] * 35)
    assert whole == [*range(30), 0, 7, 14, 21, 28]
    monkeypatch.setattr(copies, "BLOCK", 8)
    assert copies.group(small, [str(i) for i in range(35)], ["a"] * 35) == whole


def test_the_order_of_the_training_images_is_known(tmp_path: Path) -> None:
    pictures = [np.full((4, 4), i, np.uint8) for i in range(3)]
    one, other = check(open_dataset(pictures)), check(open_dataset(pictures[::-1]))
    assert one.fingerprint == other.fingerprint
    assert one.order != other.order
    assert one.order == check(open_dataset(pictures)).order
    assert len(one.order) == len(hashlib.sha256().hexdigest())


# --- what looks wrong


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder of 40 good parts and some odd pictures."""
    folder, rng = tmp_path / "plate", np.random.default_rng(0)
    folder.mkdir()
    for i in range(40):
        part(rng)[0].save(folder / f"{i:03}.png")
    Image.new("L", (64, 64), 70).save(folder / "flat.png")
    glass = part(rng)[0].convert("LA")
    glass.putalpha(200)
    glass.save(folder / "clear.png")
    part(rng)[0].resize((32, 32)).save(folder / "half.png")
    part(rng)[0].resize((64, 40)).save(folder / "wide.png")
    return folder


def test_odd_pictures_are_named_in_warnings(odd: Path) -> None:
    found = {what: [Path(s.name).name for s in samples] for what, samples in check(open_dataset(odd)).suspicious}
    assert found == {
        "are of one colour, nothing is to be seen in them": ["flat.png"],
        "are grey with alpha where most of plate are grey": ["clear.png"],
        "have another size than most of plate (64 x 64)": ["half.png"],
        "have another aspect ratio than most of plate": ["wide.png"],
    }
    warnings = check(open_dataset(odd)).warnings
    assert f"1 picture is of one colour, nothing is to be seen in it: {odd / 'flat.png'}" in warnings
    assert len(warnings) == len(found)


def test_pictures_that_stand_are_told_from_those_that_lie(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 255, (40, 64), np.uint8) for _ in range(20)]
    (warning,) = check(open_dataset([*arrays, arrays[3].T[::-1] // 2])).warnings
    assert warning == "1 picture is turned by a quarter against most of parts: image 20"


@pytest.mark.parametrize("others", [2, 3, 9, 20])
def test_one_picture_of_another_size_is_named_however_few_the_others_are(others: int) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 255, (side, side), np.uint8) for side in (8, *[128] * others)]
    (warning,) = check(open_dataset(arrays)).warnings
    assert warning == "1 picture has another size than most of parts (128 x 128): image 0"


def test_of_two_sizes_that_are_both_common_none_is_odd() -> None:
    rng = np.random.default_rng(0)
    for sides in ([8, 128], [8, 8, 128, 128, 128]):
        assert check(open_dataset([rng.integers(0, 255, (n, n), np.uint8) for n in sides])).warnings == ()


def test_arrays_are_grey_or_colour_as_pictures_are() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 255, shape, np.uint8) for shape in [(9, 9)] * 4 + [(9, 9, 1), (9, 9, 3)]]
    looks = examine(open_dataset([*arrays, Image.fromarray(arrays[0])])).looks
    assert [look.kind for look in looks] == 5 * ["grey"] + ["colour", "grey"]


def test_sizes_that_all_differ_are_nothing_odd() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 255, (40 + 3 * i, 64 + 2 * i), np.uint8) for i in range(10)]
    assert check(open_dataset(arrays)).warnings == ()


def test_a_picture_that_is_good_and_a_defect(plates: Path, tmp_path: Path) -> None:
    shutil.copytree(plates, tmp_path / "data")
    folder = tmp_path / "data/plate/test"
    shutil.copy(folder / "dent/000.png", folder / "good/x.png")
    (warning,) = check(open_dataset(tmp_path / "data")).warnings
    good, defect = folder / "good/x.png", folder / "dent/000.png"
    assert warning == f"1 picture is there as good and as a defect, byte by byte: {good} = {defect}"


def test_a_good_picture_with_a_defect_in_its_mask(plates: Path, tmp_path: Path) -> None:
    shutil.copytree(plates, tmp_path / "data")
    truth = tmp_path / "data/plate/ground_truth"
    (truth / "good").mkdir()
    Image.new("L", (64, 64), 0).save(truth / "good/000_mask.png")
    assert check(open_dataset(tmp_path / "data")).warnings == ()
    shutil.copy(truth / "dent/001_mask.png", truth / "good/001_mask.png")
    (warning,) = check(open_dataset(tmp_path / "data")).warnings
    assert warning.startswith("1 good picture has a mask that shows a defect: ") and warning.endswith("good/001.png")


def test_several_masks_are_one_truth(tmp_path: Path) -> None:
    for name, column in (("a", 0), ("b", 3)):
        mask = np.zeros((4, 4), np.uint8)
        mask[:, column] = 255
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
    Image.new("L", (5, 4)).save(tmp_path / "c.png")
    sample = Sample(np.zeros((4, 4), np.uint8), "p", "test", "cut", (tmp_path / "a.png", tmp_path / "b.png"))
    joined = sample.read_mask()
    assert joined is not None and joined.sum(0).tolist() == [4, 0, 0, 4]
    other = Sample(sample.source, "p", "test", "cut", (tmp_path / "a.png", tmp_path / "c.png"))
    with pytest.raises(InlierError, match=r"unreadable mask: .*c.png: 5 x 4 pixels, a.png has 4 x 4"):
        check(Dataset("p", "", (other,)))


# --- what stops whom


@pytest.fixture
def broken(plates: Path, tmp_path: Path) -> Path:
    """A test picture that cannot be read, and a defect without a mask where others have one."""
    shutil.copytree(plates, tmp_path / "data")
    (tmp_path / "data/plate/test/good/000.png").write_bytes(b"no picture")
    (tmp_path / "data/plate/ground_truth/dent/003_mask.png").unlink()
    return tmp_path / "data"


def test_a_broken_test_picture_stops_an_evaluation_and_no_training(broken: Path) -> None:
    dataset = open_dataset(broken)
    with pytest.raises(InlierError, match="2 problems(.|\n)*defect without a mask(.|\n)*unreadable image"):
        check(dataset)
    (warning,) = check(dataset, training=True).warnings
    assert warning.startswith(
        "2 samples that training does not need cannot be used, `evaluate` will refuse: unreadable"
    )
    (broken / "plate/train/good/000.png").write_bytes(b"no picture")
    with pytest.raises(InlierError, match=r"3 problems; mend(.|\n)*train/good/000.png"):
        check(dataset, training=True)


def test_what_cannot_be_read_is_in_the_report(broken: Path) -> None:
    report = examine(open_dataset(broken))
    assert Counter(problem.kind for _, problem in report.problems) == {
        "unreadable image": 1,
        "defect without a mask": 1,
    }
    assert len(report.groups) == 16


# --- tables


def table(folder: Path, text: str) -> Dataset:
    (folder / "t.csv").write_text(text)
    return open_dataset(folder / "t.csv")


def test_rows_of_one_picture_are_one_sample(tmp_path: Path) -> None:
    text = (
        "path,split,label,mask\na.png,test,cut,1.png\na.png,test,hole,2.png\n./a.png,test,cut,3.png\nb.png,train,0.0,\n"
    )
    dataset = table(tmp_path, text)
    (sample,) = dataset.test
    assert sample.defect == "cut+hole"
    assert [path.name for path in sample.masks] == ["1.png", "2.png", "3.png"]
    assert dataset.notes == ("4 rows name 2 pictures: rows of one picture are joined",)


def test_what_rows_leave_open_is_decided_and_noted(tmp_path: Path) -> None:
    dataset = table(tmp_path, "path,split,label,category\na.png,,good,x\nb.png,test,,\nc.png,test,cut,x\n")
    assert [(s.split, s.defect, s.category) for s in dataset.samples][:2] == [("train", None, "x"), ("test", None, "t")]
    assert dataset.notes == (
        "1 row without a label is taken as good",
        "1 row without a split is taken for training",
        "1 row without a category is taken as t",
    )


def test_labels_as_pandas_writes_them(tmp_path: Path) -> None:
    dataset = table(tmp_path, "path,split,label\na.png,train,0.0\nb.png,test,1.0\nc.png,test,NG\nd.png,val,0.0\n")
    assert (len(dataset.train), [s.defect for s in dataset.test]) == (1, ["defect", "defect"])
    assert [s.name[-5:] for s in dataset.validation] == ["d.png"]


@pytest.mark.parametrize(
    "header", ["image_path,class,mask_path", "file,Defect,gt", "img,label_index,mask", "filename,labels,mask"]
)
def test_other_names_of_columns(tmp_path: Path, header: str) -> None:
    dataset = table(tmp_path, f"{header}\na.png,good,\nb.png,cut,m.png\n")
    assert [(s.defect, len(s.masks)) for s in dataset.samples] == [(None, 0), ("cut", 1)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,lable\na.png,1\n", "line 1: an unknown column 'lable'. Did you mean 'label'"),
        ("path,label,msk\na.png,1,\n", "unknown column 'msk'. Did you mean 'mask'"),
        ("path,status\na.png,NG\n", "no column label, and columns that may say what is good: status"),
        ("path,image\na.png,b.png\n", "the columns path and image all name the path; keep one"),
        ("path,label\na.png,good\n./a.png,cut\n", "line 3: a.png is good and a defect, see line 2"),
        ("path,category\na.png,x\na.png,y\n", "line 3: a.png is of two categories, see line 2"),
        ('path,label\na.png,"good\nb.png,good\n', "cannot be read as a CSV table .*unexpected end"),
        ('path,label\na.png,"cut\nb.png,good\n"\n', "line 4: a cell goes over several lines; is a quote missing"),
        ("path,label\na.png,nan\n", "line 2: the label 'nan' does not say what it means"),
        ("path,label\na.png,-1\n", "line 2: the label '-1' does not say what it means"),
    ],
)
def test_what_a_table_does_not_say_clearly_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InlierError, match=message):
        table(tmp_path, text)


def test_columns_that_say_nothing_are_named(tmp_path: Path) -> None:
    dataset = table(tmp_path, ",path,label,comment\n0,a.png,good,nice\n")
    assert dataset.notes == ("columns that are not used: (no name), comment",)
    assert table(tmp_path, "Unnamed: 0,path\n0,a.png\n").notes == ("columns that are not used: unnamed: 0",)


def test_the_same_picture_in_train_and_test_is_a_warning(tmp_path: Path) -> None:
    part(np.random.default_rng(0))[0].save(tmp_path / "a.png")
    dataset = table(tmp_path, "path,split\na.png,train\na.png,test\n")
    assert check(dataset).warnings[0].startswith("1 test picture is byte-equal to a training picture")


# --- the command


def test_the_command_shows_what_would_be_used_as_what(inlier, plates: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = inlier("check", plates)
    assert code == 0
    assert "MVTec-AD layout, 1 category" in out
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if line.startswith("│")]
    assert rows == [
        ["plate", "train, good", "16", ""],
        ["plate", "test, good", "6", ""],
        ["plate", "test, dent", "6", "6"],
    ]
    assert "plate: 64 x 64; 28 grey" in out
    assert "for training: usable\nfor evaluation: usable" in out


def test_the_command_writes_numbers_and_a_page(inlier, broken: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, err = inlier("check", broken, "--json", "-", "--report", tmp_path / "page")
    found = json.loads(out)
    assert code == 2
    assert not found["usable"]
    assert found["schema"] == 1
    plate = found["categories"]["plate"]
    assert plate["roles"] == {"train, good": 16, "test, good": 6, "test, dent": 6}
    assert (plate["masks"], plate["copies"], plate["kinds"]) == (5, 0, {"grey": 27})
    assert plate["sizes"] == {"different": 1, "commonest": [64, 64], "widths": [64, 64], "heights": [64, 64]}
    assert [problem["kind"] for problem in found["problems"]] == ["unreadable image", "defect without a mask"]
    page = (tmp_path / "page/index.html").read_text()
    assert "unreadable" in page and page.count("<img") == 6 + 5 + 6
    assert f"page: {tmp_path / 'page/index.html'}" in err


def test_names_are_no_markup(inlier, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write_dataset(tmp_path, train=2, good=1, defects=1, category="[red]a<b>\x1b")
    code, out, _ = inlier("check", tmp_path, "--report", tmp_path / "page")
    assert code == 0
    assert "[red]a<b>\\x1b" in out
    assert "[red]a&lt;b&gt;\\x1b" in (tmp_path / "page/index.html").read_text()


def test_names_on_the_page_are_printable(inlier, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """A sign that turns the reading direction would show another name."""
    write_dataset(tmp_path, train=2, good=1, defects=1, category="a\u202eb")
    assert inlier("check", tmp_path, "--report", tmp_path / "page")[0] == 0
    page = (tmp_path / "page/index.html").read_text()
    assert "a\\u202eb" in page and "\u202e" not in page


def test_the_page_is_not_written_among_the_pictures(inlier, odd: Path) -> None:  # type: ignore[no-untyped-def]
    code, _, err = inlier("check", odd, "--json", odd / "000.png")
    assert code == 2
    assert "would be overwritten" in err


def test_training_warns_of_the_same(inlier, odd: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (odd / "x.gif").touch()
    out = tmp_path / "m.inlier"
    arguments = ("--method", "padim", "--backbone", "tiny", "--set", "size=64", "--set", "taps=4,8", "--out", out)
    code, _, err = inlier("train", odd, *arguments)
    assert code == 0
    for said in (
        "1 file is of kinds that are not read (1 .gif)",
        "1 picture is of one colour",
        "1 picture is grey with alpha",
    ):
        assert said in err
