"""DiAD's ablation on real pictures: four variants, one model for screw, magnetic tile and ELPV mono together.

Also, for the whole method: AUROC and seconds by number of DDIM steps, and what limits it, each part alone: the map of
the autoencoder's own reconstruction, and of an oracle that pastes the picture's good pixels back, so that nothing but
the true defect is repainted. Of one seed the variants share an autoencoder, which the first of them trains. Every
finished run is a line of benchmarks/diad.jsonl, so the script can be stopped and goes on; the tables are written to
benchmarks/DIAD.md. Last step, no look at the test set.
"""

import argparse
import json
import logging
import platform
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inlier import DiAD, evaluate
from inlier.data.datasets import Dataset, open_dataset
from inlier.data.images import read_batches, read_mask
from inlier.methods.diad.sampler import ddim_times
from inlier.metrics import image_metrics, pixel_metrics

HERE = Path(__file__).parent
VARIANTS = ("ddpm", "ldm", "sg", "sg+sff")
STEPS = (10, 5, 3, 2)


def together(folder: Path, names: list[str], limit: int) -> Dataset:
    """One dataset of categories from several, with at most so many test pictures of each (drawn at random; 0: all)."""
    homes = {
        "screw": (folder / "mvtec_ad", "screw"),
        "magnetic_tile": (folder, "magnetic_tile"),
        "mono": ("elpv", "mono"),
    }
    parts = [open_dataset(home, [category]) for home, category in (homes[name] for name in names)]
    samples = ()
    for part in parts:
        tested = random.Random(0).sample(part.test, min(limit or len(part.test), len(part.test)))
        samples += (*part.train, *tested)
    return replace(parts[0], name="together", layout=f"{len(parts)} categories together", samples=samples)


def numbers(detector: DiAD, data: Dataset) -> dict[str, Any]:
    results = evaluate(detector, data, batch_size=16)
    rows = {
        name: {"image": r.image.auroc, "pixel": r.pixel.auroc if r.pixel else None}
        for name, r in results.categories.items()
    }
    return {"categories": rows, "per_image": results.seconds["per_image"]}


def parts_alone(detector: DiAD, data: Dataset) -> dict[str, Any]:
    """AUROC where the denoiser does nothing, and where it makes no mistake on good pixels."""
    network, device = detector.network_, next(detector.network_.parameters()).device

    def autoencoded(images: Tensor, masks: Tensor) -> Tensor:
        mean, _ = network.autoencoder.moments(network.normalise(images))
        return network.decode(network.latent_scale * mean)

    def oracle(images: Tensor, masks: Tensor) -> Tensor:
        return torch.where(masks, network.reconstruct(images), images)

    def measure(reconstruct: Callable[[Tensor, Tensor], Tensor]) -> dict[str, Any]:
        rows = {}
        for category in data.categories:
            samples = [s for s in data.test if s.category == category]
            sources = [s.source for s in samples]
            scores, maps, masks = [], [], []
            for batch in read_batches(sources, detector.preprocess, 16, 2):
                chosen = [samples[i] for i in batch.indices]
                truth = np.stack([detector.preprocess.mask(read_mask(s.mask)) if s.mask else
                                  np.zeros(batch.images.shape[2:], bool) for s in chosen])  # fmt: skip
                images = torch.from_numpy(batch.images).to(device)
                with torch.inference_mode():
                    made = reconstruct(images, torch.from_numpy(truth)[:, None].to(device))
                    score, map_ = network.compare(images, made)
                scores += score.tolist()
                maps.append(map_.cpu().numpy())
                masks.append(truth)
            defect = np.array([s.is_defect for s in samples])
            has_masks = any(s.mask for s in samples)
            if reconstruct is oracle and not has_masks:  # it has nothing to paste by
                rows[category] = {"image": None, "pixel": None}
                continue
            pixel = pixel_metrics(np.concatenate(maps), np.concatenate(masks)).auroc if has_masks else None
            rows[category] = {"image": image_metrics(np.array(scores), defect).auroc, "pixel": pixel}
        return rows

    return {"autoencoder": measure(autoencoded), "oracle": measure(oracle)}


