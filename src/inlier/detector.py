"""The contract that every method keeps: a detector is fitted on good parts, then it is an inspector that can be saved.

A method is one file in `methods/` with a `Settings` dataclass, a network (see runtime/torch.py) and a `Detector`
subclass that gives `presets`, `build` and `learn`, and declares what its network can do. Data, calibration and files
are here, once; judging is the inspector's.
"""

import copy
import hashlib
import importlib.util
import inspect
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inlier import artifact, calibration
from inlier.calibration import Calibration
from inlier.data.check import Report, check, grouped
from inlier.data.datasets import open_dataset
from inlier.data.datasets.sample import Sample, evenly
from inlier.data.geometry import Geometry
from inlier.data.images import encoded, source_name
from inlier.data.region import open_regions
from inlier.errors import ArtifactError, InlierError
from inlier.features import Backbone
from inlier.features.weights import Weights
from inlier.good import Good, Images, groups_and_categories
from inlier.inspection.inspector import MARK, Inspector
from inlier.lock import alone
from inlier.machine import find_device, free_memory, own_torch_state
from inlier.names import shown
from inlier.progress import Pace, progress
from inlier.runtime.torch import Network, TorchRuntime
from inlier.settings import Settings
from inlier.training import Run
from inlier.version import __version__

if TYPE_CHECKING:
    from inlier.runtime.parity import Parity

log = logging.getLogger("inlier")
GIB = 2**30
ODDEST = 3  # good pictures that are named after a fit: an odd one among them raises the threshold
S = TypeVar("S", bound=Settings)
N = TypeVar("N", bound=Network)


