"""DiAD: a diffusion model repaints the picture as good, and a pretrained network compares the two.

He et al., "A Diffusion-Based Framework for Multi-Class Anomaly Detection", AAAI 2024, arXiv 2312.06607.
Checked against numbers made with the authors' code (lewandofskee/DiAD, Apache-2.0, commit d281300) at reduced width.

Same mathematics, other computation. The released guidance of 9 has two equal branches, so it does nothing but double
the cost: there is one branch here. Of the guide's thirteen outputs the six that nobody reads are not computed. Hint
and time embeddings are computed once for all steps, and latents of the training images once for all epochs. Batches of
any size; the noise comes from the picture's own pixels, so the same picture has the same score always, but for rounding
(some 1e-7 between batches of other sizes).

What differs: the authors keep the epoch that is best on the test set; here the last step is the model and the test set
is never seen. LPIPS is replaced (see autoencoder.py). Followed where paper and code differ: the code (the guide reaches
the middle block and the deepest skips only; it has no decoder of its own). Where there is no pretrained U-Net, all of
it is trained and the prompt is a learned constant. The pixel-space baseline can stack patches into channels.
"""

import functools
import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor, nn

from inlier.detector import Detector, Images, to_input
from inlier.errors import InlierError
from inlier.features import IMAGENET_MEAN, IMAGENET_STD, Backbone
from inlier.maps import smooth_upsample_matrix
from inlier.methods.diad.autoencoder import (
    Autoencoder,
    FirstStage,
    Pixels,
    adversarial_loss,
    divergence,
    perceptual,
)
from inlier.methods.diad.checkpoints import fill, load_pretrained, read_autoencoder
from inlier.methods.diad.compare import anomaly_map, distances, image_score
from inlier.methods.diad.denoiser import Denoiser, unet_config
from inlier.methods.diad.guide import Guide
from inlier.methods.diad.sampler import add_noise, ddim, ddim_times, noise_of, schedule
from inlier.methods.diad.settings import Settings
from inlier.progress import progress
from inlier.training import Check, Run, train

log = logging.getLogger("inlier")
DARKEST = 1e-9  # share of the signal's variance that must be left at the start; 0 divides by zero


def make_autoencoder(s: Settings) -> Autoencoder | Pixels:
    if s.variant == "ddpm":
        return Pixels(s.patch)
    if s.autoencoder_kind == "tiny" and len(set(s.autoencoder_channels)) > 1:
        raise InlierError("setting 'autoencoder_channels': a tiny autoencoder has the same width at all levels")
    _divide("autoencoder_groups", s.autoencoder_groups, "autoencoder_channels", s.autoencoder_channels)
    return Autoencoder(
        s.autoencoder_kind, s.autoencoder_channels, s.autoencoder_layers, s.latent_channels, s.autoencoder_groups
    )


