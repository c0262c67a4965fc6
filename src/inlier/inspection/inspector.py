"""A fitted model that judges pictures: a runtime, a geometry and a calibration."""

import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inlier.calibration import Calibration, Rule
from inlier.data.batches import Batch, read_batches
from inlier.data.datasets import open_dataset
from inlier.data.datasets.sample import Dataset
from inlier.data.geometry import Geometry
from inlier.data.images import SUFFIX_LIST, ImageSource, list_images, source_name
from inlier.errors import InlierError
from inlier.inspection.result import Prediction
from inlier.progress import progress

log = logging.getLogger("inlier")


class Output(NamedTuple):
    """Raw output of a runtime for a batch of pictures."""

    scores: NDArray[np.float32]  # (B,)
    maps: NDArray[np.float32] | None = None  # (B, size, size); None where none were asked for
    reconstructions: NDArray[np.float32] | None = None  # (B, 3, size, size) about [0, 1], of methods that repaint


class Runtime(Protocol):
    """Computes scores and maps of pictures as the network sees them, float32 (B, 3, size, size) in [0, 1]."""

    def __call__(self, images: NDArray[np.float32], maps: bool) -> Output: ...


class Inspector:
    """What every fitted model can do, whatever computes its scores. Fitted attributes end in an underscore."""

    log_maps: ClassVar[bool] = False  # map values span orders of magnitude: people are shown their logarithms
    repaints: ClassVar[bool] = False  # reconstructions come with the maps

    runtime_: Runtime
    geometry_: Geometry
    calibration_: Calibration
    categories_: tuple[str, ...]  # what the model was fitted on

    def __init__(self, runtime: Runtime, geometry: Geometry):
        self.runtime_, self.geometry_ = runtime, geometry
        self.calibration_, self.categories_ = Calibration("none"), ()

    def header(self) -> dict[str, Any]:
        """What the model says of itself, for records and reports."""
        return {"categories": list(self.categories_), "calibration": self.calibration_.header()}

    def inspect(self, picture: ImageSource, *, alpha: float | None = None, maps: bool = True) -> Prediction:
        """Judge one picture (path, array or PIL image). Raises ImageError if it cannot be read."""
        return next(self.predict([picture], alpha=alpha, maps=maps))

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
        """Judge pictures, one Prediction each, in order, in constant memory. What is wrong is said at the call.

        data: a picture (path, array or PIL image), a folder, a list or generator of pictures, or a Dataset, whose test
        pictures are judged. alpha: the accepted false-alarm rate (default: 0.01, or the lowest that the calibration
        can promise). errors="keep" turns a picture that cannot be read into a Prediction with `error` set instead of
        raising. maps=False leaves `map` and `region` None, which is much faster where maps cost extra.
        """
        self.check_fitted()
        rule = self.calibration_.rule(alpha)
        if note := self.calibration_.note(alpha):
            self._say_once(note)
        batches = read_batches(pictures_of(data), self.geometry_, batch_size, workers, errors)
        return self._judged(batches, rule, maps)

    def _judged(self, batches: Iterable[Batch], rule: Rule | None, maps: bool) -> Iterator[Prediction]:
        for batch in batches:
            name = {i: source_name(source, i) for i, source in batch.sources.items()}
            found = {i: Prediction(name[i], error=reason, source=batch.sources[i]) for i, reason in batch.failures}
            if batch.indices:
                output = self.runtime_(batch.images, maps)
                p_values = self.calibration_.p_values(output.scores) if rule else None
                for k, i in enumerate(batch.indices):
                    found[i] = Prediction(
                        path=name[i],
                        score=float(output.scores[k]),
                        p_value=None if p_values is None else float(p_values[k]),
                        threshold=rule.threshold if rule else None,
                        verdict=rule.verdict(float(output.scores[k])) if rule else None,
                        alpha=rule.alpha if rule else None,
                        pixel_threshold=rule.pixel_threshold if rule else None,
                        source=batch.sources[i],
                        size=batch.sizes[k],
                        network_map=None if output.maps is None else output.maps[k],
                        network_reconstruction=None if output.reconstructions is None else output.reconstructions[k],
                        geometry=self.geometry_,
                        log_map=self.log_maps,
                    )
            yield from (found[i] for i in sorted(found))

    def score_samples(self, data: Any, *, batch_size: int = 8, workers: int = 2) -> NDArray[np.float32]:
        """(n,) raw scores, higher = more anomalous (unlike scikit-learn's, which fall). data: as for `predict`."""
        found = self.predict(data, batch_size=batch_size, workers=workers, maps=False)
        return np.array([p.score for p in found], np.float32)

    def calibrate(self, good: Any, *, workers: int = 2) -> Self:
        """Replace the calibration by the scores of these good pictures, which the model was not fitted on.

        good: a folder, a list or generator of pictures, or a Dataset, whose good training pictures are taken.
        """
        self.check_fitted()
        sources = [sample.source for sample in open_dataset(good).train]
        if not sources:
            raise InlierError("nothing to calibrate on: no good pictures found")
        self.calibration_ = Calibration("split", *self.held_out(sources, workers))
        log.info("calibration: %s", self.calibration_)
        return self

    def held_out(self, sources: Sequence[ImageSource], workers: int = 2) -> tuple[NDArray[Any], NDArray[Any]]:
        """(scores, highest map values), float32 (n,) each, of pictures that the model was not fitted on."""
        scores, peaks = [], []
        with progress("calibrating", len(sources)) as show:
            for p in self._judged(read_batches(sources, self.geometry_, 8, workers), None, maps=True):
                assert p.score is not None and p.network_map is not None  # a failure would have been raised
                scores.append(p.score)
                peaks.append(float(p.network_map.max()))
                show(len(scores))
        return np.array(scores, np.float32), np.array(peaks, np.float32)

    def check_fitted(self) -> None:
        if "runtime_" not in vars(self):
            raise InlierError(f"this {type(self).__name__} is not fitted yet: call fit(...) or inlier.load(...)")

    def _say_once(self, note: str) -> None:
        if vars(self).setdefault("_said", "") != note:
            self._said = note
            log.warning("%s", note)


def pictures_of(data: Any) -> Iterable[ImageSource]:
    """The pictures that `predict` was given: folders are listed now, a generator is read as it comes.

    Raises InlierError where there are none.
    """
    if isinstance(data, Dataset):
        if not data.test:
            raise InlierError(f"{data.name}: has no test images ({data.layout}); pass a list of pictures")
        return [sample.source for sample in data.test]
    if isinstance(data, (str, Path, np.ndarray, Image.Image)):
        return _expanded(data)
    try:
        items = iter(data)
    except TypeError:
        raise InlierError(f"expected a picture, a folder or pictures, got {type(data).__name__}") from None
    if isinstance(data, (list, tuple)):
        if not data:
            raise InlierError("nothing to predict: the list of pictures is empty")
        return [source for item in data for source in _expanded(item)]
    return itertools.chain.from_iterable(map(_expanded, items))


def _expanded(item: ImageSource) -> list[Any]:
    if not isinstance(item, (str, Path)) or not Path(item).is_dir():
        return [item]
    images = list_images(Path(item))
    if not images:
        raise InlierError(f"{item}: holds no images {SUFFIX_LIST}")
    return images
