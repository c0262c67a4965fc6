"""The same pictures through anomalib, installed beside inlier in an environment of its own. Skips where it is not.

    python3 -m venv .venv-anomalib
    .venv-anomalib/bin/pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu
    .venv-anomalib/bin/pip install --no-deps torchvision==0.28.0
    .venv-anomalib/bin/pip install -c <(echo torch==2.13.0) anomalib==2.7.0
    python benchmarks/beside_anomalib.py              (INLIER_ANOMALIB names another environment's python)

Both read the same JPEG files (512 x 512) on the same thread, without workers, resize them to 256 x 256, and start from
the same kind of backbone with random weights, which change no time. Each run is a process of its own; seconds are the
processor's. anomalib's pictures of results, metrics and thresholds are switched off; ours are calibrated where it says
so. Prints rows for the table of speed.py.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from measuring import Row, forget_peak, memory, own_process, print_rows

HERE = Path(__file__).parent
PYTHON = Path(os.environ.get("INLIER_ANOMALIB", HERE.parent / ".venv-anomalib" / "bin" / "python"))
FITTED_ON, JUDGED, SIDE = 40, 24, 512


def without_operators() -> None:
    """torchvision's compiled part does not fit a CPU build of torch; it asks at import for operators of boxes, which
    nobody here calls, so it is enough to declare them."""
    import torch

    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    globals()["_library"] = library  # it ends with its last reference


def anomalib(kind: str, folder: Path) -> dict[str, float]:
    warnings.simplefilter("ignore")
    start = time.process_time()
    without_operators()
    from anomalib.data import Folder, PredictDataset
    from anomalib.engine import Engine
    from anomalib.models import Padim, Patchcore
    from torch.utils.data import DataLoader

    found = {"import": time.process_time() - start}
    logging.disable(logging.WARNING)
    off: dict[str, Any] = {"visualizer": False, "evaluator": False, "post_processor": False, "pre_trained": False}
    layers = ["layer1", "layer2", "layer3"] if kind == "padim" else ["layer2", "layer3"]
    model = {"padim": Padim, "patchcore": Patchcore}[kind](backbone="resnet18", layers=layers, **off)
    data = Folder("parts", folder / "good", train_batch_size=16, num_workers=0, test_split_mode="none",
                  val_split_mode="none")  # fmt: skip
    engine = Engine(accelerator="cpu", devices=1, logger=False, default_root_dir=folder / kind,
                    enable_progress_bar=False, limit_val_batches=0)  # fmt: skip
    before, start = forget_peak(), time.process_time()
    engine.fit(model, datamodule=data)
    found |= {"fit": time.process_time() - start, "memory": memory("VmHWM") - before}
    dataset = PredictDataset(folder / "new", image_size=(256, 256))
    loader = DataLoader(dataset, batch_size=8, collate_fn=dataset.collate_fn)
    for part in ("warm", "predict"):
        start = time.process_time()
        engine.predict(model, dataloaders=loader)
        found[part] = (time.process_time() - start) / JUDGED
    return found | {"all": memory("VmHWM")}


def ours(kind: str, folder: Path) -> dict[str, float]:
    start = time.process_time()
    import inlier

    made = inlier.PaDiM(
        "paper", size=256, shorter_side=None, filter="bilinear", weights=folder / "resnet18.safetensors"
    )
    made = made if kind == "padim" else inlier.PaDiM("light")
    found = {"import": time.process_time() - start}
    logging.getLogger("inlier").setLevel(logging.ERROR)
    before, start = forget_peak(), time.process_time()
    made.fit(folder / "good", workers=1, calibration="none" if kind == "padim" else None)
    found |= {"fit": time.process_time() - start, "memory": memory("VmHWM") - before}
    for part in ("warm", "predict"):
        start = time.process_time()
        assert sum(p.map is not None for p in made.predict(folder / "new", workers=1)) == JUDGED
        found[part] = (time.process_time() - start) / JUDGED
    return found | {"all": memory("VmHWM")}


def write_files(folder: Path) -> None:
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    from inlier.features import BACKBONES

    rng = np.random.default_rng(0)
    for name, n in (("good", FITTED_ON), ("new", JUDGED)):
        (folder / name).mkdir()
        for i in range(n):
            clouds = Image.fromarray(rng.integers(60, 200, (8, 8, 3), np.uint8)).resize((SIDE, SIDE))
            noisy = np.asarray(clouds) + rng.normal(0, 3, (SIDE, SIDE, 1))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i:03}.jpg", quality=90)
    torch.manual_seed(0)
    save_file(BACKBONES["resnet18"][0]().state_dict(), folder / "resnet18.safetensors")


def rows(us: dict[str, float], them: dict[str, float], name: str, theirs: str) -> list[Row]:
    told = {
        "import": ("import", "s", "x faster"),
        "fit": (f"fit on {FITTED_ON} pictures", "s", "x faster"),
        "predict": ("a picture from file to map", "s", "x faster"),
        "memory": ("memory that the fit adds", "MiB", "x less"),
        "all": ("memory of the process, at most", "MiB", "x less"),
    }
    return [
        Row(f"{name}: {what}", f"{us[key]:.3g} {unit}", f"{theirs} {them[key]:.3g} {unit}", them[key] / us[key], how)
        for key, (what, unit, how) in told.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs=3, metavar=("WHOSE", "METHOD", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        whose, kind, folder = given.run
        print(json.dumps((ours if whose == "ours" else anomalib)(kind, Path(folder))))
        return
    if not PYTHON.exists():
        reason = f"anomalib is not installed: no {PYTHON.parent.parent.name} (see benchmarks/beside_anomalib.py)"
        print(reason, file=sys.stderr)
        print_rows([Row("beside anomalib", f"skipped: {reason}")])
        return
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        one_thread = {"OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1", "TQDM_DISABLE": "1"}
        found = {
            (whose, kind): own_process("beside_anomalib.py", "--run", whose, kind, folder, python=python, **one_thread)
            for kind in ("padim", "patchcore")
            for whose, python in (("ours", sys.executable), ("anomalib", str(PYTHON)))
        }
    settings = "resnet18, 256 px, uncalibrated"
    padim = rows(found["ours", "padim"], found["anomalib", "padim"], f"PaDiM ({settings})", "anomalib's PaDiM")
    name = "padim `light`, calibrated"
    patchcore = rows(
        found["ours", "patchcore"], found["anomalib", "patchcore"], name, "anomalib's PatchCore (resnet18)"
    )
    print_rows([*padim, *patchcore])


if __name__ == "__main__":
    main()
