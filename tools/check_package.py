"""Does the package work where there is no repository? Builds wheel and sdist, checks their metadata, installs the wheel
into an empty environment, and tries every extra alone: what an extra brought is removed before the next one.

Writes docs/snippets/package.txt: sizes, and what works. `--only` some extras, `--python` other interpreters for the
core (where pip finds no CPU build of torch for them, gigabytes of CUDA come). Needs pip's index; takes a quarter of an
hour.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
NOT_FOR_USERS = ("dev", "serve-dev", "fleet-dev", "docs", "release")
# as docs/runtimes.md says
WITHOUT_TORCH = ["numpy", "scipy", "pillow", "simplejpeg", "psutil", "rich", "typer", "onnxruntime"]
CORE = """
import numpy as np, inlier
rng = np.random.default_rng(0)
good = [rng.integers(90, 160, (64, 64), dtype=np.uint8) for _ in range(24)]
detector = inlier.PaDiM(size=64).fit(good)
bad = good[0].copy(); bad[20:40, 20:40] = 0
assert detector.inspect(bad).verdict == "defect"
detector.save("part.inlier")
from PIL import Image
import pathlib
pathlib.Path("good").mkdir(exist_ok=True)
for i, picture in enumerate(good): Image.fromarray(picture).save(f"good/{i}.png")
Image.fromarray(bad).save("bad.png")
"""
SERVE = """
import json, socket, subprocess, sys, time, urllib.request
with socket.socket() as s: s.bind(("127.0.0.1", 0)); port = s.getsockname()[1]
server = subprocess.Popen([sys.executable, "-m", "inlier", "serve", "part.inlier", "--port", str(port)])
try:
    for _ in range(240):
        try: urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/ready"); break
        except OSError: time.sleep(0.5)
    picture = open("bad.png", "rb").read()
    answer = urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/stations/part/inspect", picture)
    assert json.load(answer)["verdict"] == "defect"
    assert b"<html" in urllib.request.urlopen(f"http://127.0.0.1:{port}/").read().lower()
