"""Joined: two methods judge the same picture, and how unusual each finds it becomes one score.

Stouffer's way of joining two tests (Stouffer et al., "The American Soldier", volume 1, 1949, page 45, note 15): a
p-value becomes the normal deviate z above which lies such a share, and the z of both are added. z of a method is here
its score less the mean of good parts, over their deviation, as if these scores were normal. Both numbers come from good
pictures, a fifth of them or 20, which a first fit of both has not seen; the second fit is on all. The promise does not
rest on that: the joined score is calibrated as any other, on pictures that had no part in all this.

Both read one backbone, and where they see pictures of one size, these pass it once: a second method that looks at the
same features costs little. The map is that of the methods, each in its own z, added like the scores. DifferNet, which
judges pictures as a whole, adds nothing to it.

What can be joined: methods whose backbone stays as it came. MemSeg teaches layers of its own, and DiAD repaints.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from inlier import methods, settings
from inlier.calibration import Calibration, split
from inlier.detector import Detector, geometry_of
from inlier.errors import InlierError
from inlier.features import Backbone
from inlier.good import Images, groups_and_categories
from inlier.progress import progress
from inlier.settings import as_text, setting
from inlier.training import Run

JOINABLE = ("padim", "simplenet", "differnet")
BATCH = 8  # pictures per step, where good ones are scored
# settings that both methods have alike
SHARED = tuple(f.name for f in fields(settings.Settings) if f.name not in ("taps", "size"))


@dataclass(frozen=True, kw_only=True)
class Settings(settings.Settings):
    taps: tuple[int | str, ...] = setting((8, 16, 32), "layers that the two methods read, filled in from theirs")
    first: str = setting(
        "padim", "a method that gives maps, and what differs from its preset light: NAME KEY=VALUE ..."
    )
    second: str = setting("simplenet", "the other method, likewise; with size=N either sees pictures of that size")
    mean: tuple[float, ...] | None = setting(None, "of the two scores of good parts; none: a first fit measures it")
    deviation: tuple[float, ...] | None = setting(None, "of the two scores of good parts, likewise", low=1e-12)

    def __post_init__(self) -> None:
        super().__post_init__()
        units = [None if values is None else len(values) for values in (self.mean, self.deviation)]
        if units not in ([None, None], [2, 2]):
            raise InlierError("settings 'mean' and 'deviation': give both, two numbers each, or neither")


class SharedBackbone(Backbone):
    """A backbone that several methods read. What it made of a picture is kept while they all look at that one."""

    kept: tuple[Tensor, list[Tensor]] | None = None

    def forward(self, images: Tensor) -> list[Tensor]:
        kept = self.kept  # read once: another thread may look at another picture meanwhile
        return kept[1] if kept and kept[0] is images else super().forward(images)

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


class Resize(nn.Module):
    """(..., n, n) -> (..., m, m): bilinear, smaller ones as averages, so that nothing between the pixels is lost."""

    matrix: Tensor

    def __init__(self, n: int, m: int):
        super().__init__()
        rows = F.interpolate(torch.eye(n)[None, None], (m, n), mode="bilinear", antialias=True)[0, 0]
        self.register_buffer("matrix", rows, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.matrix @ x @ self.matrix.T


class Resized(Images):
    """The same pictures at a method's own size."""

    def __init__(self, images: Images, to_own: nn.Module):
        super().__init__(images.pictures, images.workers, images.deadline)
        self.to_own = to_own

    def subset(self, indices: Sequence[int]) -> Images:
        return Resized(super().subset(indices), self.to_own)

    def batches_and_regions(self, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor | None]]:
        for images, inspected in super().batches_and_regions(batch_size, device):
            yield self.to_own(images), None if inspected is None else self.to_own(inspected.float()) > 0.5


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
        own = [detector.settings.size for detector in detectors]
        self.to_own = nn.ModuleList(nn.Identity() if size == s.size else Resize(s.size, size) for size in own)
        self.to_whole = nn.ModuleList(nn.Identity() if size == s.size else Resize(size, s.size) for size in own)
        self.judges_whole = [detector.maps_cost_extra for detector in detectors]  # its map is no place
        self.in_graph = False
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("deviation", torch.ones(2))

    def judged(self, images: Tensor, inspected: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """(B, 3, H, W) -> scores (2, B), and of the methods that say where the maps (B, H, W) in deviations"""
        scores, maps = [], []
        with self.backbone.keeping(images) if self.is_shared else nullcontext():
            for k, network in enumerate(self.networks):
                own = self.to_own[k](images)
                if self.judges_whole[k]:
                    judge = network.scores_together if self.in_graph else network.scores
                    scores.append(judge(own))  # type: ignore[operator]
                    continue
                score, map_ = network(own, None if inspected is None else self.to_own[k](inspected.float()) > 0.5)
                scores.append(score)
                maps.append(self.to_whole[k]((map_ - self.mean[k]) / self.deviation[k]))
        return torch.stack(scores), maps

    @property
    def is_shared(self) -> bool:
        """Whether one pass of the backbone serves both."""
        return all(isinstance(resize, nn.Identity) for resize in self.to_own)

    def forward(self, images: Tensor, inspected: Tensor | None = None) -> tuple[Tensor, Tensor]:
        scores, maps = self.judged(images, inspected)
        z = (scores - self.mean[:, None]) / self.deviation[:, None]
        return z.sum(0) / math.sqrt(len(z)), torch.stack(maps).sum(0) / math.sqrt(len(maps))


class Graph(nn.Module):
    """The network for an exported graph, in which a method that takes one picture after the other takes all at once."""

    at_once = 4  # pictures, of which the other method may look at several views

    def __init__(self, network: Network):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, inspected: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.network.in_graph = True
        try:
            return self.network(images, inspected)  # type: ignore[no-any-return]
        finally:
            self.network.in_graph = False


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
        own.setdefault("size", s.size)
        detector = kind(**{name: getattr(s, name) for name in SHARED}, **own)
        if detector.settings.size > s.size:
            raise InlierError(f"'{text}' would see more pixels than there are: raise 'size' of both, {s.size}")
        return detector
    except InlierError as error:
        raise InlierError(f"setting '{key}': {error}") from error


def _text(detector: Detector[Any, Any], s: settings.Settings, size: int) -> str:
    """A method as `parts` reads it beside this size, with settings that it may have found while it learned."""
    alike = detector.presets["light"].replace(size=size)
    changed = [f.name for f in fields(s) if f.name not in SHARED and getattr(s, f.name) != getattr(alike, f.name)]
    return " ".join([detector.name, *(f"{name}={as_text(getattr(s, name))}" for name in changed)])


def pair(one: Detector[Any, Any], other: Detector[Any, Any]) -> "Joined | None":
    """The two joined, not fitted; None where they cannot be."""
    shared = [{name: getattr(detector.settings, name) for name in SHARED} for detector in (one, other)]
    if one.name == other.name or shared[0] != shared[1] or not {one.name, other.name} <= set(JOINABLE):
        return None
    first, second = in_order(one, other)
    size = max(one.settings.size, other.settings.size)
    texts = {"first": _text(first, first.settings, size), "second": _text(second, second.settings, size)}
    return Joined(seed=one.seed, device=one.device, weights=one.weights, size=size, **shared[0], **texts)


def in_order(one: Detector[Any, Any], other: Detector[Any, Any]) -> list[Detector[Any, Any]]:
    """One that gives maps first."""
    return sorted((one, other), key=lambda detector: detector.maps_cost_extra)


def assembled(made: "Joined", one: Detector[Any, Any], other: Detector[Any, Any]) -> "Joined":
    """What `pair` made of the two, fitted: with what both have learned from the same pictures, not calibrated.

    made: with `mean` and `deviation`.
    """
    both = in_order(one, other)
    texts = (_text(detector, detector.settings_, made.settings.size) for detector in both)
    made.settings_ = made.complete().replace(**dict(zip(("first", "second"), texts)))
    network = made._seeded(made.settings_)
    state = {}
    for k, detector in enumerate(both):
        for name, tensor in detector.network_.state_dict().items():
            state[name if name.startswith("backbone.") else f"networks.{k}.{name}"] = tensor
    state |= {name: torch.tensor(getattr(made.settings, name)) for name in ("mean", "deviation")}
    network.load_state_dict(state)
    made.runtime_ = made._runtime(network, one.runtime_.device)  # type: ignore[attr-defined]
    made.geometry_, made.calibration_ = geometry_of(made.settings_), Calibration("none")
    for name in ("regions_", "categories_", "fingerprint_", "cues_", "marks_", "weights_"):
        setattr(made, name, getattr(one, name))
    return made


class Joined(Detector[Settings, Network]):
    """Two methods on one backbone, whose scores are joined to one."""

    name = "joined"
    light_seconds = 260.0
    candidates = ()  # `auto` joins what it has found to be best
    presets = {"light": Settings(taps=(8, 16, 32, "blocks.5"))}

    def build(self, s: Settings) -> Network:
        return Network(s)

    def complete(self) -> Settings:
        found = tuple(self._seeded(self.settings).backbone.layers)
        if self.settings.taps not in (found, self.presets["light"].taps):
            raise InlierError("setting 'taps': each method reads its own; name them there: first='padim taps=8,16'")
        return self.settings.replace(taps=found)

    def export_graph(self) -> nn.Module:
        return Graph(self.network_)

    def memory_needed(self, s: Settings) -> int:
        return sum(detector.memory_needed(detector.settings) for detector in parts(s))

    def learn(self, network: Network, images: Images, run: Run) -> None:
        s = self.settings
        if s.mean is None or s.deviation is None:
            self._learn_deviates(network, images, run.stage("trial"))
        else:
            network.mean.copy_(torch.tensor(s.mean))
            network.deviation.copy_(torch.tensor(s.deviation))
        self._learn_both(network, images, run)

    def _learn_deviates(self, network: Network, images: Images, run: Run) -> None:
        """Mean and deviation of the scores of good pictures, by a fit that has not seen them."""
        fitted_on, held_out = split(*groups_and_categories(images), self.seed)
        trial = self._network(run.device, network.backbone.state_dict())
        self._learn_both(trial, images.subset(fitted_on), replace(run, to_come=1))
        others = images.subset(held_out)
        scores = []
        with progress("comparing the two", len(others)) as show, torch.inference_mode():
            for batch, inspected in others.batches_and_regions(BATCH, run.device):
                scores.append(trial.judged(batch, inspected)[0])
                show(sum(part.shape[1] for part in scores))
        of_good = torch.cat(scores, 1).double()
        network.mean.copy_(of_good.mean(1))
        network.deviation.copy_(of_good.std(1, correction=0).clamp(min=1e-12))

    def _learn_both(self, network: Network, images: Images, run: Run) -> None:
        known = {}
        for k, (key, detector) in enumerate(zip(("first", "second"), parts(self.settings), strict=True)):
            detector.seed, detector.settings_ = self.seed, detector.settings
            detector.learn(network.networks[k], Resized(images, network.to_own[k]), run.stage(key))
            known[key] = _text(detector, detector.settings_, self.settings.size)
        self.settings_ = self.settings_.replace(**known)

    def pack(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._each(state, "pack")

    def unpack(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._each(state, "unpack")

    def _each(self, state: dict[str, Tensor], verb: str) -> dict[str, Tensor]:
        """What a method does with its own part of the state."""
        whole: dict[str, Tensor] = {}
        for k, detector in enumerate(parts(self.settings_)):
            prefix = f"networks.{k}."
            own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
            whole |= {prefix + name: tensor for name, tensor in getattr(detector, verb)(own).items()}
        return {name: tensor for name, tensor in state.items() if not name.startswith("networks.")} | whole
