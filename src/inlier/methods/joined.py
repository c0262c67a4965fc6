"""Joined: two methods judge the same picture, and how unusual each finds it becomes one score.

Stouffer's way of joining two tests (Stouffer et al., "The American Soldier", volume 1, 1949, page 45, note 15): a
p-value becomes the normal deviate z above which lies such a share, and the z of both are added. z of a method is here
its score less the mean of good parts, over their deviation, as if these scores were normal; both numbers come from good
pictures that neither method was fitted on, a fifth of what is fitted on. The promise does not rest on that: the joined
score is calibrated as any other, on pictures that had no part in all this.

Both read one backbone, which a picture passes through once: a second method that looks at the same features costs
little. The map is that of the methods, each in its own z, added like the scores. DifferNet, which judges pictures as a
whole, adds nothing to it.

What can be joined: methods whose backbone stays as it came. MemSeg teaches layers of its own, and DiAD repaints.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from inlier import methods, settings
from inlier.calibration import split
from inlier.detector import Detector
from inlier.errors import InlierError
from inlier.features import Backbone
from inlier.good import Images, groups_and_categories
from inlier.progress import progress
from inlier.settings import as_text, setting
from inlier.training import Run

JOINABLE = ("padim", "simplenet", "differnet")
BATCH = 8  # pictures per step, where good ones are scored
SHARED = tuple(f.name for f in fields(settings.Settings) if f.name != "taps")  # settings that both methods have alike


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    taps: tuple[int | str, ...] = setting((8, 16, 32), "layers that the two methods read, filled in from theirs")
    first: str = setting(
        "padim", "a method that gives maps, and what differs from its preset light: NAME KEY=VALUE ..."
    )
    second: str = setting("simplenet", "the other method, likewise")


class SharedBackbone(Backbone):
    """A backbone that several methods read. What it made of a picture is kept while they all look at that one."""

    kept: tuple[Tensor, list[Tensor]] | None = None

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.kept[1] if self.kept and self.kept[0] is images else super().forward(images)

    @contextmanager
    def keeping(self, images: Tensor) -> Iterator[None]:
        self.kept = images, super().forward(images)
        try:
            yield
        finally:
            self.kept = None


class Part(nn.Module):
    """A method's own layers of the shared backbone, in place of its backbone."""

    def __init__(self, shared: SharedBackbone, own: Backbone):
        super().__init__()
        self.shared = (shared,)  # not as a module of its own: its weights are the joined network's
        self.places = [shared.layers.index(layer) for layer in own.layers]

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.shared[0](images)
        return [maps[place] for place in self.places]


