"""PaDiM: one Gaussian of pretrained features per image position; the score is the Mahalanobis distance.

Defard et al., "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and Localization", 2020,
arXiv 2011.08785. Checked against numbers made with the implementation that everybody uses
(xiahaifeng1995/PaDiM-Anomaly-Detection-Localization-master, Apache-2.0, commit 616004b).

Same mathematics, other computation: sums are streamed, so memory does not depend on the number of images; the inverse
covariance is never formed, its Cholesky factor is inverted once and a batch is scored by batched products with it;
channels are selected before the maps are brought to one size.

What is ours: the preset `light`. It keeps all channels of three deep layers (nothing is drawn at random, so the result
does not depend on a seed) on a coarser grid, which makes the full covariance affordable. Calibration scores are exact
leave-one-out scores (of groups, where pictures belong together), obtained in closed form.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inlier import settings
from inlier.detector import Detector
from inlier.errors import InlierError
from inlier.features import Backbone
from inlier.gaussians import CHUNK, GaussianSums, inverse_factor, inverse_factors, join
from inlier.good import Images
from inlier.machine import in_double
from inlier.maps import smooth_upsample_matrix, within
from inlier.progress import Pace, progress
from inlier.settings import setting
from inlier.training import Run

BATCH = 16  # images per step of the streamed fit; changes nothing but speed
ROWS = 128  # of a triangular matrix at a time: what lies beyond their diagonal is zero, and neither kept nor read


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    taps: tuple[int | str, ...] = setting((4, 8, 16), "layers joined to one embedding, shallow to deep (section III.A)")
    grid: int = setting(
        0, "index of the tap whose map gives the positions; shallower maps are averaged, deeper ones repeated", low=0
    )
    channels: int | None = setting(100, "channels drawn at random from all taps (section III.C); none: all", low=1)
    epsilon: float = setting(0.01, "added to the diagonal of every covariance (equation 1)", low=1e-9)
    sigma: float = setting(4.0, "gaussian smoothing of the map, pixels", low=0.0, high=100.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.grid >= len(self.taps):
            raise InlierError(f"setting 'grid': {self.grid} is not the index of one of the {len(self.taps)} taps")


class Network(nn.Module):
    """mean (P, d) and whitening (P, n): of each position's covariance the inverse Cholesky factor, `pressed`."""

    mean: Tensor
    whitening: Tensor
    smooth_y: Tensor
    smooth_x: Tensor

    def __init__(self, s: Settings, seed: int):
        super().__init__()
        self.backbone = Backbone(s.backbone, s.taps)
        _, height, width = self.backbone.shapes(s.size)[s.grid]
        self.grid = height, width  # P = h * w
        self.selected = select_channels(self.backbone.channels, s.channels, seed)
        positions = height * width
        d = sum(len(index) for index in self.selected)
        self.register_buffer("mean", torch.zeros(positions, d))
        self.register_buffer("whitening", torch.zeros(positions, sum(b * (b - a) for a, b in bands(d))))
        for axis, n in zip("yx", self.grid):
            self.register_buffer(f"smooth_{axis}", smooth_upsample_matrix(n, s.size, s.sigma), persistent=False)

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (P, B, d)"""
        pairs = zip(self.backbone(images), self.selected)
        maps = [m if len(index) == m.shape[1] else m[:, index] for m, index in pairs if index]
        return join(maps, self.grid).flatten(2).permute(2, 0, 1).contiguous()  # three times faster products

    def distances(self, embedding: Tensor) -> Tensor:
        """(P, B, d) -> (P, B) squared Mahalanobis distance to each position's Gaussian"""
        centred = embedding - self.mean[:, None]
        rows = bands(centred.shape[2])
        kept = self.whitening.split([b * (b - a) for a, b in rows], 1)
        products = (torch.bmm(centred[:, :, :b], part.unflatten(1, (b, b - a))) for (a, b), part in zip(rows, kept))
        parts = [product.square_().sum(2) for product in products]
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]

    def maps(self, distances: Tensor) -> Tensor:
        """(P, B) squared distances -> (B, H, W), upsampled and smoothed"""
        return self.smooth_y @ distances.sqrt().T.unflatten(1, self.grid) @ self.smooth_x.T

    def forward(self, images: Tensor, inspected: Tensor | None = None) -> tuple[Tensor, Tensor]:
        maps = self.maps(self.distances(self.embed(images)))
        return within(maps, inspected).amax((1, 2)), maps


