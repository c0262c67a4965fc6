"""Both stages of the training: the autoencoder on pictures, then denoiser and guide on its latents."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from inlier import processes
from inlier.errors import InlierError
from inlier.good import to_input
from inlier.machine import arithmetic
from inlier.methods.diad.autoencoder import FirstStage, adversarial_loss, divergence, perceptual
from inlier.methods.diad.network import Network
from inlier.methods.diad.passes import before_passes, rate
from inlier.methods.diad.sampler import add_noise
from inlier.progress import progress
from inlier.training import Check, Run, batches, fill, train

log = logging.getLogger("inlier")
REPAINTED = 200  # fitted pictures of a category whose residuals are modelled, at most


def cache_moments(network: Network, pixels: Tensor, run: Run) -> Tensor:
    """(N, 2, C, h, w) mean and deviation of every picture's latent; sets the scale that gives unit variance."""
    cache = run.cache((len(pixels), 2, *network.latent_shape), torch.float32, "latents")
    with torch.no_grad():
        seen = (network.normalise(to_input(batch).to(run.device)) for batch in pixels.split(8))
        moments = map(network.autoencoder.eval().moments, seen)
        fill(cache, (torch.stack(pair, 1) for pair in moments), "computing latents")
    s = network.s
    if s.variant == "ddpm":
        network.latent_scale.fill_(1.0)
    elif s.latent_scale is None:  # image by image, in float64
        used = cache[:, :1] if s.posterior == "mode" else cache
        sums = torch.stack([torch.stack([m[0].sum(), m.square().sum()]) for m in map(Tensor.double, used)]).sum(0)
        mean, square = sums / (cache.numel() / 2)
        network.latent_scale.fill_(1 / (square - mean.square()).sqrt().clamp(min=1e-6).item())
        log.info("latent scale: %.4g", network.latent_scale.item())
    if not cache.isfinite().all():
        raise InlierError("the autoencoder makes latents of good pictures that are not finite: it cannot be used")
    return cache


def learn_autoencoder(network: Network, pixels: Tensor, steps: int, run: Run) -> None:
    s = network.s
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        stage = FirstStage(network.autoencoder, s.is_adversarial).to(run.device)
    batch = batches(len(pixels), s.autoencoder_batch, run, before_passes)
    part, weight = processes.share(s.autoencoder_batch, "autoencoder_batch")
    net: Any = network.autoencoder.net
    last = net.decoder.conv_out if s.autoencoder_kind == "kl" else net.decoder.layers[-1]

    def loss(model: nn.Module, i: int) -> Tensor:
        """All terms as a mean over the pixels; the divergence is summed over the latent and spread over the pixels."""
        images = to_input(pixels[batch(i)[part]]).to(run.device)
        seen = network.normalise(images)
        noise = torch.randn(s.autoencoder_batch, *network.latent_shape, generator=run.generator(i))[part].to(run.device)
        late = s.is_adversarial and i // s.autoencoder_accumulation >= (s.discriminator_start or 0)
        reconstruction, mean, std, values = model(seen, noise, late)
        total = (reconstruction - seen).abs().mean()
        if s.perceptual_weight:
            with torch.no_grad():
                truth = network.backbone(images)
            made = network.backbone(reconstruction * network.std + network.mean)
            total = total + s.perceptual_weight * perceptual(truth, made).mean()
        if s.autoencoder_kind == "kl":
            total = total + s.divergence_weight * divergence(mean.float(), std.float()).mean() / seen[0].numel()
        if values:
            total = total + adversarial_loss(values, total, last.weight, s.discriminator_weight, weight)
        else:  # loss scaling wants a gradient for every weight, of zero before its time
            total = total + 0 * sum(p.sum() for side in sides[1:] for p in side.parameters())
        return weight * total

    sides = [stage.autoencoder] + ([stage.discriminator] if stage.discriminator else [])
    optimizers = [torch.optim.Adam(side.parameters(), lr=s.autoencoder_lr, betas=(0.5, 0.9)) for side in sides]

    def autoencoded(images: Tensor) -> Tensor:
        made: Tensor = network.autoencoder.decode(network.autoencoder.moments(network.normalise(images))[0])
        return made * network.std + network.mean

    train(
        stage,
        optimizers,
        loss,
        steps,
        run,
        schedule=lambda step: rate(step, 0, steps, s.decay),
        check=look_at(autoencoded, pixels, "autoencoder", s.look_every, run),
        accumulation=s.autoencoder_accumulation,
        rates="autoencoder_lr",
        precision=arithmetic(s.precision, run.device),
        ema=s.ema,
    )


