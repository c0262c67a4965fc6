"""The released schemes, re-created as they are described, with the same weights as ours: "naive scheme" in the table.

Nothing here is anybody's code: each is written from what the paper or its reader's notes say the released program does,
and gives our numbers up to rounding, which speed.py asserts before it takes the time.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import mahalanobis
from torch import Tensor, nn
from torch.nn import functional as F

from inlier.features import BACKBONES, Backbone
from inlier.methods import padim
from inlier.methods.differnet.views import rotate
from inlier.methods.simplenet import Head


def smoothed(maps: Tensor, size: int, sigma: float) -> NDArray[np.float32]:
    """(B, h, w) -> (B, size, size): enlarged by torch, smoothed by scipy, one picture after the other."""
    large = F.interpolate(maps[:, None], size=size, mode="bilinear")[:, 0].numpy()
    return np.stack([gaussian_filter(one, sigma) for one in large])


# -- PaDiM (xiahaifeng1995's program, which everybody uses) -----------------------------------------------------------


def padim_embedding(maps: Sequence[Tensor], chosen: Sequence[int]) -> Tensor:
    """All channels of all layers at the finest grid, joined one layer after the other; then the drawn channels."""
    joined = maps[0]
    for deeper in maps[1:]:
        joined = torch.cat([joined, F.interpolate(deeper, size=joined.shape[-2:])], 1)
    return joined.index_select(1, torch.tensor(chosen))


def padim_fit(network: padim.Network, batches: Any, epsilon: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """(d, P) means and (d, d, P) covariances: features of all pictures are kept, then a loop over positions."""
    kept: list[list[Tensor]] = []
    for images in batches:
        kept.append(network.backbone(images))
    layers = [torch.cat(list(one)) for one in zip(*kept, strict=True)]
    embedding = padim_embedding(layers, drawn(network)).flatten(2)
    mean = embedding.mean(0).numpy()
    covariance = np.zeros((embedding.shape[1], embedding.shape[1], embedding.shape[2]), np.float32)
    identity = np.identity(embedding.shape[1])
    for position in range(embedding.shape[2]):
        covariance[:, :, position] = np.cov(embedding[:, :, position].numpy(), rowvar=False) + epsilon * identity
    return mean, covariance


def padim_predict(
    network: padim.Network, mean: NDArray[Any], covariance: NDArray[Any], images: Tensor, size: int, sigma: float
) -> NDArray[np.float32]:
    """Maps: for every position an inverse, for every picture there a distance."""
    embedding = padim_embedding(network.backbone(images), drawn(network))
    grid, vectors = embedding.shape[-2:], embedding.flatten(2).numpy()
    distances = []
    for position in range(vectors.shape[2]):
        inverse = np.linalg.inv(covariance[:, :, position])
        distances.append([mahalanobis(one[:, position], mean[:, position], inverse) for one in vectors])
    found = torch.from_numpy(np.array(distances, np.float32).T.reshape(len(vectors), *grid))
    return smoothed(found, size, sigma)


def drawn(network: padim.Network) -> list[int]:
    """Channels of all layers together."""
    starts = np.cumsum([0, *network.backbone.channels])
    return [int(start) + c for start, chosen in zip(starts, network.selected) for c in chosen]


# -- SimpleNet (the authors' program) ---------------------------------------------------------------------------------


class NaiveSimpleNet(nn.Module):
    """The whole network, though only two layers are read; 3x3 patches unfolded; deep patches enlarged before they are
    made shorter; adapter and discriminator on every patch; and all features enlarged to the picture, for no use."""

    def __init__(self, backbone: Backbone, head: Head, features: int, size: int, sigma: float):
        super().__init__()
        whole = BACKBONES[backbone.name][0]()
        whole.load_state_dict(backbone.net.state_dict(), strict=False)
        self.net, self.mean, self.std, self.layers = whole, backbone.mean, backbone.std, backbone.layers
        self.head, self.features, self.size, self.sigma = head, features, size, sigma
        self.eval()

    def patches(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """(B * h * w, features), and the grid."""
        x, maps = (images - self.mean) / self.std, {}
        for name, stage in self.net.named_children():
            x = stage(x)
            maps[name] = x
        found, grid = [], maps[self.layers[0]].shape[-2:]
        for layer in self.layers:
            m = maps[layer]
            unfolded = F.unfold(m, 3, padding=1).unflatten(2, m.shape[-2:])  # (B, 9 C, h, w)
            if m.shape[-2:] != grid:
                unfolded = F.interpolate(unfolded, size=grid, mode="bilinear")
            vectors = unfolded.flatten(2).mT.flatten(0, 1)  # (B * h * w, 9 C)
            found.append(F.adaptive_avg_pool1d(vectors[:, None], self.features)[:, 0])
        return F.adaptive_avg_pool1d(torch.stack(found, 1).flatten(1)[:, None], self.features)[:, 0], grid

    def forward(self, images: Tensor) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        patches, grid = self.patches(images)
        scores = -self.head.discriminator(self.head.adapter(patches)).view(len(images), *grid)
        features = patches.view(len(images), *grid, -1).permute(0, 3, 1, 2)
        F.interpolate(features, size=self.size, mode="bilinear").numpy()
        return scores.flatten(1).amax(1).numpy(), smoothed(scores, self.size, self.sigma)


# -- MemSeg (TooTouch's program; the authors released none) -----------------------------------------------------------


def memseg_search(memory: Sequence[Tensor], features: Sequence[Tensor]) -> Tensor:
    """(B,): layer by layer and picture by picture, one difference to every entry of the memory (n, h, w, C)."""
    distances = torch.zeros(len(features[0]), len(memory[0]))
    for entries, layer in zip(memory, features, strict=True):
        for place, one in enumerate(layer):
            repeated = one[None].repeat_interleave(len(entries), 0)
            difference = F.mse_loss(repeated, entries.permute(0, 3, 1, 2), reduction="none")
            distances[place] += difference.mean((1, 2, 3))
    return distances.argmin(1)


# -- DifferNet (the authors' program) ---------------------------------------------------------------------------------


def differnet_score(network: Any, image: Tensor) -> Tensor:
    """(1,) of (1, 3, H, W): one view after the other, each turned, made smaller and sent through the flow by itself."""
    squares = [network.flow(network.features(rotate(image, angle, network.s.fill))).square().mean()
               for angle in network.angles]  # fmt: skip
    return torch.stack(squares).mean()[None]


# -- DiAD (the authors' program) --------------------------------------------------------------------------------------


class NaiveStep(nn.Module):
    """A step of repainting: guidance with two equal branches, hint encoder and time embeddings in every step, all
    thirteen outputs of the guide."""

    def __init__(self, denoiser: Any):
        super().__init__()
        from diffusers import ControlNetModel

        self.unet, self.guide, self.context = denoiser.unet, denoiser.guide, denoiser.context
        self.body = ControlNetModel.from_config(denoiser.guide.body.config).eval()

    def forward(self, latent: Tensor, image: Tensor, t: Tensor) -> Tensor:
        x, time, context = latent.repeat(2, 1, 1, 1), t.repeat(2), self.context.expand(2, -1, -1)
        outs, middle = self.body(x, time, context, image.repeat(2, 1, 1, 1), return_dict=False)
        deepest = self.guide.fusion(outs[6:9], outs[9:])
        skips = (*(torch.zeros_like(out) for out in outs[:9]), *deepest)
        noise = self.unet(x, time, context, down_block_additional_residuals=skips, mid_block_additional_residual=middle)
        without, given = noise.sample.chunk(2)
        return torch.add(without, given - without, alpha=9.0)
