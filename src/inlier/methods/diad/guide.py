"""The semantic-guided (SG) network: it sees the picture and tells the denoiser's decoder what to paint.

The body is diffusers' ControlNetModel: a copy of the denoiser's encoder, middle block and time embedding, a small
encoder of the picture (the hint), and one 1x1 convolution that starts at zero for each output. Outputs are counted as
in the released code: conv_in is 0, then three for each of the L levels, then the middle. The decoder reads the middle
and the last three; the three before those act through the spatial-aware feature fusion (SFF) only; all earlier ones
are not used there, so they are neither held nor computed here.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlier.methods.diad.denoiser import encode


class Fusion(nn.Module):
    """SFF: each deepest output takes in all three outputs of the level above it, through nine 3x3 convolutions."""

    def __init__(self, sources: Sequence[int], targets: Sequence[int]):
        super().__init__()
        self.convs: Any = nn.ModuleList(
            nn.ModuleList(nn.Conv2d(source, target, 3, 2, padding=1, bias=False) for source in sources)
            for target in targets
        )
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, sources: Sequence[Tensor], targets: Sequence[Tensor]) -> list[Tensor]:
        """(B, C, 2h, 2w) and (B, C', h, w), three each -> three like the targets"""
        fused = []
        for convs, target in zip(self.convs, targets):
            parts = [F.silu(F.instance_norm(conv(x))) for conv, x in zip(convs, sources)]
            fused.append(F.silu(target + torch.stack(parts).sum(0)))
        return fused


class Guide(nn.Module):
    """ControlNet body and, if asked for, SFF."""

    def __init__(self, config: dict[str, Any], hint_channels: Sequence[int], fuse: bool):
        super().__init__()
        from diffusers import ControlNetModel

        shared = {
            key: value for key, value in config.items() if key not in ("sample_size", "out_channels", "up_block_types")
        }
        make: Any = ControlNetModel  # a library without types
        self.body = make(
            **shared,
            conditioning_embedding_out_channels=tuple(hint_channels),
            controlnet_conditioning_channel_order="rgb",
        )
        outs = self.body.controlnet_down_blocks
        self.used = 6 if fuse else 3
        for i in range(len(outs) - self.used):
            outs[i] = nn.Identity()
        below, above, deepest = config["block_out_channels"][-3:]
        # the first output of a level has the width of the level before it
        self.fusion = Fusion((below, above, above), (above, deepest, deepest)) if fuse else None

    def hint(self, images: Tensor) -> Tensor:
        """Normalised pictures (B, 3, H, W) -> (B, C, h, w); the same in all steps."""
        hint: Tensor = self.body.controlnet_cond_embedding(images)
        return hint

    def forward(self, x: Tensor, time: Tensor, hint: Tensor, context: Tensor) -> tuple[Tensor, list[Tensor]]:
        """-> what to add to the denoiser's middle, and to its three deepest skips"""
        middle, skips = encode(self.body, self.body.conv_in(x) + hint, time, context)
        outs = [out(skip) for out, skip in zip(self.body.controlnet_down_blocks[-self.used :], skips[-self.used :])]
        if self.fusion:
            outs = self.fusion(outs[:3], outs[3:])
        return self.body.controlnet_mid_block(middle), outs
