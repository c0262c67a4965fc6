"""The contract that every method keeps: a detector is fitted on good parts, then scores, judges, saves and loads.

A method is one file in `methods/` with a `Settings` dataclass, a network (an `nn.Module` whose forward takes RGB
(B, 3, H, W) in [0, 1] and returns scores (B,) and maps (B, H, W)), and a `Detector` subclass that gives `presets`,
`build` and `learn`. A network whose maps cost extra also has `scores(images)`, for scores alone. Everything else (data,
calibration, verdicts, files) is here, once.
"""

import importlib.util
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inlier import artifact, calibration, methods
from inlier.data.datasets import Dataset, check, open_dataset
from inlier.data.images import Preprocess, list_images, read_batches
from inlier.errors import InlierError
from inlier.features.weights import Weights
from inlier.prediction import Calibration, Prediction, Scores
from inlier.progress import progress
from inlier.training import Run
from inlier.version import __version__

log = logging.getLogger("inlier")
GIB = 2**30


class Images:
    """Good images as the network sees them: a re-iterable source of batches. `categories`: each one's, in order."""

    def __init__(self, sources: Sequence[Any], preprocess: Preprocess, workers: int, categories: Sequence[str]):
        self.sources, self.preprocess, self.workers = list(sources), preprocess, workers
        self.categories = list(categories)

    def __len__(self) -> int:
        return len(self.sources)

    def subset(self, indices: Sequence[int]) -> "Images":
        sources, categories = [self.sources[i] for i in indices], [self.categories[i] for i in indices]
        return Images(sources, self.preprocess, self.workers, categories)

    def batches(self, batch_size: int, device: torch.device) -> Iterator[Tensor]:
        """RGB batches (B, 3, size, size) in [0, 1], in order."""
        for batch in read_batches(self.sources, self.preprocess, batch_size, self.workers):
            yield torch.from_numpy(batch.images).to(device)

    def cache(self, run: Run) -> Tensor:
        """(N, size, size, 3) uint8: all of them, read once; `to_input` makes batches of it."""
        size = self.preprocess.size
        pictures, done = run.cache((len(self), size, size, 3), torch.uint8, "pictures"), 0
        with progress("reading images", len(self)) as show:
            for batch in self.batches(8, torch.device("cpu")):
                pictures[done : done + len(batch)] = (255 * batch).round().byte().permute(0, 2, 3, 1)
                done += len(batch)
                show(done)
        return pictures