def run(
    data: Dataset, preset: str, variant: str, seed: int, settings: dict[str, Any], device: str, shared: Path
) -> dict[str, Any]:
    if shared.is_dir() and variant != "ddpm":
        settings = settings | {"autoencoder": str(shared)}
    start = time.perf_counter()
    detector = DiAD(preset, seed=seed, device=device, variant=variant, **settings).fit(data, calibration="none")
    fitted = time.perf_counter() - start
    if not shared.is_dir() and variant != "ddpm":
        detector.network_.autoencoder.net.save_pretrained(shared)
    row = {"fitted": fitted, **numbers(detector, data)}
    if variant == "sg+sff":
        network, row["steps"] = detector.network_, {}
        for steps in STEPS:
            network.times = ddim_times(detector.settings.start, steps, detector.settings.spacing)
            row["steps"][steps] = numbers(detector, data)
        row["alone"] = parts_alone(detector, data)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    categories = sorted({name for row in rows for name in row["categories"]})
    head = [f"{name} {kind}" for name in categories for kind in ("image", "pixel")]
    lines = [f"| variant | seeds | {' | '.join(head)} | fit |", "|---" * (len(head) + 3) + "|"]

    def line(name: str, found: list[dict[str, Any]], last: str) -> str:
        cells = [spread([f[c][kind] for f in found if c in f]) for c in categories for kind in ("image", "pixel")]
        return f"| {name} | {len(found)} | {' | '.join(cells)} | {last} |"

    for variant in VARIANTS:
        group = [row for row in rows if row["variant"] == variant]
        if group:
            fitted = f"{statistics.mean(row['fitted'] for row in group) / 60:.0f} min"
            lines.append(line(variant, [row["categories"] for row in group], fitted))
    whole = [row for row in rows if row["variant"] == "sg+sff"]
    for part in ("autoencoder", "oracle") if whole else ():
        lines.append(line(f"{part} alone", [row["alone"][part] for row in whole], ""))
    for steps in map(str, STEPS) if whole else ():
        found = [{int(k): v for k, v in row["steps"].items()}[int(steps)] for row in whole]
        seconds = f"{1000 * statistics.mean(f['per_image'] for f in found):.0f} ms an image"
        lines.append(line(f"sg+sff, {steps} steps", [f["categories"] for f in found], seconds))
    return "\n".join(lines)


def spread(values: list[float | None]) -> str:
    known = [100 * value for value in values if value is not None]
    if not known:
        return "-"
    text = f"{statistics.mean(known):.1f}"
    return text if max(known) - min(known) < 0.05 else f"{text} ({min(known):.1f} to {max(known):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="holds mvtec_ad/screw and magnetic_tile")
    parser.add_argument("--preset", default="light")
    parser.add_argument("--categories", nargs="+", default=["screw", "magnetic_tile", "mono"])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--limit", type=int, default=0, help="test pictures of each category, at most; 0: all")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="change settings of the preset")
    parser.add_argument("--out", type=Path, default=HERE / "DIAD.md")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    data = together(arguments.data, arguments.categories, arguments.limit)
    settings = type(DiAD.presets[arguments.preset]).parse(arguments.set)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True).stdout
    kept = arguments.out.with_name(arguments.out.stem.lower() + ".jsonl")
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.is_file() else []
    autoencoders = Path(tempfile.mkdtemp())
    for seed in arguments.seeds:
        for variant in arguments.variants:
            key = {"preset": arguments.preset, "variant": variant, "seed": seed, "settings": arguments.set}
            key |= {"data": list(arguments.categories), "limit": arguments.limit}
            if any(key.items() <= row.items() for row in rows):
                continue
            shared = autoencoders / str(seed)
            row = {**key, **run(data, arguments.preset, variant, seed, settings, arguments.device, shared)}
            row |= {"commit": commit.strip(), "threads": torch.get_num_threads()}
            with kept.open("a") as file:
                print(json.dumps(row), file=file)
            rows = [json.loads(line) for line in kept.read_text().splitlines()]
    rows = [row for row in rows if row["preset"] == arguments.preset and row["settings"] == arguments.set]
    limited = f"; {arguments.limit} test pictures of each category at most, drawn at random" if arguments.limit else ""
    arguments.out.write_text(
        f"# DiAD, preset {' '.join([arguments.preset, *arguments.set])}\n\nMade by `benchmarks/diad.py` at commit "
        f"{', '.join(sorted({row['commit'] for row in rows}))} on {platform.machine()}, {torch.get_num_threads()} "
        f"threads, torch {torch.__version__}. AUROC in %, mean over seeds (lowest to highest)"
        f"{limited}.\n\n{table(rows)}\n"
    )


if __name__ == "__main__":
    main()