class Detector(Inspector, Generic[S, N]):
    """Base of all methods. The constructor stores, `fit` learns, fitted attributes end in an underscore.

    preset: "paper" (the published recipe) or "light" (two CPU cores, minutes, no download), or what `presets` lists.
    seed: decides everything random. device: "auto", "cpu", "cuda", "cuda:1", "mps". weights: file with the backbone's
    weights (default: looked for, see features.weights). Further keywords change single settings of the preset.
    """

    name: ClassVar[str]
    presets: ClassVar[Mapping[str, Any]]  # name -> the method's Settings
    default_calibration: ClassVar[str] = "split"
    trains: ClassVar[bool] = True  # in steps, which can be logged
    # maps are gradients, which change by leaps where rounding moves a unit over a kink
    maps_jump: ClassVar[bool] = False
    previews: ClassVar[bool] = False  # `preview` draws what it makes of good pictures
    candidates: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)  # settings beside `light` that are worth a try
    light_seconds: ClassVar[float] = 60.0  # about what `light` takes for 200 pictures on two cores
    memory_advice: ClassVar[str] = "use preset 'light', a smaller 'size', or deeper 'taps'"

    settings: S
    settings_: S  # what the network was built from
    kept_: Sequence[tuple[str, bytes]] = ()  # category and file of good pictures that the model carries
    choice_: Any  # what it was chosen from, and why, where `inlier.auto` or `inlier.tune` did

    def __init_subclass__(cls, **options: Any) -> None:
        """`help` shows every setting, with its meaning."""
        super().__init_subclass__(**options)
        if "presets" in vars(cls):
            kind = type(next(iter(cls.presets.values())))
            cls.__doc__ = f"{cls.__doc__}\n\n{Detector.__doc__}\n\nSettings, and their defaults without a preset:\n\n"
            cls.__doc__ += kind.describe()
            own = [p for p in inspect.signature(Detector.__init__).parameters.values() if p.name != "settings"]
            given = [inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=...) for f in fields(kind)]
            cls.__signature__ = inspect.Signature([*own[1:], *given])  # type: ignore[attr-defined]

    def __init__(
        self,
        preset: str = "light",
        *,
        seed: int = 0,
        device: str = "auto",
        weights: str | os.PathLike[str] | None = None,
        **settings: Any,
    ):
        if preset not in self.presets:
            raise InlierError(f"{self.name} has no preset '{preset}'. Known: {', '.join(self.presets)}")
        if not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**31:
            raise InlierError(f"seed: {seed!r} is not a whole number from 0 to {2**31 - 1}")
        self.preset, self.seed, self.device, self.weights = preset, int(seed), device, weights
        self.settings = self.presets[preset].replace(**settings)
        geometry_of(self.settings)  # numbers that do not fit together are told before any file is looked for

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """All that the constructor takes, as scikit-learn's estimators tell it. deep: changes nothing."""
        own = {name: getattr(self, name) for name in ("preset", "seed", "device", "weights")}
        return own | {f.name: getattr(self.settings, f.name) for f in fields(self.settings)}

    def set_params(self, **params: Any) -> Self:
        """Change what the constructor took; a new preset brings its settings. What was fitted is forgotten."""
        kept = {} if "preset" in params else self.get_params()
        own = {name: getattr(self, name) for name in ("preset", "seed", "device", "weights")}
        changed = type(self)(**(own | kept | params))
        vars(self).clear()
        vars(self).update(vars(changed))
        return self

    def __repr__(self) -> str:
        own = [f"preset={self.preset!r}"]
        own += [f"{k}={v!r}" for k, v, d in (("seed", self.seed, 0), ("device", self.device, "auto")) if v != d]
        own += [f"weights={os.fspath(self.weights)!r}"] if self.weights else []
        preset = self.presets.get(self.preset)  # a model file may name one that has gone
        values = {f.name: getattr(self.settings, f.name) for f in fields(self.settings)}
        changed = [f"{name}={value!r}" for name, value in values.items() if value != getattr(preset, name, None)]
        return f"{type(self).__name__}({', '.join([*own, *changed])})"

    # -- what a method gives ------------------------------------------------------------------------------------------

    def build(self, s: S) -> N:
        """The unfitted network, on the CPU. Shapes depend on the settings alone."""
        raise NotImplementedError  # pragma: no cover

    def build_backbone(self, s: S) -> Backbone:
        """The backbone of `build` alone, where that is cheaper."""
        return self._seeded(s).backbone

    def learn(self, network: N, images: Images, run: Run) -> None:
        """Fit `network` on good pictures."""
        raise NotImplementedError  # pragma: no cover

    def complete(self) -> S:
        """The settings, with what only files can tell filled in. Raises InlierError for what cannot be used."""
        return self.settings

    def memory_needed(self, s: S) -> int:
        """Bytes that fitting will take at its peak, for the check before it starts."""
        return 0

    def export_graph(self) -> nn.Module:
        """What is exported: `forward(images, inspected=None)` like the network's; of one that repaints like `inspect`.

        A method whose network no graph can hold gives another module that does the same. One that takes `noise`, normal
        numbers of the shape `noise_shape`, is given those of `runtime.graph.noise_of`; `at_once` bounds the pictures
        that a pass may hold.
        """
        return self.network_  # type: ignore[return-value]

    def preview(
        self,
        category: str,
        pictures: Sequence[NDArray[np.uint8]],
        inspected: Sequence[NDArray[np.bool_]],
        names: Sequence[str],
    ) -> tuple[Any, str]:
        """(drawing, description) of what training makes of good pictures (H, W, 3) of a category, where it previews.

        inspected: (H, W) of each picture, what shows the region of interest. names: of the files they come from.
        """
        raise NotImplementedError  # pragma: no cover

    def held_out_scores(
        self, network: N, images: Images, run: Run, backbone_weights: dict[str, Tensor]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """(scores, highest map values) of each picture, scored by a model fitted without its group (5 folds).

        network: fitted on all of them. backbone_weights: what a fit starts from.
        """
        n = len(images.pictures)
        scores, peaks = np.empty(n, np.float32), np.empty(n, np.float32)
        folds = calibration.folds(*groups_and_categories(images), self.seed)
        for k, (fitting, held_out) in enumerate(folds):
            log.info("fold %d of %d: fitting on %d pictures", k + 1, len(folds), len(fitting))
            fold = self._network(run.device, backbone_weights)
            self.learn(fold, images.subset(fitting), run.fold(k))
            judge = Inspector(self._runtime(fold, run.device), self.geometry_)
            part = images.subset(held_out).sources_and_geometries()
            scores[held_out], peaks[held_out] = judge.held_out(*part, images.workers)
        return scores, peaks

    # -- fit ----------------------------------------------------------------------------------------------------------

    def fit(
        self,
        data: Any,
        *,
        categories: Sequence[str] = (),
        calibration: str | None = None,
        roi: Any = None,
        group: str | None = None,
        run_folder: str | os.PathLike[str] | None = None,
        resume: bool = False,
        workers: int = 2,
        log_with: str | None = None,
        time_limit: float | None = None,
        keep: int = 0,
    ) -> Self:
        """Learn what good parts look like.

        data: a folder, a list or generator of paths, arrays or PIL images, a dataset's name, or a Dataset; only its
        good training pictures are used. calibration: "split", "folds" or "none" (default: the method's own).
        roi: the region of interest, nothing outside of which counts: a mask (height, width), a picture of one (not
        black = inspected) or a .json file of polygons, or a dictionary of these by category. group: a regular
        expression that finds in a picture's path what part, lot or board it shows; such pictures are held out together
        and count as one. With `run_folder`, a killed fit can be resumed. log_with: "tensorboard" writes event files to
        the run folder. time_limit: seconds; OutOfTime is raised as soon as it is clear that reading or training will
        take longer. keep: so many of the good pictures go into the model's file, evenly spread, so that its exports can
        be compared and quantised where the data is not. What was fitted before is forgotten, even if this fails. Raises
        InlierError for data that cannot be used, before anything is learned.
        """
        deadline = None if time_limit is None else time.monotonic() + time_limit
        folder = Path(run_folder).expanduser() if run_folder else None
        with own_torch_state(), alone(folder):
            vars(self).pop("runtime_", None)  # a fit that fails must not leave the old network with new regions
            kind = calibration or self.default_calibration
            self.settings_ = settings = self.complete()
            dataset = open_dataset(data, categories)
            log.info("data: %s", dataset.layout)
            for note in dataset.notes:
                log.info("note: %s", note)
            device = find_device(self.device)
            self._check_can_fit(kind, len(dataset.train), device)
            regions = open_regions(roi, dataset.categories)
            self._check_log(log_with, run_folder)
            plain = json.loads(json.dumps(asdict(settings)))  # as a checkpoint gives it back: tuples become lists
            identity = {"method": self.name, "settings": plain, "seed": self.seed, "calibration": kind}
            run = Run(self.seed, device, folder, resume, identity, workers, log_with, deadline)
            run.check_resumable()
            # a wrong tap or a missing weight file is known before thousands of pictures are read
            backbone_weights = self._load_backbone()
            pace = Pace(deadline, len(dataset.samples))

            def checked(done: int) -> None:
                show(done)
                pace.check(done)

            with progress("checking pictures", len(dataset.samples)) as show:
                report = check(dataset, workers, checked, training=True)
            for warning in report.warnings:
                log.warning("%s", warning)
            good = dataset.train
            self.geometry_, self.regions_ = geometry_of(settings), regions
            self.categories_ = tuple(sorted({sample.category for sample in good}))
            pictures = self._good_pictures(good, report, group)
            self._check_groups(kind, pictures)
            run.identity["data"] = report.fingerprint
            run.identity["order, groups and regions"] = _fingerprint(pictures, report.order)
            run.clear()
            self._fit_and_calibrate(Images(pictures, workers, deadline), kind, run, backbone_weights)
            self.kept_ = [(sample.category, encoded(sample.source)) for sample in evenly(good, keep)]
            self.fingerprint_ = report.fingerprint
            self.cues_ = np.array(report.cues, np.float32)
            self.marks_ = np.array([list(bytes.fromhex(digest)[:MARK]) for digest in report.digests], np.uint8)
            self._run = run  # its folder goes when the model is safe on disk
        return self

    def _good_pictures(self, samples: Sequence[Sample], report: Report, group: str | None) -> list[Good]:
        groups = grouped(samples, report.groups, group)
        pictures = []
        for sample, number, size in zip(samples, groups, report.sizes, strict=True):
            geometry = self.geometry_for(sample.category)
            try:
                views = len(geometry.views(*size))
            except InlierError as error:
                raise InlierError(f"{sample.name}: {error}") from None
            pictures.append(Good(sample.source, sample.category, number, geometry, views))
        return pictures

    def _check_groups(self, kind: str, pictures: Sequence[Good]) -> None:
        """Every category needs some groups to hold out, or it has no verdicts."""
        for category in self.categories_ if kind != "none" else ():
            n = len({picture.group for picture in pictures if picture.category == category})
            if n < 2:
                raise InlierError(
                    f"{category}: all pictures are copies of one or belong to one group (a group pattern that finds "
                    f"the same in all paths makes one of them); calibration '{kind}' holds "
                    "out whole groups and needs at least 2 of each category, better 100 or more"
                )

    def _check_can_fit(self, kind: str, n: int, device: torch.device) -> None:
        if kind not in calibration.KINDS:
            raise InlierError(f"unknown calibration '{kind}'. Known: {', '.join(calibration.KINDS)}")
        needed = {"none": 2, "split": 4, "folds": 3}[kind]  # every fit needs two
        if n < needed:
            raise InlierError(
                f"{self.name} with calibration '{kind}' needs at least {needed} good training pictures, better 100 or "
                f"more; there {'is' if n == 1 else 'are'} {n or 'none'}"
            )
        memory, available = self.memory_needed(self.settings_), free_memory(device)
        if memory:
            log.info("memory: fitting takes about %.2f GiB, %.1f GiB are free", memory / GIB, available / GIB)
        if memory > available:
            raise InlierError(
                f"fitting {self.name} with these settings takes about {memory / GIB:.1f} GiB of memory, "
                f"{available / GIB:.1f} GiB are free: {self.memory_advice}"
            )

    def _check_log(self, log_with: str | None, run_folder: Any) -> None:
        if log_with is None:
            return
        if log_with != "tensorboard":
            raise InlierError(f"unknown log '{log_with}'. Known: tensorboard")
        if not self.trains:
            raise InlierError(f"{self.name} is fitted at once and has no training steps to log: leave the log out")
        if not run_folder:
            raise InlierError("a log needs a run_folder to be written to")
        if not importlib.util.find_spec("tensorboard"):
            raise InlierError("the log 'tensorboard' needs that package: pip install 'inlier[tensorboard]'")

    def _fit_and_calibrate(self, images: Images, kind: str, run: Run, backbone_weights: dict[str, Tensor]) -> None:
        network = self._network(run.device, backbone_weights)
        groups, categories = groups_and_categories(images)
        fitting, held_out = list(range(len(groups))), list[int]()
        if kind == "split":
            fitting, held_out = calibration.split(groups, categories, self.seed)
        part = images.subset(fitting)
        tiles = f" ({len(part)} tiles)" if self.geometry_.tile else ""
        log.info("fitting %s (%s) on %d good pictures%s, %s", self.name, self.preset, len(fitting), tiles, run.device)
        self.learn(network, part, run)
        self.runtime_ = self._runtime(network, run.device)
        self.calibration_ = Calibration(kind)
        if kind == "split":
            scores = self.held_out(*images.subset(held_out).sources_and_geometries(), images.workers)
            of = np.array(categories)[held_out], np.array(groups)[held_out]
            self.calibration_ = Calibration(kind, *scores, *of)
        elif kind == "folds":
            scores = self.held_out_scores(network, images, run, backbone_weights)
            self.calibration_ = Calibration(kind, *scores, np.array(categories), np.array(groups))
        log.info("calibration: %s", self.calibration_)
        if kind != "none":
            judged = np.array(held_out if kind == "split" else range(len(groups)))
            oddest = judged[np.argsort(-self.calibration_.scores, kind="stable")[:ODDEST]].tolist()
            names = ", ".join(shown(source_name(images.pictures[i].source, i)) for i in oddest)
            log.info("held out, these look least like the other good pictures: %s", names)

    def _load_backbone(self) -> dict[str, Tensor]:
        backbone = self.build_backbone(self.settings_)
        found: Weights = backbone.load(self.weights)
        # the model may travel: the name of a file, not where it lay
        source = Path(found.source).name if Path(found.source).exists() else found.source
        self.weights_ = {"source": source, "licence": found.licence, "fresh": list(found.fresh)}
        log.info("backbone: %s, weights from %s", self.settings_.backbone, found.source)
        if found.fresh:
            log.warning("%s: lacks %s, which start with random weights", found.source, ", ".join(found.fresh))
        return dict(backbone.state_dict())

    def _network(self, device: torch.device, backbone_weights: dict[str, Tensor]) -> N:
        network = self._seeded(self.settings_)
        network.backbone.load_state_dict(backbone_weights)
        network.to(device)
        return network

    def _seeded(self, s: S) -> N:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self.build(s)

    def _runtime(self, network: N, device: torch.device) -> TorchRuntime:
        return TorchRuntime(network, device, repaints=self.repaints, maps_cost_extra=self.maps_cost_extra)

    @property
    def network_(self) -> N:
        """The fitted network."""
        self.check_fitted()
        network: N = self.runtime_.network  # type: ignore[attr-defined]
        return network

    def export(self, path: str | os.PathLike[str], **options: Any) -> "Parity":
        """Write the model for another runtime, and tell how that judges; options: see `runtime.export.export`."""
        from inlier.runtime.export import export

        self.check_fitted()
        exported = self
        if self.runtime_.device.type != "cpu":  # type: ignore[attr-defined]  # where graphs are made
            exported = copy.copy(self)
            exported.runtime_ = self._runtime(copy.deepcopy(self.network_), torch.device("cpu"))
        return export(exported, path, **options)

    # -- files --------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted detector, backbone included, as one `.inlier` file. Atomic: never half a model."""
        self.check_fitted()
        artifact.check_name(path)
        tensors = {f"network.{key}": value for key, value in self.pack(self.network_.state_dict()).items()}
        tensors |= {name: torch.from_numpy(array) for name, array in self.arrays().items()}
        for i, (_, file) in enumerate(self.kept_):
            tensors[f"kept.{i}"] = torch.frombuffer(bytearray(file), dtype=torch.uint8)
        artifact.write(path, tensors, self.header() | {"kept": [category for category, _ in self.kept_]})
        if "_run" in vars(self):
            self._run.close()

    def header(self) -> dict[str, Any]:
        """What the artifact says of itself."""
        return {
            "library": __version__,
            "method": self.name,
            "preset": self.preset,
            "settings": self.settings_.public(),
            "seed": self.seed,
            **super().header(),
            "data": self.fingerprint_,
            "weights": self.weights_,
        }

    def pack(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The network's state as it goes into the file; a method may make it smaller."""
        return state

    def unpack(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Undo `pack`."""
        return state

    @classmethod
    def from_artifact(cls, path: Path, tensors: dict[str, Tensor], header: dict[str, Any], device: str) -> Self:
        """A fitted detector from what `save` wrote. Raises ArtifactError if the content does not fit the method."""
        place = find_device(device)
        try:
            _check_content(tensors, header)
            stored = dict(header["settings"])
            kind = type(next(iter(cls.presets.values())))
            # settings that this version no longer has decided nothing about a finished network
            unknown = sorted(set(stored) - {f.name for f in fields(kind)})
            if unknown:
                log.warning("%s: settings that are no longer known: %s", path, ", ".join(unknown))
            settings = kind(**{name: value for name, value in stored.items() if name not in unknown})
            detector = cls.__new__(cls)  # from what is stored alone: a preset may have gone or changed since
            detector.preset, detector.seed, detector.device, detector.weights = (
                header["preset"],
                header["seed"],
                device,
                None,
            )
            detector.settings = detector.settings_ = settings
            with own_torch_state():
                network = detector.build(settings)
                prefix = "network."
                state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
                network.load_state_dict(detector.unpack(state))
                detector.runtime_ = detector._runtime(network, place)
            detector.geometry_ = geometry_of(settings)
            detector.restore({name: t.numpy() for name, t in tensors.items() if not name.startswith(prefix)}, header)
            kept = header.get("kept", [])
            detector.kept_ = [(str(name), tensors[f"kept.{i}"].numpy().tobytes()) for i, name in enumerate(kept)]
            detector.fingerprint_ = header["data"]
            detector.weights_ = header["weights"]
        except InlierError as error:
            raise ArtifactError(f"{path}: {error}") from error
        except Exception as error:  # building from settings that make no sense together raises all kinds
            reason = f"{error or type(error).__name__}"
            raise ArtifactError(
                f"{path}: does not fit method '{cls.name}' of inlier {__version__}: {reason}"
            ) from error
        return detector


def _fingerprint(pictures: Sequence[Good], order: str) -> str:
    """Changes with whatever decides which pictures are held out, and what is seen of them."""
    digest = hashlib.sha256(order.encode())
    for picture in pictures:
        region = picture.geometry.region
        digest.update(f"{picture.category} {picture.group} {picture.views} ".encode(errors="backslashreplace"))
        digest.update(b"" if region is None else np.packbits(region.mask).tobytes())
    return digest.hexdigest()


def _check_content(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Raise KeyError, TypeError or InlierError for what no good model holds, whatever a checksum says of it."""
    for key, kind in {"preset": str, "seed": int, "settings": dict, "data": str, "weights": dict}.items():
        if not isinstance(header[key], kind):
            raise TypeError(f"'{key}' cannot be {header[key]!r}")
    for name, tensor in tensors.items():  # the smallest of many is NaN if any is: one pass, and nothing is copied
        if name.startswith("network.") and tensor.is_floating_point() and tensor.numel() and tensor.min().isnan():
            raise InlierError(
                f"{name.removeprefix('network.')} of its network holds values that are no numbers (NaN), so it can "
                "judge nothing: its training failed, or another program changed it; train it again"
            )


def geometry_of(s: Settings) -> Geometry:
    """How pictures become the network's input."""
    return Geometry(s.size, s.shorter_side, s.filter, s.tile, s.overlap, scaled_jpeg=s.scaled_jpeg)  # type: ignore[arg-type]