def make_denoiser(s: Settings, latent: int, factor: int) -> Denoiser:
    """latent: its channels; factor: how much smaller than the picture it is."""
    if len(s.channels) < 3:
        raise InlierError(f"setting 'channels': {len(s.channels)} levels, the guide needs at least 3")
    multiple = factor * 2 ** len(s.channels)  # the deepest map has at least 2 x 2 positions, or it has no deviation
    if s.size % (multiple // 2) or s.size < multiple:
        raise InlierError(
            f"setting 'size': {s.size} pixels do not fit an autoencoder of factor {factor} and a U-Net of "
            f"{len(s.channels)} levels; it must be a multiple of {multiple // 2}, at least {multiple}"
        )
    if max(s.attention) >= len(s.channels):
        raise InlierError(f"setting 'attention': level {max(s.attention)}, but the last of 'channels' is number "
                          f"{len(s.channels) - 1}")  # fmt: skip
    _divide("groups", s.groups, "channels", s.channels)
    _divide("heads", s.heads, "channels", s.channels)
    config = unet_config((latent, s.size // factor), s.channels, s.attention, s.heads, s.groups, s.context_width)
    guide = None
    if s.variant.startswith("sg"):
        if 2 ** (len(s.hint_channels) - 1) != factor:
            raise InlierError(
                f"setting 'hint_channels': {len(s.hint_channels)} widths halve the size {len(s.hint_channels) - 1} "
                f"times, the autoencoder's factor is {factor}"
            )
        guide = Guide(config, s.hint_channels, fuse=s.variant == "sg+sff")
    return Denoiser(config, s.context_tokens, guide)


def _divide(name: str, value: int, of: str, widths: tuple[int, ...]) -> None:
    if any(width % value for width in widths):
        raise InlierError(f"setting '{name}': {value} does not divide all of {of}={','.join(map(str, widths))}")


class Network(nn.Module):
    """Autoencoder, denoiser with guide, and the pretrained network that compares."""

    mean: Tensor
    std: Tensor
    abar: Tensor
    latent_scale: Tensor

    def __init__(self, s: Settings):
        super().__init__()
        self.s = s
        if s.start >= s.timesteps:
            raise InlierError(f"setting 'start': {s.start}, but the schedule has {s.timesteps} timesteps (from 0)")
        abar = schedule(s.timesteps, s.beta_start, s.beta_end)
        if abar[s.start] < DARKEST:
            raise InlierError(
                f"settings 'beta_start', 'beta_end', 'timesteps': at the start, timestep {s.start}, nothing is left of "
                "the picture"
            )
        self.times = ddim_times(s.start, s.ddim_steps, s.spacing)
        if s.size <= s.pools * (s.pool - 1):
            raise InlierError(f"settings 'pool' and 'pools': nothing is left of {s.size} pixels; make them smaller")
        self.backbone = Backbone(s.backbone, s.taps)
        self.autoencoder = make_autoencoder(s)
        self.denoiser = make_denoiser(s, self.autoencoder.latent, self.autoencoder.factor)
        self.latent_shape = (self.autoencoder.latent, *(s.size // self.autoencoder.factor,) * 2)
        mean, std = (IMAGENET_MEAN, IMAGENET_STD) if s.input == "imagenet" else ((0.5,) * 3, (0.5,) * 3)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("abar", abar, persistent=False)
        self.register_buffer("latent_scale", torch.tensor(s.latent_scale or 1.0))
        with torch.no_grad():
            grids = [m.shape[-1] for m in self.backbone(torch.zeros(1, 3, s.size, s.size))]
        for i, n in enumerate(grids):
            matrix = smooth_upsample_matrix(n, s.size, s.sigma, align_corners=True)
            self.register_buffer(f"smooth{i}", matrix, persistent=False)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def normalise(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    def latent(self, moments: tuple[Tensor, Tensor], noise: Tensor) -> Tensor:
        mean, std = moments
        return self.latent_scale * (mean if self.s.posterior == "mode" else mean + std * noise)

    def decode(self, z: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> pictures (B, 3, H, W), about [0, 1]; not clipped."""
        return self.autoencoder.decode(z / self.latent_scale) * self.std + self.mean

    def reconstruct(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> the same repainted as good; not clipped."""
        seen = self.normalise(images)
        posterior, noise = noise_of(images, (2, *self.latent_shape)).unbind(1)
        z = self.latent(self.autoencoder.moments(seen), posterior)
        x = add_noise(z, noise, self.abar[self.s.start].expand(len(z)))
        hint = self.denoiser.hint(seen)
        embeddings = self.denoiser.times(torch.tensor(self.times, device=x.device))

        def predict(x: Tensor, i: int) -> Tensor:
            return self.denoiser.step(x, [e[i : i + 1].expand(len(x), -1) for e in embeddings], hint)

        return self.decode(ddim(x, predict, self.times, self.abar))

    def compare(self, images: Tensor, reconstructions: Tensor) -> tuple[Tensor, Tensor]:
        """(scores (B,), maps (B, H, W))"""
        apart = distances(self.backbone(images), self.backbone(reconstructions))
        maps = anomaly_map(apart, [self.get_buffer(f"smooth{i}") for i in range(len(apart))])
        return image_score(maps, self.s.pool, self.s.pools), maps

    def inspect(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, maps, and reconstructions (B, 3, H, W), about [0, 1]."""
        reconstructions = self.reconstruct(images)
        return *self.compare(images, reconstructions), reconstructions

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.inspect(images)[:2]


class DiAD(Detector):
    """One diffusion model for all categories repaints pictures as good; what it changed is the defect."""

    name = "diad"
    settings: Settings
    memory_advice = (
        "use a smaller 'batch_size' with more 'accumulation' (the same training), 'checkpointing=true', "
        "'precision=bf16', or preset 'light'"
    )
    presets = {
        "paper": Settings(backbone="resnet50_a1", pretrained="v1-5-pruned.ckpt"),
        # one GPU, no pretrained weights
        "medium": Settings(
            size=256,
            autoencoder_channels=(64, 128, 256, 256),
            autoencoder_steps=20_000,
            autoencoder_batch=16,
            autoencoder_accumulation=1,
            latent_scale=None,
            posterior="mode",
            discriminator_start=None,
            channels=(128, 256, 384, 384),
            attention=(1, 2, 3),
            context_tokens=1,
            context_width=128,
            hint_channels=(16, 32, 64, 128),
            steps=40_000,
            batch_size=32,
            accumulation=1,
            lr=1e-4,
            warm_up=500,
            decay=True,
            ema=0.999,
            precision="bf16",
            spacing="trailing",
        ),
        # two CPU cores, half an hour for two categories
        "light": Settings(
            size=128,
            autoencoder_channels=(16, 32, 64),
            autoencoder_layers=1,
            autoencoder_groups=4,
            autoencoder_steps=1200,
            autoencoder_batch=4,
            autoencoder_accumulation=1,
            autoencoder_lr=1e-3,
            latent_scale=None,
            posterior="mode",
            discriminator_start=None,
            patch=4,
            channels=(32, 64, 128),
            attention=(2,),
            heads=4,
            groups=8,
            context_tokens=1,
            context_width=32,
            hint_channels=(16, 32, 64),
            steps=1500,
            batch_size=8,
            accumulation=1,
            lr=1e-3,
            warm_up=100,
            decay=True,
            ema=0.995,
            look_every=500,
            # from pure noise a network of this size, trained so shortly, paints no sharp part
            start=500,
            ddim_steps=5,
            spacing="trailing",
            sigma=3.0,
            pool=4,
        ),
    }

    def build(self) -> Network:
        _check_diffusers()
        return Network(self.settings)

    def build_backbone(self) -> Backbone:
        return Backbone(self.settings.backbone, self.settings.taps)

    def fit(self, data: Any, **options: Any) -> Self:
        """As `Detector.fit`. A given autoencoder decides the settings that describe it."""
        _check_diffusers()
        s = self.settings
        if s.autoencoder and s.variant != "ddpm":
            _, described = read_autoencoder(_find("autoencoder", s.autoencoder))
            self.settings = s.replace(**described)
        if s.pretrained:
            _find("pretrained", s.pretrained)
        elif s.steps == 0:
            raise InlierError("setting 'steps': 0, and no 'pretrained' model that needs no training")
        elif s.autoencoder_steps == 0 and not s.autoencoder and s.variant != "ddpm":
            raise InlierError("setting 'autoencoder_steps': 0, and no 'autoencoder' that needs no training")
        return super().fit(data, **options)

    fit.__doc__ = Detector.fit.__doc__

    def memory_needed(self, n_images: int) -> int:
        s = self.settings
        with torch.device("meta"):
            autoencoder = make_autoencoder(s)
            denoiser = make_denoiser(s, autoencoder.latent, autoencoder.factor)
        if s.pretrained:
            denoiser.freeze()
        if s.checkpointing:
            denoiser.checkpointing()
        half = 1 if s.precision == "fp32" else 2
        picture = torch.zeros(1, 3, s.size, s.size, device="meta")
        latent = torch.zeros(1, autoencoder.latent, *(s.size // autoencoder.factor,) * 2, device="meta")
        t = torch.zeros(1, dtype=torch.long, device="meta")
        second = _to_learn(denoiser, s.ema) + s.batch_size * (
            _activations(lambda: denoiser.train()(latent, t, picture)) // half
        )
        first = 0
        if isinstance(autoencoder, Autoencoder) and s.autoencoder_steps and not s.autoencoder:
            first = _to_learn(autoencoder, s.ema) + s.autoencoder_batch * (
                _activations(lambda: autoencoder(picture, latent)) // half
            )
        weights = sum(p.numel() * p.element_size() for net in (autoencoder, denoiser) for p in net.parameters())
        return weights + max(first, second)

    def memory_free(self, device: torch.device) -> int:
        return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else super().memory_free(device)

    def learn(self, network: Network, images: Images, run: Run) -> None:
        s = self.settings
        has_autoencoder = self._start_from_others(network)
        pixels = images.cache(run)
        if isinstance(network.autoencoder, Autoencoder) and s.autoencoder_steps and not has_autoencoder:
            learn_autoencoder(network, pixels, run.stage("autoencoder"))
        network.autoencoder.requires_grad_(False)
        moments = cache_moments(network, pixels, run)
        learn_denoiser(network, pixels, moments, run.stage("denoiser"))

    def _start_from_others(self, network: Network) -> bool:
        """Fill in what others trained; returns whether a finished autoencoder is among it."""
        s, is_whole = self.settings, False
        if s.pretrained:
            path = _find("pretrained", s.pretrained)
            kept = network.autoencoder if isinstance(network.autoencoder, Autoencoder) and not s.autoencoder else None
            is_whole = load_pretrained(network.denoiser, kept, path, len(s.autoencoder_channels))
            network.denoiser.freeze()
            self.weights_["pretrained"] = f"{path.name}, {'DiAD' if is_whole else 'Stable Diffusion'}; its own licence"
            log.info("pretrained: %s", path)
        if s.autoencoder and isinstance(network.autoencoder, Autoencoder):
            path = _find("autoencoder", s.autoencoder)
            fill(network.autoencoder.net, read_autoencoder(path)[0], path)
            self.weights_["autoencoder"] = f"{path.name}; its own licence"
            log.info("autoencoder: %s", path)
        return is_whole or s.autoencoder is not None


def _check_diffusers() -> None:
    import importlib.util

    if not importlib.util.find_spec("diffusers"):
        raise InlierError("diad needs the package diffusers: pip install 'inlier[diad]'")


def _find(name: str, text: str) -> Path:
    """A file or folder: as given, or in the folder named by INLIER_WEIGHTS."""
    places = [Path(text)] + [Path(folder) / text for folder in [os.environ.get("INLIER_WEIGHTS")] if folder]
    for place in places:
        if place.exists():
            return place
    tried = " and ".join(map(str, places))
    raise InlierError(
        f"setting '{name}': no file or folder {tried}; give its path with --set {name}=PATH, "
        f"or --set {name}=none to train from nothing"
    )


def _to_learn(module: nn.Module, ema: float | None) -> int:
    """Bytes of gradients, Adam's two moments and the moving average."""
    return (3 + bool(ema)) * sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)


def _activations(run: Callable[[], Any]) -> int:
    """Bytes that autograd keeps for the backward pass of `run`, each storage once; works on the meta device."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = run()  # alive until all is counted, or storages would be used again
        total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del output
    return total


# -- training ---------------------------------------------------------------------------------------------------------


def cache_moments(network: Network, pixels: Tensor, run: Run) -> Tensor:
    """(N, 2, C, h, w) mean and deviation of every picture's latent; sets the scale that gives unit variance."""
    cache, done = run.cache((len(pixels), 2, *network.latent_shape), torch.float32, "latents"), 0
    with progress("computing latents", len(pixels)) as show, torch.no_grad():
        for batch in pixels.split(8):
            seen = network.normalise(to_input(batch).to(run.device))
            cache[done : done + len(batch)] = torch.stack(network.autoencoder.eval().moments(seen), 1).cpu()
            done += len(batch)
            show(done)
    if network.s.variant == "ddpm":
        network.latent_scale.fill_(1.0)
    elif network.s.latent_scale is None:  # image by image, in float64
        sums = torch.stack([torch.stack([m[0].sum(), m.square().sum()]) for m in map(Tensor.double, cache)]).sum(0)
        mean, square = sums / (cache.numel() / 2)
        network.latent_scale.fill_(1 / (square - mean.square()).sqrt().clamp(min=1e-6).item())
        log.info("latent scale: %.4g", network.latent_scale.item())
    if not cache.isfinite().all():
        raise InlierError("the autoencoder makes latents of good pictures that are not finite: it cannot be used")
    return cache


def batches(n: int, size: int, run: Run) -> Callable[[int], Tensor]:
    """The indices of pass i: every image once, in a new order, before any comes again."""

    @functools.lru_cache(4)
    def order(epoch: int) -> Tensor:
        return torch.randperm(n, generator=run.generator(-1 - epoch))

    def batch(i: int) -> Tensor:
        places = (divmod(place, n) for place in range(i * size, (i + 1) * size))
        return torch.stack([order(epoch)[place] for epoch, place in places])

    return batch


def learning_rate(step: int, lr: float, warm_up: int, steps: int, decay: bool) -> float:
    """Rises in a straight line; then stays, or falls to zero as half a cosine."""
    if step < warm_up:
        return lr * (step + 1) / warm_up
    return lr * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))) / 2 if decay else lr


def learn_autoencoder(network: Network, pixels: Tensor, run: Run) -> None:
    s = network.s
    stage = FirstStage(
        network.autoencoder, s.discriminator_start is not None and s.discriminator_start < s.autoencoder_steps
    )
    batch = batches(len(pixels), s.autoencoder_batch, run)
    net: Any = network.autoencoder.net
    last = net.decoder.conv_out if s.autoencoder_kind == "kl" else net.decoder.layers[-1]

    def loss(model: nn.Module, i: int) -> Tensor:
        """All terms as a mean over the pixels; the divergence is summed over the latent and spread over the pixels."""
        images = to_input(pixels[batch(i)]).to(run.device)
        seen = network.normalise(images)
        noise = torch.randn(len(seen), *network.latent_shape, generator=run.generator(i)).to(run.device)
        late = stage.discriminator is not None and i // s.autoencoder_accumulation >= (s.discriminator_start or 0)
        reconstruction, mean, std, values = model(seen, noise, late)
        total = (reconstruction - seen).abs().mean()
        if s.perceptual_weight:
            with torch.no_grad():
                truth = network.backbone(images)
            made = network.backbone(reconstruction * network.std + network.mean)
            total = total + s.perceptual_weight * perceptual(truth, made).mean()
        if s.autoencoder_kind == "kl":
            total = total + s.divergence_weight * divergence(mean.float(), std.float()).mean() / seen[0].numel()
        return total if values is None else total + adversarial_loss(values, total, last.weight, s.discriminator_weight)

    sides = [stage.autoencoder] + ([stage.discriminator] if stage.discriminator else [])
    optimizers = [torch.optim.Adam(side.parameters(), lr=s.autoencoder_lr, betas=(0.5, 0.9)) for side in sides]
    shown = pixels[:4]

    def look(model: nn.Module, step: int) -> float:
        """How far reconstructions of fitted images are from them; their picture goes to the run folder."""
        images = to_input(shown).to(run.device)
        with torch.no_grad():
            made = network.autoencoder.decode(network.autoencoder.moments(network.normalise(images))[0])
            made = made * network.std + network.mean
        run.show(draw_look(images, made), "autoencoder", step)
        return -(made - images).abs().mean().item()

    train(
        stage,
        optimizers,
        loss,
        s.autoencoder_steps,
        run,
        schedule=lambda step: learning_rate(step, s.autoencoder_lr, 0, s.autoencoder_steps, s.decay),
        check=Check(look, s.look_every, name="minus mean difference of reconstructions"),
        accumulation=s.autoencoder_accumulation,
        rates="autoencoder_lr",
        precision=s.precision,
        ema=s.ema,
    )


def learn_denoiser(network: Network, pixels: Tensor, moments: Tensor, run: Run) -> None:
    s = network.s
    batch = batches(len(pixels), s.batch_size, run)

    def loss(model: nn.Module, i: int) -> Tensor:
        chosen, random = batch(i), run.generator(i)
        seen = network.normalise(to_input(pixels[chosen]).to(run.device))
        noises = torch.randn(2, len(chosen), *network.latent_shape, generator=random).to(run.device)
        # timesteps above the start are never asked for
        t = torch.randint(s.start + 1, (len(chosen),), generator=random).to(run.device)
        z = network.latent(tuple(moments[chosen].to(run.device).unbind(1)), noises[0])  # type: ignore[arg-type]
        predicted = model(add_noise(z, noises[1], network.abar[t]), t, seen)
        return (predicted.float() - noises[1]).square().mean()

    shown = pixels[:4]

    def look(model: nn.Module, step: int) -> float:
        images = to_input(shown).to(run.device)
        with torch.no_grad():
            made = network.reconstruct(images)
        run.show(draw_look(images, made), "repainted", step)
        return -(made - images).abs().mean().item()

    if s.checkpointing:
        network.denoiser.checkpointing()
    learning = [parameter for parameter in network.denoiser.parameters() if parameter.requires_grad]
    train(
        network.denoiser,
        [torch.optim.AdamW(learning, lr=s.lr, weight_decay=s.weight_decay)],
        loss,
        s.steps,
        run,
        schedule=lambda step: learning_rate(step, s.lr, s.warm_up, s.steps, s.decay),
        check=Check(look, s.look_every, name="minus mean difference of reconstructions"),
        accumulation=s.accumulation,
        precision=s.precision,
        ema=s.ema,
    )


def draw_look(images: Tensor, made: Tensor) -> Image.Image:
    """Pictures (B, 3, H, W) in [0, 1] above what was made of them."""
    rows = torch.cat([torch.cat(list(side), 2) for side in (images, made)], 1)
    return Image.fromarray((255 * rows.clamp(0, 1)).round().byte().permute(1, 2, 0).cpu().numpy())