finally: server.terminate(); server.wait(60)
"""
FLEET = """
import subprocess, sys
open("plant.toml", "w").write(
    "[[parts]]\\nname = 'a'\\ndata = 'good'\\nmethod = 'padim'\\nsettings = {size = 64}\\n"
)
subprocess.run([sys.executable, "-m", "inlier", "fleet", "train", "plant.toml", "--store", "plant"], check=True)
import ray.data
"""
TRIED = {  # extra -> what is run with it, in a folder with part.inlier, good/ and bad.png
    "": CORE,
    "report": "import inlier.report.pages as pages; pages.check_installed(); import matplotlib.pyplot",
    "demo": "from inlier import open_dataset; assert open_dataset('elpv').train",
    "diad": "import inlier; d = inlier.DiAD(); d.build(d.complete())",
    "timm": "from inlier.features.from_timm import FromTimm; FromTimm('timm:resnet18', [8])",
    "textures": "from inlier.data.simulation.sources import open_textures; open_textures(None)",
    "tensorboard": "from torch.utils.tensorboard import SummaryWriter; SummaryWriter('events').close()",
    "export": "import inlier; d = inlier.load('part.inlier'); d.export('part.onnx'); d.export('part.xml')",
    "onnx": "import inlier; assert inlier.load('part.onnx').inspect('bad.png').verdict == 'defect'",
    "openvino": "import inlier; assert inlier.load('part.xml').inspect('bad.png').verdict == 'defect'",
    "int8": "import inlier; inlier.load('part.inlier').export('small.xml', precision='int8', check='good', force=True)",
    "serve": SERVE,
    "fleet": FLEET,
    "camera": "import cv2; cv2.VideoCapture('nothing')",
}


class Tried(NamedTuple):
    extra: str
    packages: int
    megabytes: float
    works: str


class Environment:
    """An empty environment, away from the repository."""

    def __init__(self, folder: Path, interpreter: str = sys.executable):
        self.folder = folder
        subprocess.run([interpreter, "-m", "venv", folder], check=True)
        self.python = folder / "bin/python"
        self.work = folder / "work"
        self.work.mkdir()

    def run(self, *arguments: str | Path) -> str:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        done = subprocess.run([self.python, *arguments], cwd=self.work, env=clean, text=True, capture_output=True)
        if done.returncode:
            raise RuntimeError(f"{arguments[:4]}: {done.stderr[-2000:] or done.stdout[-2000:]}")
        return done.stdout

    def install(self, *what: str | Path) -> None:
        self.run("-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", *what)

    def packages(self) -> dict[str, str]:
        return {p["name"]: p["version"] for p in json.loads(self.run("-m", "pip", "list", "--format", "json"))}

    def megabytes(self) -> float:
        (site,) = self.folder.glob("lib/python*/site-packages")
        return sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) / 1e6

    def tried(self, extra: str, wheel: Path) -> Tried:
        """Install an extra, use it, and remove what it brought."""
        before = self.packages()
        try:
            self.install(f"{wheel}[{extra}]" if extra else wheel)
            self.run("-m", "pip", "check")
            self.run("-c", TRIED.get(extra, "import inlier"))
            works = "yes"
        except RuntimeError as error:
            works = f"no: {error}"
        found = self.packages()
        size = self.megabytes()
        if extra and (brought := sorted(set(found) - set(before))):
            self.run("-m", "pip", "uninstall", "--quiet", "--yes", *brought)
        return Tried(extra or "(none)", len(found), size, works)


def build(folder: Path) -> tuple[Path, Path]:
    """(wheel, sdist); the wheel is made from the sdist."""
    subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True)
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *folder.iterdir()], check=True)
    return next(folder.glob("*.whl")), next(folder.glob("*.tar.gz"))


def without_torch(folder: Path, wheel: Path, exported: Path) -> Tried:
    """An exported model is judged in an environment without torch."""
    env = Environment(folder)
    env.install(*WITHOUT_TORCH)
    env.run("-m", "pip", "install", "--quiet", "--no-deps", wheel)
    env.run("-m", "inlier", "predict", exported / "part.onnx", exported / "bad.png")
    return Tried("(without torch)", len(env.packages()), env.megabytes(), "yes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="extras, with commas between; default: all")
    parser.add_argument("--python", action="append", default=[], help="another interpreter; repeat for several")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/snippets/package.txt")
    arguments = parser.parse_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    offered = [extra for extra in project["optional-dependencies"] if extra not in NOT_FOR_USERS]
    order = ["export", *(extra for extra in offered if extra != "export")]  # its files are judged by others
    if arguments.only:
        order = [extra for extra in order if extra in arguments.only.split(",")]
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        print(line, flush=True)
        arguments.out.write_text("\n".join(lines) + "\n")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "dist").mkdir()
        wheel, sdist = build(folder / "dist")
        for file in (wheel, sdist):
            tell(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB")
        tell(f"Python {sys.version.split()[0]}")
        env = Environment(folder / "env")
        for extra in ["", *order]:
            tell(told(env.tried(extra, wheel)))
        if "export" in order:
            attempt(tell, lambda: without_torch(folder / "bare", wheel, env.work))
        for number, interpreter in enumerate(arguments.python):
            other = Environment(folder / f"other{number}", interpreter)
            tell(other.run("--version").strip())
            tell(told(other.tried("", wheel)))
        env.run("-m", "pip", "uninstall", "--quiet", "--yes", "inlier")
        env.install(sdist)
        env.run("-c", CORE)
        tell("sdist: installs and works")


def attempt(tell: Callable[[str], None], step: Callable[[], Tried]) -> None:
    try:
        tell(told(step()))
    except RuntimeError as error:
        tell(f"failed: {error}")


def told(t: Tried) -> str:
    return f"{t.extra:16} {t.packages:4} packages {t.megabytes:7.0f} MB  works: {t.works}"


if __name__ == "__main__":
    main()