def learn_denoiser(network: Network, pixels: Tensor, moments: Tensor, run: Run) -> None:
    s = network.s
    batch = batches(len(pixels), s.batch_size, run, before_passes)
    part, weight = processes.share(s.batch_size, "batch_size")

    def loss(model: nn.Module, i: int) -> Tensor:
        chosen = batch(i)[part]
        random = run.generator(i)
        seen = network.normalise(to_input(pixels[chosen]).to(run.device))
        noises = torch.randn(2, s.batch_size, *network.latent_shape, generator=random)[:, part].to(run.device)
        # timesteps above the start are never asked for
        t = torch.randint(s.start + 1, (s.batch_size,), generator=random)[part].to(run.device)
        z = network.latent(tuple(moments[chosen].to(run.device).unbind(1)), noises[0])  # type: ignore[arg-type]
        predicted = model(add_noise(z, noises[1], network.abar[t]), t, seen)
        return weight * (predicted.float() - noises[1]).square().mean()

    if s.checkpointing:
        network.denoiser.checkpointing()
    learning = [parameter for parameter in network.denoiser.parameters() if parameter.requires_grad]
    train(
        network.denoiser,
        [torch.optim.AdamW(learning, lr=s.lr, weight_decay=s.weight_decay)],
        loss,
        s.steps,
        run,
        schedule=lambda step: rate(step, s.warm_up, s.steps, s.decay),
        check=look_at(network.reconstruct, pixels, "repainted", s.look_every, run),
        accumulation=s.accumulation,
        precision=arithmetic(s.precision, run.device),
        ema=s.ema,
    )


def learn_residuals(network: Network, pixels: Tensor, categories: Sequence[str]) -> None:
    """The Gaussians of what the finished reconstruction leaves on the fitted pictures, REPAINTED of each category."""
    residuals = network.residuals
    assert residuals is not None
    members: dict[str, list[int]] = {}
    for i, category in enumerate(categories):
        members.setdefault(category, []).append(i)
    chosen = [own[:: -(-len(own) // REPAINTED)] for own in members.values()]
    device = network.abar.device
    done = 0
    sums = residuals.start(len(chosen), sum(network.backbone.channels))
    with progress("repainting good pictures", sum(map(len, chosen))) as show, torch.no_grad():
        for own, of_category in zip(chosen, sums):
            for part in torch.tensor(own).split(8):
                images = to_input(pixels[part]).to(device)
                made = network.reconstruct(images)
                of_category.add(residuals.differences(network.backbone(images), network.backbone(made)))
                show(done := done + len(part))
        residuals.finish(sums, network.s.epsilon)


def look_at(make: Callable[[Tensor], Tensor], pixels: Tensor, name: str, every: int, run: Run) -> Check:
    """How far four fitted pictures are from what is made of them; a picture of both goes to the run folder."""

    def look(model: nn.Module, step: int) -> float:
        images = to_input(pixels[:4]).to(run.device)
        with torch.no_grad():
            made = make(images)
        rows = torch.cat([torch.cat(list(side), 2) for side in (images, made)], 1)  # (3, 2 H, 4 W)
        drawn = (255 * rows.clamp(0, 1)).round().byte().permute(1, 2, 0).cpu().numpy()
        run.show(Image.fromarray(drawn), name, step)
        return -(made - images).abs().mean().item()

    return Check(look, every, name="minus mean difference of reconstructions")
