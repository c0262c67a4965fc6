import logging
import os
import signal
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from PIL import Image

import tiny_backbone  # noqa: F401 (makes itself known)
from inlier import cli

# a suite that a script started in the background ignores Ctrl-C, and so would the commands that tests stop by it
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches for the internet
# no test fails for the time that it takes: the first examples are slow on a machine that does other things, too
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any machine")


FROM_NOTHING = {  # DiAD's `light` without the package's autoencoder, which is too large for tests of its training
    "autoencoder": None,
    "autoencoder_tuning": 0,
    "latent_channels": 4,
    "judge": "cosine",
    "precision": "fp32",
    "start": 500,
}


collect_ignore = ["site"]  # of other processes, see there
HERE = Path(__file__).parent


def know_the_tiny_backbone(monkeypatch):
    """... in processes that are started from now on."""
    paths = [HERE / "site", HERE, HERE.parent / "src", *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, paths)))


@pytest.fixture
def tiny_everywhere(monkeypatch):
    know_the_tiny_backbone(monkeypatch)


def pytest_collection_modifyitems(items):
    """Ray's tests first: one process does them all, with one cluster, and at the end no long test is left for one."""
    items.sort(key=lambda item: item.path.stem != "test_fleet_ray")


@pytest.fixture(autouse=True)
def _no_foreign_weights(monkeypatch):
    monkeypatch.delenv("INLIER_WEIGHTS", raising=False)


@pytest.fixture(autouse=True)
def _own_messages():
    """A command sends messages its own way; the tests after it read them as before."""
    log = logging.getLogger("inlier")
    handlers, propagate, level = log.handlers[:], log.propagate, log.level
    yield
    log.handlers[:], log.propagate = handlers, propagate
    log.setLevel(level)


@pytest.fixture(autouse=True)
def _uncounted(monkeypatch):
    """DiAD first counts the memory of a training, which takes as long as one so small; the tests of that do count."""
    if diad := sys.modules.get("inlier.methods.diad"):
        monkeypatch.setattr(diad, "memory_of_training", lambda s: 0)


def part(rng, defect=False, size=64):
    """A grey plate with a bright disc and a little noise; a defect is a dark square. Returns (picture, mask)."""
    y, x = np.mgrid[:size, :size]
    picture = (
        120 + 60.0 * ((y - size / 2) ** 2 + (x - size / 2) ** 2 < (size / 4) ** 2) + rng.normal(0, 4, (size, size))
    )
    mask = np.zeros((size, size), bool)
    if defect:
        top, left = rng.integers(size // 4, size // 2, 2)
        mask[top : top + size // 6, left : left + size // 6] = True
        picture[mask] -= 90
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8)), mask


def write_dataset(root: Path, train=16, good=6, defects=6, category="plate", size=64) -> Path:
    """An MVTec-AD folder of made-up plates."""
    rng, folder = np.random.default_rng(0), root / category
    for split, count in (("train/good", train), ("test/good", good), ("test/dent", defects)):
        (folder / split).mkdir(parents=True)
        for i in range(count):
            picture, mask = part(rng, defect=split.endswith("dent"), size=size)
            picture.save(folder / split / f"{i:03}.png")
            if mask.any():
                target = folder / "ground_truth" / "dent" / f"{i:03}_mask.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask.astype(np.uint8) * 255).save(target)
    return root


@pytest.fixture(scope="session")
def plates(tmp_path_factory):
    """Root of a dataset with the one category `plate`: 16 good for training, 6 good and 6 defects for testing."""
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def inlier(monkeypatch, capsys):
    """Run a command in this process: (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["inlier", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        captured = capsys.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def plate_model(plates, tmp_path_factory):
    """A model file of plates with 40 calibration scores."""
    import inlier

    rng = np.random.default_rng(1)
    good = [part(rng)[0] for _ in range(40)]
    path = tmp_path_factory.mktemp("model") / "plate.inlier"
    inlier.PaDiM(size=64, backbone="tiny").fit(good).save(path)
    return path
