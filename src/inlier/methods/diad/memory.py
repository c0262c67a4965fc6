"""What training will take of memory, counted before it starts by a pass over shapes without values."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from inlier.methods.diad.autoencoder import Autoencoder, FirstStage
from inlier.methods.diad.inversion import Inversion
from inlier.methods.diad.network import make_autoencoder, make_denoiser
from inlier.methods.diad.settings import Settings
from inlier.training import HALF


@functools.lru_cache(16)
def memory_of_training(s: Settings) -> int:
    """Bytes: weights, gradients, what the optimizer keeps, activations of one pass; of the larger of both stages."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # takes a second

    if s.variant == "inversion":
        network = Inversion(s)  # a backbone is not built without values
        features, t = torch.zeros(1, *network.shape), torch.zeros(1, dtype=torch.long)
        kept = _activations(lambda: network.denoiser.train()(features, t, features), s.precision)
        weights = sum(p.numel() * p.element_size() for p in network.parameters())
        return weights + _to_learn(network.denoiser, s.ema) + s.batch_size * kept
    with FakeTensorMode():
        autoencoder = make_autoencoder(s)
        denoiser = make_denoiser(s, autoencoder.latent, autoencoder.factor).train()
        if s.pretrained:
            denoiser.freeze()
        if s.checkpointing:
            denoiser.checkpointing()
        picture = torch.zeros(1, 3, s.size, s.size)
        latent = torch.zeros(1, autoencoder.latent, *(s.size // autoencoder.factor,) * 2)
        t = torch.zeros(1, dtype=torch.long)
        first = second = 0
        if s.steps:
            kept = _activations(lambda: denoiser(latent, t, picture), s.precision)
            second = _to_learn(denoiser, s.ema) + s.batch_size * kept
        is_finished = s.autoencoder or s.steps == 0  # without steps all of it comes from a file
        if isinstance(autoencoder, Autoencoder) and s.autoencoder_steps and not is_finished:
            stage = FirstStage(autoencoder, s.is_adversarial)  # the perceptual term adds a few percent
            kept = _activations(lambda: stage(picture, latent, s.is_adversarial), s.precision)
            first = _to_learn(stage, s.ema) + s.autoencoder_batch * kept
        weights = sum(p.numel() * p.element_size() for net in (autoencoder, denoiser) for p in net.parameters())
        return weights + max(first, second)


def _to_learn(module: nn.Module, ema: float | None) -> int:
    """Bytes of gradients, Adam's two moments and the moving average."""
    return (3 + bool(ema)) * sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)


def _activations(run: Callable[[], Any], precision: str) -> int:
    """Bytes that autograd keeps for the backward pass of `run`, each storage once."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    half = torch.autocast("cpu", HALF.get(precision), enabled=precision in HALF)
    with half, torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = run()  # alive until all is counted, or storages would be used again
        total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    del output
    return total
