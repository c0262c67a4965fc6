"""MemSeg: simulated defects, a memory of good parts, and a network that segments what differs.

Yang et al., "MemSeg: A semi-supervised method for image surface defect detection using differences and commonalities",
2022, arXiv 2205.00908. The authors released no code. Checked against numbers made with the unofficial one
(TooTouch/MemSeg, commit 836bd465), whose reading of the paper is followed where the paper is silent.

Same mathematics, other computation: the search in the memory is a matrix product for each level, near ties
(closer than rounding may be off, by a bound) are settled in double precision.

What differs from that code: the layers that the paper freezes are frozen here, batch norm included, and the memory
comes from the same layers that are used later (`frozen=false` brings the code's behaviour back); the last step is the
model and nothing looks at the test set; defects are simulated on the network's input; masks are never empty. The preset
`light` hides a picture's own entry from the search while it trains: a picture that finds itself differs by nothing, and
the network would learn that whatever differs is a defect.
"""

import itertools
import logging
import math
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn import functional as F

from inlier import processes, settings
from inlier.data.batches import read_ahead
from inlier.data.simulation.foreground import LOOKED_AT, Mask, Pixels, check_rule, foreground_rule
from inlier.data.simulation.sheet import preview_sheet
from inlier.data.simulation.simulator import Simulator
from inlier.data.simulation.sources import Textures, open_textures
from inlier.detector import Detector
from inlier.errors import InlierError
from inlier.features import Backbone
from inlier.good import TOP, Images, to_8_bit, to_input
from inlier.machine import in_double
from inlier.maps import within
from inlier.metrics import pixel_metrics
from inlier.settings import setting
from inlier.training import Check, Run, batches, half_cosine, train

