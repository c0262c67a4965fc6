"""The denoising network: diffusers' UNet2DConditionModel, guided by the SG network where the variant has one."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

FROZEN = ("conv_in", "down_blocks", "mid_block", "time_embedding")  # of a pretrained U-Net


def unet_config(
    latent: tuple[int, int], channels: Sequence[int], attention: Sequence[int], heads: int, groups: int, context: int
) -> dict[str, Any]:
    """Arguments of UNet2DConditionModel. latent: (channels, size); attention: levels that have it."""
    kinds = ["CrossAttn" if level in attention else "" for level in range(len(channels))]
    return {
        "in_channels": latent[0],
        "out_channels": latent[0],
        "sample_size": latent[1],
        "down_block_types": tuple(f"{kind}DownBlock2D" for kind in kinds),
        "up_block_types": tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        "block_out_channels": tuple(channels),
        "layers_per_block": 2,
        "attention_head_dim": heads,  # the library's name for the number of heads
        "norm_num_groups": groups,
        "cross_attention_dim": context,
    }


def encode(net: Any, x: Tensor, time: Tensor, context: Tensor) -> tuple[Tensor, list[Tensor]]:
    """(middle, skips) of a U-Net or its copy in the guide; x has passed conv_in."""
    skips = [x]
    for block in net.down_blocks:
        x, new = block(x, time, **_context(block, context))
        skips += new
    return net.mid_block(x, time, **_context(net.mid_block, context)), skips


def decode(net: Any, x: Tensor, skips: list[Tensor], time: Tensor, context: Tensor) -> Tensor:
    """The noise in what `encode` saw."""
    skips = list(skips)
    for block in net.up_blocks:
        n = len(block.resnets)
        x = block(x, tuple(skips[-n:]), time, **_context(block, context))
        del skips[-n:]
    noise: Tensor = net.conv_out(net.conv_act(net.conv_norm_out(x)))
    return noise


def _context(block: nn.Module, context: Tensor) -> dict[str, Tensor]:
    return {"encoder_hidden_states": context} if getattr(block, "has_cross_attention", False) else {}


class Denoiser(nn.Module):
    """U-Net, guide, and the constant that takes the place of a text prompt: all that the second stage trains.

    context: of a pretrained U-Net, the embedding of the empty prompt, frozen; else a learned constant.
    """

    def __init__(self, config: dict[str, Any], tokens: int, guide: nn.Module | None):
        super().__init__()
        from diffusers import UNet2DConditionModel

        self.unet: Any = UNet2DConditionModel(**config)
        self.guide: Any = guide
        self.context = nn.Parameter(torch.zeros(1, tokens, config["cross_attention_dim"]))

    def freeze(self) -> None:
        """What a pretrained U-Net keeps: its encoder, middle and time embedding, and the prompt."""
        for name in FROZEN:
            getattr(self.unet, name).requires_grad_(False)
        self.context.requires_grad_(False)

    def checkpointing(self) -> None:
        """Trade time for memory: blocks are computed again in the backward pass."""
        self.unet.enable_gradient_checkpointing()
        if self.guide:
            self.guide.body.enable_gradient_checkpointing()

    def time_embeddings(self, t: Tensor) -> list[Tensor]:
        """Time embeddings (B, C) of timesteps (B,): the U-Net's and, if there is one, the guide's."""
        nets = [self.unet, self.guide.body] if self.guide else [self.unet]
        return [net.time_embedding(net.time_proj(t).to(self.context.dtype)) for net in nets]

    def hint(self, images: Tensor) -> Tensor | None:
        return self.guide.hint(images) if self.guide else None

    def step(self, x: Tensor, embeddings: Sequence[Tensor], hint: Tensor | None) -> Tensor:
        """The noise in x (B, C, h, w), given what `time_embeddings` and `hint` return."""
        context = self.context.expand(x.shape[0], -1, -1)
        middle, skips = encode(self.unet, self.unet.conv_in(x), embeddings[0], context)
        if self.guide:
            more, deepest = self.guide(x, embeddings[1], hint, context)
            middle = middle + more
            skips[-3:] = [skip + out for skip, out in zip(skips[-3:], deepest)]
        return decode(self.unet, middle, skips, embeddings[0], context)

    def forward(self, x: Tensor, t: Tensor, images: Tensor) -> Tensor:
        """x (B, C, h, w), timesteps (B,), normalised pictures (B, 3, H, W) -> noise like x"""
        return self.step(x, self.time_embeddings(t), self.hint(images))
