"""DiAD's ablation on real pictures: its variants, one model for screw, magnetic tile and ELPV mono together.

Also, for the whole method: AUROC and seconds by number of DDIM steps, and what limits it (see `ALONE`). Variant
`inversion` is the preset of that name. Every finished run is a line of benchmarks/diad.jsonl, so the
script can be stopped and goes on; the tables are written to benchmarks/DIAD.md. Last step, no look at the test set.
"""

import argparse
import json
import logging
import random
import statistics
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inlier import DiAD, evaluate
from inlier.data.batches import read_batches
from inlier.data.datasets import open_dataset
from inlier.data.datasets.sample import Dataset
from inlier.machine import about, device_name, find_device
from inlier.methods.diad.sampler import ddim_timesteps
from inlier.metrics import image_metrics, pixel_metrics

HERE = Path(__file__).parent
VARIANTS = ("ddpm", "ldm", "sg", "sg+sff", "inversion")
STEPS = (10, 5, 3, 2)
# What is compared with the picture, and what an AUROC below 100 then blames. The last row is for control: pasted good
# pixels are equal to the bit, so the comparison is right whenever anything at all changes inside a defect.
ALONE = {
    "autoencoded": "the autoencoder's reconstruction, nothing repainted",
    "perfect on good latents": "defects repainted, all else as the autoencoder gives it back",
    "perfect on good pixels": "defects repainted, all else as in the picture",
    "autoencoded defects": "defects as the autoencoder gives them back, all else as in the picture",
}


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
    """AUROC of every entry of ALONE, by category."""
    network, device = detector.network_, next(detector.network_.parameters()).device
    rows: dict[str, Any] = {name: {} for name in ALONE}
    for category in data.categories:
        samples = [s for s in data.test if s.category == category]
        has_masks = any(s.masks for s in samples)
        scores: dict[str, list[Tensor]] = {name: [] for name in ALONE}
        maps: dict[str, list[Tensor]] = {name: [] for name in ALONE}
        masks: list[Tensor] = []
        for batch in read_batches([s.source for s in samples], detector.geometry_, 16, 2):
            nothing = np.zeros(batch.images.shape[2:], bool)
            found = [samples[i] for i in batch.owners]
            truth = np.stack(
                [nothing if (mask := s.read_mask()) is None else detector.geometry_.mask(mask) for s in found]
            )
            images, is_defect = torch.from_numpy(batch.images).to(device), torch.from_numpy(truth)[:, None].to(device)
            with torch.inference_mode():
                latent = network.latent_scale * network.autoencoder.moments(network.normalise(images))[0]
                made = {"autoencoded": (autoencoded := network.decode(latent))}
                if has_masks:  # else there is nothing to paste by
                    repainted = network.reconstruct(images)
                    made["perfect on good latents"] = torch.where(is_defect, repainted, autoencoded)
                    made["perfect on good pixels"] = torch.where(is_defect, repainted, images)
                    made["autoencoded defects"] = torch.where(is_defect, autoencoded, images)
                for name, pictures in made.items():
                    score, map_ = network.compare(images, pictures)
                    scores[name].append(score.cpu())
                    maps[name].append(map_.cpu())
            masks.append(torch.from_numpy(truth))
        is_bad = np.array([s.is_defect for s in samples])
        for name in ALONE:
            image = image_metrics(torch.cat(scores[name]).numpy(), is_bad).auroc if scores[name] else None
            pixel = pixel_metrics(torch.cat(maps[name]).numpy(), torch.cat(masks).numpy()).auroc if has_masks else None
            rows[name][category] = {"image": image, "pixel": pixel}
    return rows


def run(data: Dataset, detector: DiAD) -> dict[str, Any]:
    start = time.perf_counter()
    detector.fit(data, calibration="none")
    row = {"fitted": time.perf_counter() - start, **numbers(detector, data)}
    if detector.settings.variant == "sg+sff":
        row["alone"] = parts_alone(detector, data)
        row["steps"], network = {}, detector.network_
        for steps in STEPS:
            network.timesteps = ddim_timesteps(detector.settings.start, steps, detector.settings.spacing)
            row["steps"][steps] = numbers(detector, data)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    categories = sorted({name for row in rows for name in row.get("categories", ())})
    head = [f"{name} {kind}" for name in categories for kind in ("image", "pixel")]
    lines = [f"| variant | seeds | {' | '.join(head)} | fit |", "|---" * (len(head) + 3) + "|"]

    def line(name: str, found: list[dict[str, Any]], last: str) -> str:
        cells = [spread([f[c][kind] for f in found if c in f]) for c in categories for kind in ("image", "pixel")]
        return f"| {name} | {len(found)} | {' | '.join(cells)} | {last} |"

    def fitted(variant: str) -> str:
        known = [row["fitted"] for row in rows if row["variant"] == variant and "fitted" in row]
        return f"{statistics.mean(known) / 60:.0f} min" if known else ""

    for variant in VARIANTS:
        group = [row["categories"] for row in rows if row["variant"] == variant]
        if group:
            lines.append(line(variant, group, fitted(variant)))
    whole = [row for row in rows if row["variant"] == "sg+sff"]
    for part in ALONE if whole else ():
        lines.append(line(part, [row["alone"][part] for row in whole if part in row["alone"]], ""))
    for steps in map(str, STEPS) if whole else ():  # names, in JSON
        found = [row["steps"][steps] for row in whole]
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
    same = {"preset": arguments.preset, "settings": arguments.set, "data": arguments.categories}
    same |= {"limit": arguments.limit}

    def is_done(variant: str, seed: int) -> bool:
        return any((same | {"variant": variant, "seed": seed}).items() <= row.items() for row in rows)

    for seed in arguments.seeds:
        for variant in arguments.variants:
            if is_done(variant, seed):
                continue
            own = {} if variant == "inversion" else settings | {"variant": variant}
            preset = "inversion" if variant == "inversion" else arguments.preset
            row = run(data, DiAD(preset, seed=seed, device=arguments.device, **own))
            origin = {"commit": commit.strip(), "threads": torch.get_num_threads(), "processor": about()["processor"]}
            origin |= {"device": device_name(find_device(arguments.device)), "torch": torch.__version__}
            line = json.dumps({"variant": variant, "seed": seed, **same, **row, **origin})
            with kept.open("a") as file:
                print(line, file=file)
            rows.append(json.loads(line))
    rows = [row for row in rows if same.items() <= row.items()]
    limited = f"; {arguments.limit} test pictures of each category at most, drawn at random" if arguments.limit else ""
    commits, devices, versions = (
        ", ".join(sorted({row[name] for row in rows})) for name in ("commit", "device", "torch")
    )
    arguments.out.write_text(
        f"# DiAD, preset {' '.join([arguments.preset, *arguments.set])}\n\nMade by `benchmarks/diad.py` at commit "
        f"{commits} on {devices}, torch {versions}. AUROC in %, mean over seeds (lowest to highest)"
        f"{limited}. Variant inversion is preset inversion.\n\n{table(rows)}\n\n"
        + "".join(f"- {name}: {what}\n" for name, what in ALONE.items())
    )


if __name__ == "__main__":
    main()