def bands(d: int) -> list[tuple[int, int]]:
    """From which row to which, ROWS at a time."""
    return list(pairwise([*range(0, d, ROWS), d]))


def pressed(factors: Tensor) -> Tensor:
    """(P, d, d), lower triangular -> (P, n): of each band of rows the columns up to its diagonal, transposed, which is
    the order that a product with one picture or a few reads fastest (half the time of the other)."""
    return torch.cat([factors[:, a:b, :b].mT.flatten(1) for a, b in bands(factors.shape[1])], 1)


def places(d: int) -> Tensor:
    """(d (d + 1) / 2,): where `pressed` keeps the lower triangle, row by row."""
    numbers = torch.zeros(1, d, d, dtype=torch.long)
    row, column = torch.tril_indices(d, d)
    numbers[0, row, column] = torch.arange(len(row)) + 1
    kept = pressed(numbers)[0]
    return kept.argsort(stable=True)[-len(row) :]


def select_channels(available: list[int], wanted: int | None, seed: int) -> list[list[int]]:
    """Channel indices per tap, ascending. The draw equals the released code's `random.seed(1024)` for seed 0."""
    total = sum(available)
    if wanted is not None and wanted > total:
        raise InlierError(f"setting 'channels': {wanted} channels are wanted, the taps have {total} in all")
    chosen = range(total) if wanted is None else sorted(random.Random(1024 + seed).sample(range(total), wanted))
    starts = np.cumsum([0, *available])
    return [[c - int(a) for c in chosen if a <= c < b] for a, b in pairwise(starts)]


def leave_out(
    embedding: Tensor, groups: Sequence[Sequence[int]], epsilon: float, deadline: float | None = None
) -> Tensor:
    """(P, N, d) embeddings -> (P, N) squared distances, each to the Gaussian of all rows but those of its own group.

    Equal to fitting anew for every group, at the cost of one fit for each size of group: with U the rows of a group of
    m, less the mean of all, the scatter of the others is that of all less V V', where V = [U', sum(U)' / sqrt(n - m)],
    and the Woodbury identity inverts the difference of the two in m + 1 dimensions. deadline: as for `whiten`.
    """
    n = embedding.shape[1]
    pace = Pace(deadline, len(embedding))
    found = torch.empty(embedding.shape[:2], dtype=torch.float32)
    for start in range(0, len(embedding), CHUNK):
        x = in_double(embedding[start : start + CHUNK])
        u = x - x.mean(1, keepdim=True)
        scatter = u.mT @ u
        for m in sorted({len(group) for group in groups}):
            rest = n - m
            w = inverse_factor(scatter / (rest - 1), epsilon)  # the others' denominator, so that epsilon is theirs
            z = u @ w.mT
            for group in (list(group) for group in groups if len(group) == m):
                own = z[:, group]  # (P, m, d)
                total = own.sum(1, keepdim=True)
                v = torch.cat([own, total / math.sqrt(rest)], 1)
                y = own + total / rest  # their distance from the mean of the others
                inner = (rest - 1) * torch.eye(m + 1, dtype=v.dtype, device=v.device) - v @ v.mT
                across = torch.linalg.solve_triangular(torch.linalg.cholesky(inner), v @ y.mT, upper=False)
                distances = y.square().sum(2) + across.square().sum(1)
                found[start : start + CHUNK, group] = distances.float().cpu()
        pace.check(start + CHUNK)
    return found