def to_input(pictures: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) in [0, 1]"""
    return pictures.permute(0, 3, 1, 2).float() / 255


class Detector:
    """Base of all methods. The constructor stores settings, `fit` learns, fitted attributes end in an underscore.

    preset: "paper" (the published recipe) or "light" (two CPU cores, minutes, no download), or what `presets` lists.
    seed: decides everything random. device: "auto", "cpu", "cuda", "cuda:1", "mps". weights: file with the backbone's
    weights (default: looked for, see features.weights). Further keywords change single settings of the preset.
    """

    name: ClassVar[str]
    presets: ClassVar[dict[str, Any]]
    settings: Any  # a method narrows it to its own Settings
    default_calibration: ClassVar[str] = "split"
    minimum_images: ClassVar[int] = 2
    trains: ClassVar[bool] = True  # in steps, which can be logged
    log_maps: ClassVar[bool] = False  # map values span orders of magnitude: people are shown their logarithms

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
        if not isinstance(seed, int) or not 0 <= seed < 2**31:
            raise InlierError(f"seed: {seed!r} is not a whole number from 0 to {2**31 - 1}")
        self.preset, self.seed, self.device, self.weights = preset, seed, device, weights
        self.settings = self.presets[preset].replace(**settings)

    # -- what a method gives ------------------------------------------------------------------------------------------

    def build(self) -> Any:
        """The unfitted network; its `backbone` attribute is a features.Backbone. Shapes depend on settings alone.

        A network that repaints pictures also has `inspect(images)`: scores, maps, reconstructions (B, 3, H, W).
        """
        raise NotImplementedError  # pragma: no cover

    def build_backbone(self) -> Any:
        """The backbone of `build()` alone, where that is cheaper."""
        return self._seeded().backbone

    def learn(self, network: Any, images: Images, run: Run) -> None:
        """Fit `network` on good images."""
        raise NotImplementedError  # pragma: no cover

    def memory_needed(self, n_images: int) -> int:
        """Bytes that fitting will take at its peak, for the check before it starts."""
        return 0

    memory_advice: ClassVar[str] = "use preset 'light', a smaller 'size', or deeper 'taps'"

    def memory_free(self, device: torch.device) -> int:
        """Bytes that fitting may take."""
        import psutil

        return int(psutil.virtual_memory().available)

    def held_out_scores(self, network: Any, images: Images, run: Run) -> tuple[NDArray[Any], NDArray[Any]]:
        """(scores, highest map values), each (N,): every image scored by a model fitted without it (5 folds)."""
        scores, peaks = np.empty(len(images)), np.empty(len(images))
        folds = calibration.folds(len(images), self.seed)
        for k, (fitting, held_out) in enumerate(folds):
            log.info("fold %d of %d: fitting on %d images", k + 1, len(folds), len(fitting))
            fold_run = Run(run.seed, run.device, run.folder and run.folder / f"fold{k}", run.resume, run.identity)
            fold = self._network(run.device, network.backbone.state_dict())
            self.learn(fold, images.subset(fitting), fold_run)
            scores[held_out], peaks[held_out] = self._score_all(fold, images.subset(held_out), run.device)
        return scores, peaks

    # -- fit ----------------------------------------------------------------------------------------------------------

    def fit(
        self,
        data: Any,
        *,
        categories: Sequence[str] = (),
        calibration: str | None = None,
        run_folder: str | os.PathLike[str] | None = None,
        resume: bool = False,
        workers: int = 2,
        log_with: str | None = None,
    ) -> Self:
        """Learn what good parts look like.

        data: a folder, a list of paths or arrays, a dataset's name, or a Dataset; only its good training images are
        used. calibration: "split", "folds" or "none" (default: the method's own). With `run_folder`, a killed fit can
        be resumed. log_with: "tensorboard" writes event files to the run folder. Raises InlierError for data that
        cannot be used, before anything is learned.
        """
        kind = calibration or self.default_calibration
        dataset = open_dataset(data, categories)
        log.info("data: %s", dataset.layout)
        device = _device(self.device)
        self._check_can_fit(kind, len(dataset.train), device)
        self._check_log(log_with, run_folder)
        settings = json.loads(json.dumps(asdict(self.settings)))  # as a checkpoint gives it back: tuples become lists
        identity = {"method": self.name, "settings": settings, "seed": self.seed, "calibration": kind}
        folder = Path(run_folder) if run_folder else None
        run = Run(self.seed, device, folder, resume, identity, workers, log_with)
        if folder and folder.exists() and not folder.is_dir():
            raise InlierError(f"{folder}: is a file; the run is kept in a folder of that name: move or rename one")
        run.check_resumable()
        # a wrong tap or a missing weight file is known before thousands of pictures are read
        backbone_weights = self._load_backbone()
        with progress("checking images", len(dataset.samples)) as show:
            report = check(dataset, workers, lambda done, _total: show(done))
        for note in dataset.notes:
            log.info("note: %s", note)
        for warning in report.warnings:
            log.warning("%s", warning)
        run.identity["data"] = report.fingerprint
        run.clear()
        good = dataset.train
        categories_of = [sample.category for sample in good]
        images = Images([sample.source for sample in good], self.preprocess, workers, categories_of)
        self._fit_and_calibrate(images, kind, run, backbone_weights)
        self.categories_ = tuple(sorted(set(categories_of)))
        self.fingerprint_ = report.fingerprint
        self._run = run  # its folder goes when the model is safe on disk
        return self

    def _check_can_fit(self, kind: str, n: int, device: torch.device) -> None:
        if kind not in calibration.KINDS:
            raise InlierError(f"unknown calibration '{kind}'. Known: {', '.join(calibration.KINDS)}")
        needed = {"none": self.minimum_images, "split": 2 * self.minimum_images, "folds": self.minimum_images + 1}[kind]
        if n < needed:
            found = "no good training images" if n == 0 else f"only {n} good training image{'s'[: n > 1]}"
            raise InlierError(
                f"{found}: {self.name} with calibration '{kind}' needs at least {needed}, better 100 or more"
            )
        memory, available = self.memory_needed(n), self.memory_free(device)
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
        fitting, held_out = list(range(len(images))), list[int]()
        if kind == "split":
            fitting, held_out = calibration.split(len(images), self.seed)
        log.info("fitting %s (%s) on %d good images, %s", self.name, self.preset, len(fitting), run.device)
        self.learn(network, images.subset(fitting), run)
        self.network_, self.calibration_ = network.eval(), Calibration(kind)
        if kind == "split":
            self.calibration_ = Calibration(kind, *self._score_all(network, images.subset(held_out), run.device))
        elif kind == "folds":
            self.calibration_ = Calibration(kind, *self.held_out_scores(network, images, run))
        log.info("calibration: %s", self.calibration_)

    def _load_backbone(self) -> dict[str, Tensor]:
        backbone = self.build_backbone()
        found: Weights = backbone.load(self.weights)
        # the model may travel: the name of a file, not where it lay
        source = Path(found.source).name if Path(found.source).exists() else found.source
        self.weights_ = {"source": source, "licence": found.licence, "fresh": list(found.fresh)}
        log.info("backbone: %s, weights from %s", self.settings.backbone, found.source)
        if found.fresh:
            log.warning("%s: lacks %s, which start with random weights", found.source, ", ".join(found.fresh))
        return dict(backbone.state_dict())

    def _network(self, device: torch.device, backbone_weights: dict[str, Tensor]) -> Any:
        network = self._seeded()
        network.backbone.load_state_dict(backbone_weights)
        return network.to(device)

    def _seeded(self) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self.build()

    def _score_all(self, network: nn.Module, images: Images, device: torch.device) -> tuple[NDArray[Any], NDArray[Any]]:
        scores, peaks = [], []
        for batch in images.batches(8, device):
            with torch.inference_mode():
                score, maps, *_ = _run(network, batch, maps=True)
            scores.append(score.cpu().numpy())
            peaks.append(maps.amax((1, 2)).cpu().numpy())
        return np.concatenate(scores), np.concatenate(peaks)

    # -- score and judge ----------------------------------------------------------------------------------------------

    @property
    def preprocess(self) -> Preprocess:
        s = self.settings
        return Preprocess(s.size, s.shorter_side, s.filter)

    def scores(
        self,
        sources: Sequence[Any],
        *,
        batch_size: int = 8,
        workers: int = 2,
        errors: Literal["raise", "keep"] = "raise",
        maps: bool = True,
    ) -> Iterator[Scores]:
        """Raw scores and network-size maps of pictures, batch by batch in order; constant memory.

        maps=False: scores only, which is much faster where maps cost extra.
        """
        self._check_fitted()
        device = _device(self.device)
        network = self.network_.to(device)
        size = self.settings.size if maps else 0
        for batch in read_batches(sources, self.preprocess, batch_size, workers, errors):
            result = [torch.empty(0), torch.empty(0, size, size)]
            if batch.indices:
                with torch.inference_mode():
                    result = _run(network, torch.from_numpy(batch.images).to(device), maps)
            score, found, *repainted = (tensor.cpu().numpy() for tensor in result)
            yield Scores(batch.indices, score, found, batch.sizes, batch.failures, *repainted)

    def predict(
        self,
        data: Any,
        *,
        alpha: float | None = None,
        batch_size: int = 8,
        workers: int = 2,
        errors: Literal["raise", "keep"] = "raise",
        maps: bool = True,
    ) -> Iterator[Prediction]:
        """Judge pictures, one Prediction each, in order, in constant memory.

        data: a picture (path or array), a folder, or a list of those. alpha: the accepted false-alarm rate (default:
        0.01, or the lowest that the calibration can promise). errors="keep" turns a picture that cannot be read into
        a Prediction with `error` set instead of raising. maps=False leaves `map` and `region` None, which is much
        faster where maps cost extra (DifferNet's backward pass).
        """
        self._check_fitted()
        alpha = self.calibration_.alpha(alpha)
        sources = _sources(data)
        for batch in self.scores(sources, batch_size=batch_size, workers=workers, errors=errors, maps=maps):
            found = {i: self._judge(_name(sources[i], i), alpha, batch, k) for k, i in enumerate(batch.indices)}
            found |= {i: Prediction(_name(sources[i], i), error=reason) for i, reason in batch.failures}
            yield from (found[i] for i in sorted(found))

    def _judge(self, name: str, alpha: float | None, batch: Scores, k: int) -> Prediction:
        score, repainted = batch.scores[k], batch.reconstructions
        p_value = threshold = None
        verdict: Literal["good", "defect"] | None = None
        if alpha is not None:
            p_value = float(self.calibration_.p_values(score))
            verdict = "defect" if p_value <= alpha else "good"
            threshold = calibration.threshold(self.calibration_.peaks, alpha)
        return Prediction(
            name,
            float(score),
            p_value,
            verdict,
            None,
            threshold,
            batch.maps[k] if batch.maps[k].size else None,
            None if repainted is None else repainted[k],
            batch.sizes[k],
            self.preprocess,
        )

    def _check_fitted(self) -> None:
        if not hasattr(self, "network_"):
            raise InlierError(f"this {type(self).__name__} is not fitted yet: call fit(...) or inlier.load(...)")

    # -- files --------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted detector, backbone included, as one `.inlier` file. Atomic: never half a model."""
        self._check_fitted()
        tensors = {f"network.{key}": value for key, value in self.pack(self.network_.state_dict()).items()}
        tensors |= {
            "calibration.scores": torch.from_numpy(self.calibration_.scores),
            "calibration.peaks": torch.from_numpy(self.calibration_.peaks),
        }
        artifact.write(path, tensors, self.header())
        if hasattr(self, "_run"):
            self._run.close()

    def header(self) -> dict[str, Any]:
        """What the artifact says of itself."""
        return {
            "library": __version__,
            "method": self.name,
            "preset": self.preset,
            "settings": asdict(self.settings),
            "seed": self.seed,
            "categories": list(self.categories_),
            "calibration": {"kind": self.calibration_.kind, "n": len(self.calibration_.scores)},
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
    def _from_artifact(cls, path: Path, tensors: dict[str, Tensor], header: dict[str, Any], device: str) -> Self:
        try:
            detector = cls(header["preset"], seed=header["seed"], device=device, **header["settings"])
            network = detector.build()
            state = {
                key.removeprefix("network."): value for key, value in tensors.items() if key.startswith("network.")
            }
            network.load_state_dict(detector.unpack(state))
            detector.network_ = network.eval()
            detector.calibration_ = Calibration(
                header["calibration"]["kind"],
                tensors["calibration.scores"].numpy(),
                tensors["calibration.peaks"].numpy(),
            )
            detector.categories_, detector.fingerprint_ = tuple(header["categories"]), header["data"]
            detector.weights_ = header["weights"]
        except (KeyError, TypeError, RuntimeError) as error:
            raise artifact.ArtifactError(
                f"{path}: does not fit method '{cls.name}' of inlier {__version__}: {error}"
            ) from error
        return detector


def load(path: str | os.PathLike[str], device: str = "auto") -> Detector:
    """Read a detector that `save` wrote. Runs no code from the file. Raises artifact.ArtifactError."""
    tensors, header = artifact.read(path)
    if "method" not in header:
        raise artifact.ArtifactError(
            f"{path}: is a training checkpoint, not a model; resume the training with --resume"
        )
    if header["method"] not in methods.names():
        raise artifact.ArtifactError(f"{path}: method {header['method']!r} is unknown to inlier {__version__}")
    return methods.get(header["method"])._from_artifact(Path(path), tensors, header, device)


def _run(network: Any, images: Tensor, maps: bool) -> list[Tensor]:
    """Scores (B,), maps, and the reconstructions of a network that repaints.

    Without maps: scores and maps (B, 0, 0), by the network's own `scores` where it has one.
    """
    if maps:
        result = list(getattr(network, "inspect", network)(images))
    else:
        score = network.scores(images) if hasattr(network, "scores") else network(images)[0]
        result = [score, images.new_empty(len(images), 0, 0)]
    if not result[0].isfinite().all():
        raise InlierError(
            "the model gives a picture a score that is no finite number: its training has broken it; train again with "
            "a lower learning rate, or with the preset's own settings"
        )
    return result


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:  # one of several processes: each has its own
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        probe = torch.zeros(1, device=name)
        probe.cpu()  # "meta" holds no numbers
    except (RuntimeError, AssertionError) as error:  # an unknown name, or a build without that device
        raise InlierError(f"device '{name}' cannot be used here: {str(error).splitlines()[0]}") from error
    return probe.device


def _sources(data: Any) -> list[Any]:
    """Paths (folders expanded) and arrays of what `predict` was given."""
    if isinstance(data, Dataset):
        return [sample.source for sample in data.samples]
    if not isinstance(data, (list, tuple)):
        data = [data]
    sources: list[Any] = []
    for item in data:
        if isinstance(item, (str, os.PathLike)) and Path(item).is_dir():
            images = list_images(Path(item))
            if not images:
                raise InlierError(f"{item}: holds no images (.png .jpg .jpeg .bmp .tif .tiff .webp)")
            sources += images
        else:
            sources.append(item)
    if not sources:
        raise InlierError("nothing to predict: the list of pictures is empty")
    return sources


def _name(source: Any, index: int) -> str:
    return str(source) if isinstance(source, (str, os.PathLike)) else f"image {index}"
