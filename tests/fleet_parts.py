"""Parts of a plant that are fitted in moments, for the tests of `inlier fleet`. Workers, too, import this."""

import os
import signal
import time
from pathlib import Path

import numpy as np

import tiny_backbone  # noqa: F401 (workers that import this module know it)
from conftest import part

SETTINGS = "{size = 64, backbone = 'tiny', taps = [4, 8]}"


def write_parts(root: Path, n: int, pictures: int = 24, more: str = "") -> Path:
    """A plan of n parts, each with good pictures, kept good ones, and some to judge, two of five of them defects."""
    lines = [f"[defaults]\nmethod = 'padim'\nsettings = {SETTINGS}\n{more}"]
    for k in range(n):
        name, rng = f"p{k}", np.random.default_rng(k)
        for folder, count, defects in (("good", pictures, 0), ("kept", 8, 0), ("new", 5, 2)):
            (root / name / folder).mkdir(parents=True)
            for i in range(count):
                part(rng, defect=i < defects)[0].save(root / name / folder / f"{i:02}.png")
        places = f"data = '{name}/good'\ngood = '{name}/kept'\npictures = '{name}/new'"
        lines.append(f"[[parts]]\nname = '{name}'\n{places}\n")
    plan = root / "plant.toml"
    plan.write_text("\n".join(lines))
    return plan


def double(item, store):
    return 2 * item


def dies_once(item, store):
    """The second try finds what the first one left."""
    if item == 1 and store.read("was-here") is None:
        store.write("was-here", b"")
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def dies(item, store):
    if item == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def sleeps(item, store):
    time.sleep(item)
    return os.getpid()
