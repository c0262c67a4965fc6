"""SimpleNet's head trained in other ways on the same cached features: the trials behind preset `light`.

    python benchmarks/simplenet_heads.py DATA CATEGORY --noise 0.12 --steps 1600 ...

Features of the preset's network are computed once (kept in --cache): of at most 320 fitted pictures, of held-out good
ones with and without planted defects (bench/trial.py), and of the test set, whose figures are for the log alone.
Prints the mean loss of the last steps and, for the highest patch as score: AUROC and detection at 5 % false alarms on
planted defects, average precision of their pixels; then the test set's image AUROC, pixel AUROC and AUPRO.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlier import SimpleNet
from inlier.bench import trial
from inlier.data.batches import read_batches
from inlier.data.datasets import open_dataset
from inlier.detector import geometry_of
from inlier.maps import smooth_upsample_matrix
from inlier.methods.simplenet import Head, standardisation
from inlier.metrics import image_metrics, pixel_metrics

MOST = 320


def features(data: str, category: str, size: int) -> dict[str, Any]:
    detector = SimpleNet("light", size=size)
    detector.settings_ = detector.settings
    network = detector._network(torch.device("cpu"), detector._load_backbone()).eval()
    geometry = geometry_of(detector.settings)
    detector.geometry_, detector.regions_, detector.categories_ = geometry, {}, (category,)

    def of(sources: list[Any]) -> Tensor:
        with torch.inference_mode():
            batches = read_batches(sources, [geometry] * len(sources), 8, 1)
            return torch.cat([network.features(torch.from_numpy(batch.images)).half() for batch in batches])

    dataset = open_dataset(data, [category])
    fitted, held_out, _ = trial.hold_out(dataset, 0)
    chosen = np.random.default_rng(0).permutation(len(fitted.train))[:MOST]
    planted = [made for _, _, made in trial.planted_defects(held_out, detector, 0)]
    masks = [sample.read_mask() for sample in dataset.test]
    nothing = np.zeros((size, size), bool)
    return {
        "fitted": of([fitted.train[i].source for i in chosen]),
        "good": of([sample.source for sample in held_out]),
        "planted": of([made.image for made in planted]),
        "planted_masks": np.stack([geometry.mask(made.mask) for made in planted]),
        "test": of([sample.source for sample in dataset.test]),
        "defect": np.array([sample.is_defect for sample in dataset.test]),
        "masks": np.stack([nothing if mask is None else geometry.mask(mask) for mask in masks]),
    }


def fit(fitted: Tensor, o: argparse.Namespace) -> tuple[nn.Module, Tensor, Tensor, float]:
    """(head, mean, deviation, mean loss of the last steps) on features (N, h * w, C)."""
    torch.manual_seed(o.seed)
    head, (mean, std), rows = Head(fitted.shape[-1], o.hidden), standardisation(fitted), fitted.flatten(0, 1)
    sides = [(head.adapter, o.adapter_lr, 0.01), (head.discriminator, o.discriminator_lr, 1e-5)]
    optimizers = [torch.optim.AdamW(m.parameters(), lr=lr, weight_decay=decay) for m, lr, decay in sides]
    random, recent = torch.Generator().manual_seed(o.seed), 1.0
    for step in range(o.steps):
        for optimizer, (_, lr, _) in zip(optimizers, sides):
            optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * step / o.steps)) / 2
            optimizer.zero_grad()
        x = (rows[torch.randint(len(rows), (o.patches,), generator=random)].float() - mean) / std
        ease = (o.last_noise / o.noise) ** min(1, step / (0.8 * o.steps)) if o.last_noise else 1
        noise = ease * o.noise * torch.randn(x.shape, generator=random)
        with torch.autocast("cpu", torch.bfloat16, enabled=o.bf16):
            good, disturbed = head(x, noise)
        loss = F.relu(0.5 - good.float()).mean() + F.relu(0.5 + disturbed.float()).mean()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        recent += 0.02 * (loss.item() - recent)
    return head.eval(), mean, std, recent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("category")
    parser.add_argument("--cache", type=Path, default=Path("features"))
    parser.add_argument("--bf16", action="store_true")
    defaults = {"size": 256, "hidden": 1024, "steps": 1600, "patches": 512, "seed": 0}
    for name, number in (defaults | {"noise": 0.12, "last_noise": 0.0}).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(number), default=number)
    parser.add_argument("--adapter-lr", type=float, default=1e-3)
    parser.add_argument("--discriminator-lr", type=float, default=2e-3)
    o = parser.parse_args()
    path = o.cache / f"{o.category}-{o.size}.pt"
    if not path.exists():
        o.cache.mkdir(parents=True, exist_ok=True)
        torch.save(features(o.data, o.category, o.size), path)
    known = torch.load(path, weights_only=False)
    start = time.process_time()
    head, mean, std, loss = fit(known["fitted"], o)
    seconds = time.process_time() - start
    side = math.isqrt(known["fitted"].shape[1])
    smooth = smooth_upsample_matrix(side, o.size, 4.0)

    @torch.no_grad()
    def judged(of: Tensor) -> tuple[np.ndarray, np.ndarray]:
        x = ((of.float() - mean) / std).flatten(0, 1)
        patches = -head.discriminator(head.adapter(x)).view(len(of), side, side)
        return patches.amax((1, 2)).numpy(), (smooth @ patches @ smooth.T).numpy()

    good, (planted, maps), (test, test_maps) = (
        judged(known["good"])[0],
        judged(known["planted"]),
        judged(known["test"]),
    )
    scores = np.concatenate([good, planted])
    row = {
        "loss": loss,
        "planted_auroc": image_metrics(scores, np.arange(len(scores)) >= len(good)).auroc,
        "planted_detected": float((planted > np.quantile(good, 0.95, method="higher")).mean()),
        "planted_pixel_ap": pixel_metrics(maps, known["planted_masks"]).ap,
        "test_auroc": image_metrics(test, known["defect"]).auroc,
    }
    if known["masks"].any():
        pixels = pixel_metrics(test_maps, known["masks"])
        row |= {"test_pixel_auroc": pixels.auroc, "test_aupro": pixels.aupro}
    print(json.dumps({k: round(v or 0, 4) for k, v in row.items()} | {"processor_seconds": round(seconds)}))


if __name__ == "__main__":
    main()