class Network(nn.Module):
    """Both networks on one backbone. mean and deviation (2,): of their scores of good parts."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, s: Settings):
        super().__init__()
        detectors = parts(s)
        self.networks = nn.ModuleList(detector.build(detector.settings) for detector in detectors)
        self.backbone = SharedBackbone(s.backbone, layers(self.networks))
        for network in self.networks:
            network.backbone = Part(self.backbone, network.backbone)  # type: ignore[arg-type]
        self.judges_whole = [detector.maps_cost_extra for detector in detectors]  # its map is no place
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("deviation", torch.ones(2))

    def judged(self, images: Tensor, inspected: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """(B, 3, H, W) -> scores (2, B), and maps (B, H, W) of the methods that say where"""
        scores, maps = [], []
        with self.backbone.keeping(images):
            for network, judges_whole in zip(self.networks, self.judges_whole, strict=True):
                if judges_whole:
                    scores.append(network.scores(images))  # type: ignore[operator]
                else:
                    found = network(images, inspected)
                    scores.append(found[0])
                    maps.append(found[1])
        return torch.stack(scores), maps

    def forward(self, images: Tensor, inspected: Tensor | None = None) -> tuple[Tensor, Tensor]:
        scores, maps = self.judged(images, inspected)
        z = (scores - self.mean[:, None]) / self.deviation[:, None]
        located = [k for k, judges_whole in enumerate(self.judges_whole) if not judges_whole]
        of_maps = [(m - self.mean[k]) / self.deviation[k] for k, m in zip(located, maps, strict=True)]
        return z.sum(0) / math.sqrt(len(z)), torch.stack(of_maps).sum(0) / math.sqrt(len(of_maps))


def layers(networks: nn.ModuleList) -> tuple[str, ...]:
    """Names of all layers that the networks read, in the order of the first who reads them."""
    return tuple(dict.fromkeys(layer for network in networks for layer in network.backbone.layers))  # type: ignore[union-attr]


def parts(s: Settings) -> list[Detector[Any, Any]]:
    """The two methods, not fitted. Raises InlierError for what cannot be joined."""
    found = [_part(s, key, getattr(s, key)) for key in ("first", "second")]
    if found[0].maps_cost_extra:
        raise InlierError(f"setting 'first': {found[0].name} judges whole pictures; name it as 'second'")
    if found[0].settings == found[1].settings:
        raise InlierError("settings 'first' and 'second': two of the same know no more than one")
    return found


def _part(s: Settings, key: str, text: str) -> Detector[Any, Any]:
    name, *given = text.split() or [""]
    if name not in JOINABLE:
        raise InlierError(f"setting '{key}': '{name}' cannot be joined, these can: {', '.join(JOINABLE)}")
    kind = methods.get(name)
    try:
        own = kind.presets["light"].parse(given)
        if both := sorted(set(own) & set(SHARED)):
            raise InlierError(f"{', '.join(both)} must be the same for both: set it beside, not in '{text}'")
        return kind(**{name: getattr(s, name) for name in SHARED}, **own)
    except InlierError as error:
        raise InlierError(f"setting '{key}': {error}") from error


def _text(detector: Detector[Any, Any], s: settings.Settings) -> str:
    """A method as `parts` reads it, with settings that it may have found while it learned."""
    light = detector.presets["light"]
    changed = [f.name for f in fields(s) if f.name not in SHARED and getattr(s, f.name) != getattr(light, f.name)]
    return " ".join([detector.name, *(f"{name}={as_text(getattr(s, name))}" for name in changed)])


def pair(one: Detector[Any, Any], other: Detector[Any, Any]) -> "Joined | None":
    """The two joined, not fitted; None where they cannot be."""
    shared = [{name: getattr(detector.settings, name) for name in SHARED} for detector in (one, other)]
    if one.name == other.name or shared[0] != shared[1] or not {one.name, other.name} <= set(JOINABLE):
        return None
    first, second = sorted((one, other), key=lambda detector: detector.maps_cost_extra)
    texts = {"first": _text(first, first.settings), "second": _text(second, second.settings)}
    return Joined(seed=one.seed, device=one.device, weights=one.weights, **shared[0], **texts)


class Joined(Detector[Settings, Network]):
    """Two methods on one backbone, whose scores are joined to one."""

    name = "joined"
    light_seconds = 130.0
    candidates = ()  # `auto` joins what it has found to be best
    told = ("first", "second")
    presets = {"light": Settings(taps=(8, 16, 32, "blocks.5"))}

    def build(self, s: Settings) -> Network:
        return Network(s)

    def complete(self) -> Settings:
        found = self._seeded(self.settings).backbone.layers
        return self.settings.replace(taps=tuple(found))

    def export_graph(self) -> nn.Module:
        return self.network_

    def memory_needed(self, s: Settings) -> int:
        return sum(detector.memory_needed(detector.settings) for detector in parts(s))

    def learn(self, network: Network, images: Images, run: Run) -> None:
        fitted_on, held_out = split(*groups_and_categories(images), self.seed)
        known = {}
        for key, detector, own in zip(("first", "second"), parts(self.settings_), network.networks, strict=True):
            detector.seed, detector.settings_ = self.seed, detector.settings
            detector.learn(own, images.subset(fitted_on), run.stage(key))
            known[key] = _text(detector, detector.settings_)
        self.settings_ = self.settings_.replace(**known)
        others = images.subset(held_out)
        scores = []
        with progress("comparing the two", len(others)) as show, torch.inference_mode():
            for batch, inspected in others.batches_and_regions(BATCH, run.device):
                scores.append(network.judged(batch, inspected)[0])
                show(sum(part.shape[1] for part in scores))
        of_good = torch.cat(scores, 1).double()
        network.mean.copy_(of_good.mean(1))
        network.deviation.copy_(of_good.std(1, correction=0).clamp(min=1e-12))

    def pack(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._each(state, "pack")

    def unpack(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._each(state, "unpack")

    def _each(self, state: dict[str, Tensor], verb: str) -> dict[str, Tensor]:
        """What a method does with its own part of the state."""
        whole = {}
        for k, detector in enumerate(parts(self.settings_)):
            prefix = f"networks.{k}."
            own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
            whole |= {prefix + name: tensor for name, tensor in getattr(detector, verb)(own).items()}
        return {name: tensor for name, tensor in state.items() if not name.startswith("networks.")} | whole