class PaDiM(Detector[Settings, Network]):
    """One Gaussian of pretrained features per image position. Fits in one pass, without training."""

    name = "padim"
    default_calibration = "folds"
    trains = False
    candidates = ({}, {"tile": 512})
    light_seconds = 20.0
    presets = {
        "paper": Settings(backbone="resnet18", size=224, shorter_side=256, filter="lanczos"),
        "paper-wide": Settings(backbone="wide_resnet50_2", channels=550, size=224, shorter_side=256, filter="lanczos"),
        "light": Settings(taps=(8, 16, 32), grid=1, channels=None),
    }

    def build(self, s: Settings) -> Network:
        return Network(s, self.seed)

    def memory_needed(self, s: Settings) -> int:
        backbone = Backbone(s.backbone, s.taps)
        _, height, width = backbone.shapes(s.size)[s.grid]
        matrix = 4 * (s.channels or sum(backbone.channels)) ** 2  # one position's float32 scatter
        # half as much again when it is packed for the file; float64 copies of a chunk; half a GiB for the rest
        return round(1.5 * height * width * matrix) + 8 * CHUNK * matrix + 2**29

    def learn(self, network: Network, images: Images, run: Run) -> None:
        (positions, d), n = network.mean.shape, network.whitening.shape[1]
        network.whitening = network.mean.new_empty(0)  # its place is needed
        memory = network.mean.new_zeros(positions * d * d)
        sums = GaussianSums(memory.view(positions, d, d))
        with progress("fitting", len(images)) as show, torch.no_grad():
            for batch in images.batches(BATCH, run.device):
                sums.add(network.embed(batch))
                show(sums.n)
            network.mean.copy_(sums.mean)
            network.whitening = memory[: positions * n].view(positions, n)  # where the scatter of its position was
            for chunk, factors in inverse_factors(sums, self.settings.epsilon, run.deadline):
                network.whitening[chunk] = pressed(factors)

    def held_out_scores(
        self, network: Network, images: Images, run: Run, backbone_weights: dict[str, Tensor]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        shape = (len(network.mean), len(images), network.mean.shape[1])
        embedding = run.cache(shape, torch.float32, "embeddings")
        shown = list[Tensor | None]()
        done = 0
        with progress("calibrating", len(images)) as show, torch.inference_mode():
            for batch, inspected in images.batches_and_regions(BATCH, run.device):
                embedding[:, done : done + len(batch)] = network.embed(batch).cpu()
                shown += [None] * len(batch) if inspected is None else list(inspected)
                done += len(batch)
                show(done)
            members: dict[int, list[int]] = {}  # group -> its views
            for view, picture in enumerate(images.owners):
                members.setdefault(images.pictures[picture].group, []).append(view)
            if len(images) - max(map(len, members.values())) < 2:
                raise InlierError(
                    "one group holds all pictures but one: without it nothing is left to fit a Gaussian to; give more "
                    "pictures of other groups, or use calibration 'split'"
                )
            distances = leave_out(embedding, list(members.values()), self.settings.epsilon, run.deadline)
            scores = np.full(len(images.pictures), -np.inf, np.float32)
            for view, picture in enumerate(images.owners):
                map_ = network.maps(distances[:, view : view + 1].to(run.device))
                inspected = shown[view]
                peak = within(map_, None if inspected is None else inspected[None]).amax().item()
                scores[picture] = max(scores[picture], peak)
        return scores, scores.copy()  # PaDiM's image score is the peak of its map

    def pack(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The file holds the lower triangles, row by row."""
        return state | {"whitening": state["whitening"][:, places(state["mean"].shape[1])]}

    def unpack(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        positions, d = state["mean"].shape
        whitening = state["whitening"].new_zeros(positions, sum(b * (b - a) for a, b in bands(d)))
        whitening[:, places(d)] = state["whitening"]
        return state | {"whitening": whitening}