log = logging.getLogger("inlier")
# What rounding may add to a sum of n products is, but for a chance of about exp(-CERTAINTY^2 / 2), CERTAINTY sqrt(n)
# half-steps of float32 (Higham and Mary, "A new approach to probabilistic rounding error analysis", 2019), whatever
# the order of summation. Measured at 512 pixels: a hundredth of that, 1.5e-5 of a squared norm (tests).
CERTAINTY = 6.0
HALF_STEP = 2.0**-24
WATCHED = 8  # held-out good pictures that the looks during training are made of, at most
SHOWN = 4  # of them in the picture of a look
PREVIEWED = 4  # good pictures in a preview
NO_FOREGROUND = "foreground: none found on %d of %d images, defects were simulated anywhere on those"


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    taps: tuple[int | str, ...] = setting((2, 4, 8, 16, 32), "stem, the three compared layers, the deepest layer")
    memory: int = setting(30, "good pictures that the memory keeps", low=1, high=10_000)
    decoder: int = setting(48, "channels of the decoder's two finest levels", low=1, high=1024)
    stride: int = setting(1, "pixels between two values of the decoder's finest level", low=1, high=4)
    hide_own: bool = setting(False, "in training a picture finds no entry of itself or its group in the memory")
    frozen: bool = setting(True, "freeze the stem and the compared layers (false: as the released code)")
    standardise: bool = setting(False, "scale the compared features to mean 0, deviation 1 on the memory")
    foreground: str = setting("auto", "where defects are simulated: auto, whole, released, brighter, darker:120, ...")
    textures: str | None = setting(
        None, "folder of foreign textures, e.g. DTD; none: those of scikit-image", place=True
    )
    match_grey: bool = setting(False, "grey pictures get grey defects, so that colour does not give them away")
    slow: float = setting(0.0, "share of the simulated defects that are slow changes of brightness", high=1.0)
    tiles: tuple[int, ...] = setting((4, 8), "rows and columns of the shuffled tiles of a structural defect")
    steps: int = setting(2700, "training steps", low=1)
    batch_size: int = setting(8, "images in a step, every second one with a simulated defect", low=2)
    lr: float = setting(0.003, "highest AdamW learning rate", low=1e-9, high=1.0)
    lr_end: float = setting(1e-4, "learning rate at the start and at the end", low=0.0, high=1.0)
    warm_up: float = setting(0.1, "share of the steps in which the rate rises; then it falls as a cosine", high=0.9)
    weight_decay: float = setting(5e-4, "AdamW weight decay", low=0.0)
    l1_weight: float = setting(0.6, "weight of the L1 loss", low=0.0)
    focal_weight: float = setting(0.4, "weight of the focal loss", low=0.0)
    gamma: float = setting(4.0, "exponent of the focal loss", low=0.0)
    top: int = setting(100, "highest pixels of the map whose mean is the image score", low=1)
    look_every: int = setting(100, "steps between two looks at simulated defects of held-out good pictures", low=1)
    keep: str = setting("last", "the model: that of the last step, or of the best look", choices=("last", "best"))
    patience: int = setting(0, "stop after so many looks without a better one; 0: never", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rule(self.foreground)
        if len(self.tiles) != 2 or min(self.tiles) < 1 or max(self.tiles) > self.size:
            found = ",".join(map(str, self.tiles))
            raise InlierError(f"setting 'tiles': rows and columns, each from 1 to {self.size}, expected, got {found}")
        if self.lr_end > self.lr:
            raise InlierError(f"setting 'lr_end': {self.lr_end} is above 'lr' ({self.lr}), the highest learning rate")
        if self.l1_weight == self.focal_weight == 0:
            raise InlierError("settings 'l1_weight' and 'focal_weight': nothing is learned when both are 0")


class CoordinateAttention(nn.Module):
    """Weights for every row and every column of a map (Hou et al., CVPR 2021, arXiv 2103.02907)."""

    def __init__(self, channels: int):
        super().__init__()
        squeezed = max(8, channels // 32)
        self.squeeze = nn.Sequential(nn.Conv2d(channels, squeezed, 1), nn.BatchNorm2d(squeezed), nn.Hardswish())
        self.rows = nn.Conv2d(squeezed, channels, 1)
        self.columns = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C, h, w)"""
        means = torch.cat([x.mean(3), x.mean(2)], 2)[..., None]  # (B, C, h + w, 1)
        rows, columns = self.squeeze(means).split(x.shape[2:], 2)
        return x * self.rows(rows).sigmoid() * self.columns(columns.mT).sigmoid()


class FusionBlock(nn.Module):
    """Features beside their difference to the memory, (B, 2 C, h, w) -> (B, C, h, w)."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)
        self.attention = CoordinateAttention(2 * channels)
        self.out = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        fused: Tensor = self.out(self.conv(x) * self.attention(x))
        return fused


class MultiScaleFusion(nn.Module):
    """The paper's MSFF module with its spatial attention; `channels` of the three compared layers."""

    def __init__(self, channels: Sequence[int]):
        super().__init__()
        c1, c2, c3 = channels
        self.blocks = nn.ModuleList(FusionBlock(c) for c in channels)
        self.from3 = nn.Conv2d(c3, c2, 3, padding=1)
        self.from2 = nn.Conv2d(c2, c1, 3, padding=1)

    def forward(self, information: Sequence[Tensor]) -> list[Tensor]:
        """Concatenated information (B, 2 C, h, w) of each level -> (B, C, h, w) of each level."""
        k1, k2, k3 = (block(x) for block, x in zip(self.blocks, information))
        g2 = k2 + self.from3(enlarge(k3, k2))
        g1 = k1 + self.from2(enlarge(g2, k1))
        # the mean difference says where to look; a coarser level's answer guides the finer one
        d1, d2, m3 = (x[:, x.shape[1] // 2 :].mean(1, keepdim=True) for x in information)
        m2 = d2 * enlarge(m3, d2)
        m1 = d1 * enlarge(m2, d1)
        return [g1 * m1, g2 * m2, k3 * m3]


class Step(nn.Module):
    """One step up in the decoder: enlarge, 3x3 convolution, batch norm, ReLU."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels_out)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        return F.relu_(self.norm(self.conv(enlarge(x, size))))


class Decoder(nn.Module):
    """A U-Net's way up, from the deepest features over the fused ones to two values a pixel (good, defect)."""

    def __init__(self, channels: Sequence[int], width: int, stride: int = 1):
        super().__init__()
        c0, c1, c2, c3, c4 = channels
        self.step3, self.step2, self.step1 = Step(c4, c3), Step(2 * c3, c2), Step(2 * c2, c1)
        self.step0, self.to_image = Step(2 * c1, width), Step(2 * width, width)
        self.stem = nn.Conv2d(c0, width, 3, padding=1)
        self.last = nn.Conv2d(width, 2, 3, padding=1)
        self.stride = stride

    def forward(self, stem: Tensor, fused: Sequence[Tensor], deepest: Tensor, size: Sequence[int]) -> Tensor:
        """-> logits (B, 2, *size)"""
        f1, f2, f3 = fused
        x = torch.cat([self.step3(deepest, f3.shape[2:]), f3], 1)
        x = torch.cat([self.step2(x, f2.shape[2:]), f2], 1)
        x = torch.cat([self.step1(x, f1.shape[2:]), f1], 1)
        x = torch.cat([self.step0(x, stem.shape[2:]), self.stem(stem)], 1)
        logits: Tensor = self.last(self.to_image(x, [length // self.stride for length in size]))
        return logits if self.stride == 1 else enlarge(logits, size)


def enlarge(x: Tensor, like: Tensor | Sequence[int]) -> Tensor:
    size = like.shape[2:] if isinstance(like, Tensor) else like
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def distances(memory: Sequence[Tensor], norms: Tensor, features: Sequence[Tensor]) -> Tensor:
    """(B, n): summed over levels, the mean squared difference to every memory entry, less the query's own square.

    memory: (n, h, w, C) each; norms: (n,), the mean square of each entry, summed over levels; features: (B, C, h, w).
    """
    result = norms.expand(features[0].shape[0], -1)
    for entries, f in zip(memory, features):
        product = entries.flatten(1) @ f.permute(0, 2, 3, 1).flatten(1).T  # (n, B); as (B, n) it takes twice as long
        result = result - 2 / entries[0].numel() * product.T
    return result


def rounding(memory: Sequence[Tensor], norms: Tensor, features: Sequence[Tensor]) -> Tensor:
    """(B, n): bound of what rounding changes in `distances`, by Cauchy and Schwarz from the norms."""
    longest = max(entries[0].numel() for entries in memory)
    own = torch.stack([vector_norm(f, dim=(1, 2, 3)).square() / f[0].numel() for f in features]).sum(0)
    return 2 * CERTAINTY * HALF_STEP * math.sqrt(longest) * (norms + (own[:, None] * norms).sqrt())


def nearest(
    memory: Sequence[Tensor], norms: Tensor, features: Sequence[Tensor], hidden: Tensor | None = None
) -> Tensor:
    """(B,): the memory entry that differs least from each query. Near ties are settled in double precision.

    hidden: bool (B, n), entries that a query must not find; at least one is left to each.
    """
    distance, error = distances(memory, norms, features), rounding(memory, norms, features)
    if hidden is not None:
        distance = distance.masked_fill(hidden, torch.inf)
    best = distance.argmin(1)
    close = distance - error <= (distance + error).amin(1, keepdim=True)  # an unused place: NaN, so False
    for b in (close.sum(1) > 1).nonzero().flatten().tolist():
        candidates = close[b].nonzero().flatten()
        levels = [in_double(m[candidates]) - in_double(f[b].permute(1, 2, 0)) for m, f in zip(memory, features)]
        best[b] = candidates[sum(level.square().mean((1, 2, 3)) for level in levels).argmin()]  # type: ignore[union-attr]
    return best


def nearest_of_two(memory: Sequence[Tensor], norms: Tensor, features: Sequence[Tensor]) -> Tensor:
    """(B,): `nearest` for an exported graph, which cannot count near ties: the best two of each query are compared."""
    two = distances(memory, norms, features).topk(min(2, len(norms)), 1, largest=False).indices  # (B, 2)
    exact = [(m[two] - f.permute(0, 2, 3, 1)[:, None]).square().mean((2, 3, 4)) for m, f in zip(memory, features)]
    # an unused place, which only a memory of one entry leaves, is infinitely far away
    apart = torch.stack(exact).sum(0) + torch.where(norms[two].isinf(), torch.inf, 0.0)
    return two.gather(1, apart.argmin(1, keepdim=True))[:, 0]


class Network(nn.Module):
    """Encoder, memory, fusion and decoder."""

    norms: Tensor

    def __init__(self, s: Settings):
        super().__init__()
        if len(s.taps) != 5:
            raise InlierError(f"setting 'taps': memseg needs five layers, shallow to deep, not {len(s.taps)}")
        self.backbone = Backbone(s.backbone, s.taps)
        if stages := self.backbone.stages():  # a network of timm stays frozen whole
            stem, compared = (stages.index(self.backbone.layers[i]) + 1 for i in (0, 3))
            learning = stages[compared:] if s.frozen else stages[:stem] + stages[compared:]
            self.backbone.unfreeze(learning, batch_statistics=not s.frozen)
        channels = self.backbone.channels
        for level, (c, h, w) in enumerate(self.backbone.shapes(s.size)[1:4]):
            self.register_buffer(f"memory{level}", torch.zeros(s.memory, h, w, c))
            self.register_buffer(f"mean{level}", torch.zeros(c))
            self.register_buffer(f"std{level}", torch.ones(c))
        self.register_buffer("norms", torch.full((s.memory,), torch.inf))  # an unused place is infinitely far away
        self.fusion = MultiScaleFusion(channels[1:4])
        self.decoder = Decoder(channels, s.decoder, s.stride)
        self.top, self.standardise = s.top, s.standardise
        for part in (self.backbone, self.fusion, self.decoder):  # not the memory: its rows lie in one piece already
            part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def memory(self) -> list[Tensor]:
        return [self.get_buffer(f"memory{level}") for level in range(3)]

    @torch.no_grad()
    def remember(self, batches: Iterable[Tensor]) -> None:
        """Fill the memory with the features of good pictures (B, 3, H, W)."""
        n = 0
        for images in batches:
            for entries, f in zip(self.memory, self.backbone.eval()(images)[1:4]):
                entries[n : n + len(images)] = f.permute(0, 2, 3, 1)
            n += len(images)
        levels = [entries[:n] for entries in self.memory]
        if self.standardise:
            for level, entries in enumerate(levels):
                std, mean = torch.std_mean(entries, (0, 1, 2))
                self.get_buffer(f"mean{level}").copy_(mean)
                self.get_buffer(f"std{level}").copy_(std.clamp(min=1e-6))
                entries.sub_(mean).div_(std.clamp(min=1e-6))
        self.norms.fill_(torch.inf)
        self.norms[:n] = torch.stack([entries.square().mean((1, 2, 3)) for entries in levels]).sum(0)

    def encode(self, images: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """Features of the stem, the three compared layers at the memory's scale, and the deepest layer."""
        stem, *compared, deepest = self.backbone(images)
        for level, f in enumerate(compared):
            mean, std = (self.get_buffer(f"{name}{level}")[:, None, None] for name in ("mean", "std"))
            compared[level] = (f - mean) / std
        return stem, compared, deepest

    def logits(self, images: Tensor, hidden: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, 2, H, W): good, defect. hidden: see `nearest`."""
        stem, compared, deepest = self.encode(images)
        with torch.no_grad():
            if torch.compiler.is_exporting():
                best = nearest_of_two(self.memory, self.norms, compared)
            else:
                best = nearest(self.memory, self.norms, compared, hidden)
        pairs = ((f, entries[best].permute(0, 3, 1, 2)) for f, entries in zip(compared, self.memory))
        information = [torch.cat([f, (m - f).square()], 1) for f, m in pairs]
        return self.decoder(stem, self.fusion(information), deepest, images.shape[2:])  # type: ignore[no-any-return]

    def forward(self, images: Tensor, inspected: Tensor | None = None) -> tuple[Tensor, Tensor]:
        good, defect = self.logits(images).unbind(1)
        maps = (defect - good).sigmoid()  # softmax of two, which ONNX Runtime takes ten times as long for
        highest = within(maps, inspected).flatten(1).topk(min(self.top, maps[0].numel())).values
        counted = highest.isfinite()  # a small region of interest has fewer pixels
        return highest.masked_fill(~counted, 0).sum(1) / counted.sum(1), maps


def losses(logits: Tensor, masks: Tensor, gamma: float = 4.0) -> tuple[Tensor, Tensor]:
    """(L1, focal) of logits (B, 2, H, W) and masks (B, H, W) of 0 and 1; section 3.4."""
    p = logits.softmax(1)
    truth = torch.stack([1 - masks, masks], 1).clamp(1e-5, 1 - 1e-5)
    focal = -(truth * (1 - p) ** gamma * (p + 1e-5).log()).sum(1).mean()
    return (p[:, 1] - masks).abs().mean(), focal


def learning_rate(step: int, s: Settings) -> float:
    """Rises in a straight line from `lr_end` to `lr`, then falls back as half a cosine."""
    rising = int(s.warm_up * s.steps)
    if step < rising:
        return s.lr_end + (s.lr - s.lr_end) * step / rising
    return s.lr_end + (s.lr - s.lr_end) * half_cosine(step - rising, s.steps - rising)


class MemSeg(Detector[Settings, Network]):
    """A segmentation network trained on simulated defects, guided by the difference to remembered good parts."""

    name = "memseg"
    light_seconds = 400.0
    previews = True
    presets = {
        # rate, steps and batch are the paper's; the optimiser and its schedule we know from the unofficial code only
        "paper": Settings(backbone="resnet18", size=256, shorter_side=288, lr=0.04),
        "paper-code": Settings(
            backbone="resnet18",
            size=256,
            shorter_side=288,
            filter="bicubic",
            steps=5000,
            tiles=(8, 8),
            foreground="released",
        ),
        # features of EfficientNet are of another size than ResNet's: squared and multiplied they would drown the rest
        "light": Settings(
            memory=100,
            hide_own=True,
            decoder=16,
            stride=2,
            steps=1200,
            batch_size=4,  # as many pictures in half as many steps of 8 find less
            lr=0.01,
            standardise=True,
            match_grey=True,
        ),
    }

    def build(self, s: Settings) -> Network:
        return Network(s)

    def complete(self) -> Settings:
        open_textures(self.settings.textures)  # a wrong folder is known before a picture is read
        return self.settings

    def preview(
        self, category: str, pictures: Sequence[Pixels], inspected: Sequence[Mask], names: Sequence[str]
    ) -> tuple[Image.Image, str]:
        s = self.settings
        simulator = make_simulator(s, category, pictures[:LOOKED_AT], open_textures(s.textures), self.seed)
        pairs = list(zip(pictures, inspected, strict=True))
        if without := sum(not (simulator.foreground(picture) & mask).any() for picture, mask in pairs):
            log.warning(f"{category}: {NO_FOREGROUND}", without, len(pictures))
        sheet = preview_sheet(pictures[:PREVIEWED], simulator, names[:PREVIEWED], inspected[:PREVIEWED])
        return sheet, simulator.describe()

    def learn(self, network: Network, images: Images, run: Run) -> None:
        s = self.settings
        pixels, regions = images.cache(run)
        shuffled = torch.randperm(len(images), generator=run.generator()).tolist()
        n_watched = min(WATCHED, len(images) // 10)
        watched, fitted = shuffled[:n_watched], shuffled[n_watched:]
        remembered = take_turns(fitted, images.categories)[: s.memory]
        if len(remembered) < s.memory:
            log.warning("memory: %d places, filled with all %d good pictures", s.memory, len(remembered))
        network.remember(to_input(pixels[part]).to(run.device) for part in torch.tensor(remembered).split(8))

        simulators = {}
        textures = open_textures(s.textures)
        for category in sorted(set(images.categories)):
            members = [i for i, of in enumerate(images.categories) if of == category][:LOOKED_AT]
            looked_at = [to_8_bit(pixels[i]).numpy() for i in members]
            simulators[category] = make_simulator(s, category, looked_at, textures, run.seed)
            log.info("%s: %s", category, simulators[category].describe())
        without_foreground = torch.zeros(len(images))
        part, weight = processes.share(s.batch_size, "batch_size")

        def simulate(index: int, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
            picture = to_8_bit(pixels[index])
            inspected = None if regions is None else regions[index].numpy()
            made = simulators[images.categories[index]](picture.numpy(), key, inspected)
            if made.whole_image:
                without_foreground[index] = 1
            # 16-bit pictures keep their fine steps outside of the defect: coarse ones would give it away
            change = torch.from_numpy(made.image).int() - picture.int()
            top = TOP[pixels.dtype]
            changed = (pixels[index].int() + top // 255 * change).clamp(0, top).to(pixels.dtype)
            return changed, torch.from_numpy(made.mask)

        # (places of the memory, used or not): whose group each entry is of
        groups = torch.tensor(images.groups)
        entries = torch.full((s.memory,), -1)
        entries[: len(remembered)] = groups[remembered]
        hides = s.hide_own and len(entries[: len(remembered)].unique()) > 1
        if s.hide_own and not hides:
            log.warning("memory: holds pictures of one part or copies alone, so each finds itself while it trains")

        seen_in = batches(len(fitted), s.batch_size, run)

        def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
            """Good images and, every second one, simulated defects: (B, H, W, 3), masks (B, H, W), groups (B,).

            B: as many as this process does of them.
            """
            indices = [fitted[i] for i in seen_in(step)[part]]
            pairs = []
            for place, index in zip(range(s.batch_size)[part], indices):
                good = pixels[index], torch.zeros(s.size, s.size, dtype=torch.bool)
                pairs.append(simulate(index, (step, place)) if place % 2 else good)
            pictures, masks = zip(*pairs)
            return torch.stack(pictures), torch.stack(masks), groups[indices]

        stream: Generator[tuple[Tensor, Tensor, Tensor]] | None = None

        def loss(model: nn.Module, step: int) -> Tensor:
            nonlocal stream
            stream = stream or read_ahead(batch, range(step, s.steps), run.workers, run.workers)
            pictures, masks, own = next(stream)
            hidden = (own[:, None] == entries).to(run.device) if hides else None
            logits = network.logits(to_input(pictures).to(run.device), hidden)
            l1, focal = losses(logits, masks.to(run.device).float(), s.gamma)
            return weight * (s.l1_weight * l1 + s.focal_weight * focal)

        # the same defects at every look, made with the key of a step that no training reaches
        seen = [simulate(index, (2**31, place)) for place, index in enumerate(watched or fitted[:WATCHED])]

        def look(model: nn.Module, step: int) -> float:
            """Average precision of the pixels on simulated defects; their picture goes to the run folder."""
            with torch.inference_mode():
                maps = torch.cat([model(to_input(picture[None]).to(run.device))[1].cpu() for picture, _ in seen])
            run.show(draw_look(seen, maps), "look", step)
            value = pixel_metrics(maps.numpy(), np.stack([mask.numpy() for _, mask in seen])).ap
            log.info("step %d: %.1f %% average precision on simulated defects", step, 100 * (value or 0))
            return value or 0.0

        learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(learning, lr=s.lr, weight_decay=s.weight_decay)
        try:
            train(
                network,
                [optimizer],
                loss,
                s.steps,
                run,
                schedule=lambda step: learning_rate(step, s) / s.lr,
                check=Check(look, s.look_every, s.keep, s.patience),
            )
        finally:
            if stream:
                stream.close()
        if n_without := int(processes.average(without_foreground).count_nonzero()):
            log.warning(NO_FOREGROUND, n_without, len(images))


def take_turns(indices: Sequence[int], categories: Sequence[str]) -> list[int]:
    """The same indices, categories in turn, so that the first ones hold some of each."""
    queues: dict[str, list[int]] = {}
    for i in indices:
        queues.setdefault(categories[i], []).append(i)
    return [i for row in itertools.zip_longest(*queues.values()) for i in row if i is not None]


def make_simulator(
    s: Settings, category: str, pictures: Sequence[Pixels], textures: Textures | None, seed: int
) -> Simulator:
    """With a foreground rule that fits these good pictures of the category."""
    rule = foreground_rule(s.foreground, category, pictures)
    return Simulator(seed, rule, textures, grid=(s.tiles[0], s.tiles[1]), match_grey=s.match_grey, slow_share=s.slow)


def draw_look(seen: Sequence[tuple[Tensor, Tensor]], maps: Tensor) -> Image.Image:
    """A row for each simulated defect: picture, mask, map (black 0 to white 1)."""
    rows = []
    for (picture, mask), map_ in list(zip(seen, maps))[:SHOWN]:
        grey = torch.cat([mask.float(), map_], 1).mul(255).byte()[..., None].expand(-1, -1, 3)
        rows.append(torch.cat([to_8_bit(picture), grey], 1))
    return Image.fromarray(torch.cat(rows).numpy())
