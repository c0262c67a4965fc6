"""A fitted model that judges pictures: a runtime, a geometry and a calibration."""

import itertools
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inlier.calibration import KINDS, Calibration, Rule
from inlier.data.batches import Batch, Picture, read_batches
from inlier.data.check import check, fingerprint, grouped
from inlier.data.cues import WATCHED
from inlier.data.datasets import open_dataset
from inlier.data.datasets.sample import Dataset
from inlier.data.geometry import Geometry
from inlier.data.images import ImageSource, at_home, pictures_at, source_name
from inlier.data.region import Region, region_for
from inlier.errors import InlierError
from inlier.inspection.result import Prediction
from inlier.names import counted
from inlier.progress import progress

log = logging.getLogger("inlier")
MARK = 8  # bytes of the sha256 of a picture's file that a model keeps


class Output(NamedTuple):
    """Raw output of a runtime for a batch of views."""

    scores: NDArray[np.float32]  # (B,)
    maps: NDArray[np.float32] | None = None  # (B, size, size); None where none were asked for
    reconstructions: NDArray[np.float32] | None = None  # (B, 3, size, size) about [0, 1], of methods that repaint


class Runtime(Protocol):
    """Computes scores and maps of pictures as the network sees them, float32 (B, 3, size, size) in [0, 1].

    inspected: bool (B, size, size), the pixels that count; None: all. network: PyTorch's; None for an exported graph.
    """

    network: Any

    def __call__(self, images: NDArray[np.float32], inspected: NDArray[np.bool_] | None, maps: bool) -> Output: ...


class Judged(NamedTuple):
    """What a runtime says about one picture, all its views together."""

    picture: Picture
    score: float = 0.0  # the highest of its views
    maps: NDArray[np.float32] | None = None  # (views, size, size)
    reconstructions: NDArray[np.float32] | None = None  # (views, 3, size, size)


class Inspector:
    """What every fitted model can do, whatever computes its scores. Fitted attributes end in an underscore."""

    log_maps: ClassVar[bool] = False  # map values span orders of magnitude: people are shown their logarithms
    repaints: ClassVar[bool] = False  # reconstructions come with the maps
    maps_cost_extra: ClassVar[bool] = False  # scores alone come for less
    no_number: ClassVar[str] = (  # why a score may be no number, and what helps
        "its training has broken it; train again with a lower learning rate, or with the preset's own settings"
    )

    runtime_: Runtime
    geometry_: Geometry  # of all pictures, but for the region of interest
    regions_: Mapping[str, Region]  # by category; "": of all
    calibration_: Calibration
    categories_: tuple[str, ...]  # what the model was fitted on
    cues_: NDArray[np.float32] = np.empty((0, len(WATCHED)), np.float32)  # of good pictures, those of the fit included
    marks_: NDArray[np.uint8] = np.empty((0, MARK), np.uint8)  # of the good pictures of the fit: how their sha256 begin

    def __init__(self, runtime: Runtime, geometry: Geometry, regions: Mapping[str, Region] | None = None):
        self.runtime_, self.geometry_, self.regions_ = runtime, geometry, regions or {}
        self.calibration_, self.categories_ = Calibration("none"), ()

    def header(self) -> dict[str, Any]:
        """What the model says of itself, for records and reports."""
        regions = {name: list(region.mask.shape) for name, region in self.regions_.items()}
        return {
            "categories": list(self.categories_),
            "calibration": self.calibration_.header(),
            "regions": regions,  # height and width of the pictures they were drawn on
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Calibration and regions of interest, for a model file; `restore` takes them back."""
        names = np.unique(self.calibration_.categories).tolist()
        found = {
            "calibration.scores": self.calibration_.scores,
            "calibration.peaks": self.calibration_.peaks,
            "calibration.groups": self.calibration_.groups.astype(np.int64),
            # places in the header's list
            "calibration.categories": np.searchsorted(names, self.calibration_.categories).astype(np.int64),
        }
        if len(self.cues_):
            found["calibration.cues"] = self.cues_
        if len(self.marks_):
            found["fit.marks"] = self.marks_
        for name, region in self.regions_.items():  # eight pixels a byte
            found[f"region.{name}"] = np.packbits(region.mask)
        return found

    def restore(self, arrays: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> None:
        """Take categories, calibration and regions from what `arrays` and `header` wrote.

        Raises KeyError or TypeError for what no good model holds, whatever a checksum says of it.
        """
        for key, kind in {"categories": list, "calibration": dict}.items():
            if not isinstance(header[key], kind):
                raise TypeError(f"'{key}' cannot be {header[key]!r}")
        if not all(isinstance(category, str) for category in header["categories"]):
            raise TypeError(f"'categories' cannot be {header['categories']!r}")
        self.categories_ = tuple(header["categories"])
        self.calibration_ = _stored_calibration(arrays, header["calibration"])
        self.cues_ = _stored_cues(arrays.get("calibration.cues", type(self).cues_))
        self.marks_ = arrays.get("fit.marks", type(self).marks_)
        if self.marks_.dtype != np.uint8 or self.marks_.shape[1:] != (MARK,):
            raise TypeError(f"its marks of pictures are not {MARK} bytes each")
        self.regions_ = {
            name: Region(np.unpackbits(arrays[f"region.{name}"], count=h * w).astype(bool).reshape(h, w))
            for name, (h, w) in header.get("regions", {}).items()
        }

    def geometry_for(self, category: str | None) -> Geometry:
        """How pictures of a category are looked at. Raises InlierError where that depends on it and it is not known."""
        region = region_for(self.regions_, category)
        if region is None and self.regions_ and category not in self.categories_:
            raise InlierError(
                "the regions of interest differ between categories, so the category of the pictures must be told: one "
                f"of {', '.join(self.categories_)}"
            )
        return replace(self.geometry_, region=region)

    def inspect(
        self,
        picture: ImageSource,
        *,
        alpha: float | None = None,
        confidence: float | None = None,
        category: str | None = None,
        maps: bool = True,
    ) -> Prediction:
        """Judge one picture (path, array or PIL image). Raises ImageError if it cannot be read."""
        if isinstance(picture, (str, Path)) and at_home(picture).is_dir():
            raise InlierError(f"{picture}: is a folder; `predict` judges its pictures")
        return next(self.predict([picture], alpha=alpha, confidence=confidence, category=category, maps=maps))

    def predict(
        self,
        data: Any,
        *,
        alpha: float | None = None,
        confidence: float | None = None,
        category: str | None = None,
        batch_size: int = 8,
        workers: int = 2,
        errors: Literal["raise", "keep"] = "raise",
        maps: bool = True,
    ) -> Iterator[Prediction]:
        """Judge pictures, one Prediction each, in order, in constant memory. What is wrong is said at the call.

        data: a picture (path, array or PIL image), a folder, a list or generator of pictures, or a Dataset, whose test
        pictures are judged. alpha: the accepted false-alarm rate (default: 0.01, or the lowest that the calibration
        can promise); it holds on average over calibrations, or with `confidence`, such as 0.95, for this one. category:
        what the pictures show, where the model knows several (default: not known; then the largest p-value counts).
        errors="keep" turns a picture that cannot be read into a Prediction with `error` set instead of raising. A
        generator is read ahead of its verdicts, by `2 * batch_size + workers` pictures at most: judge what a camera
        shows now with `inspect`.
        maps=False leaves `map` and `region` None, which is much faster where maps cost extra.
        """
        self.check_fitted()
        batches = read_batches(pictures_of(data), self.geometry_for(self.known(category)), batch_size, workers, errors)
        return self.judge(batches, alpha=alpha, confidence=confidence, category=category, maps=maps, errors=errors)

    def judge(
        self,
        batches: Iterable[Batch],
        *,
        alpha: float | None = None,
        confidence: float | None = None,
        category: str | None = None,
        maps: bool = True,
        errors: Literal["raise", "keep"] = "raise",
    ) -> Iterator[Prediction]:
        """As `predict`, for batches of pictures that were prepared with `geometry_for(known(category))`."""
        category = self.known(category)
        rule = self.calibration_.rule(alpha, confidence, category)
        if note := self.calibration_.note(alpha, confidence, category):
            self._say_once(note)
        threshold = rule.threshold if rule else math.inf
        found = self._judged(batches, maps, threshold, keep=errors == "keep")
        return (self._prediction(judged, rule, category) for judged in found)

    def category_of(self, name: str | None) -> str | None:
        """The model's category that judges pictures of that name: its only one, or the same; None: it is not known."""
        if len(self.categories_) == 1:
            return self.categories_[0]
        return name if name in self.categories_ else None

    def known(self, category: str | None) -> str | None:
        """The category, which needs no name where the model knows only one. Raises InlierError for another."""
        if category is not None and category not in self.categories_:
            raise InlierError(f"the model was not fitted on {category!r}, only on: {', '.join(self.categories_)}")
        return self.categories_[0] if category is None and len(self.categories_) == 1 else category

    def _output(self, batch: Batch, maps: bool, threshold: float | None) -> Output:
        """What the runtime says of a batch. threshold: the score that decides; None: each score counts as it is."""
        return self.runtime_(batch.images, batch.inspected, maps)

    def _judged(
        self, batches: Iterable[Batch], maps: bool, threshold: float | None, keep: bool = False
    ) -> Iterator[Judged]:
        """Scores and maps of pictures as they are complete. keep: one without a score has an error, or raises it."""
        outputs: dict[int, list[Output]] = {}  # by picture, of its views so far
        for batch in batches:
            if batch.owners:
                output = self._output(batch, maps, threshold)
                columns = [None if column is None else list(column) for column in output]
                for k, owner in enumerate(batch.owners):
                    one = Output(*(None if column is None else column[k] for column in columns))  # type: ignore[arg-type]
                    outputs.setdefault(owner, []).append(one)
            for picture in batch.pictures:
                views = outputs.pop(picture.number, [])
                if picture.error is not None:
                    yield Judged(picture)
                    continue
                scores, found, repainted = zip(*views, strict=True)
                if not np.isfinite(scores).all():
                    error = (
                        f"{source_name(picture.source, picture.number)}: gets a score that is no finite number from "
                        f"the model; where all pictures do, {self.no_number}"
                    )
                    if not keep:
                        raise InlierError(error)
                    yield Judged(picture._replace(error=error))
                    continue
                yield Judged(
                    picture,
                    float(max(scores)),
                    None if found[0] is None else np.stack(found),
                    None if repainted[0] is None else np.stack(repainted),
                )

    def _prediction(self, judged: Judged, rule: Rule | None, category: str | None) -> Prediction:
        picture, score = judged.picture, judged.score
        name = source_name(picture.source, picture.number)
        if picture.error is not None:
            return Prediction(name, error=picture.error, source=picture.source)
        return Prediction(
            path=name,
            score=score,
            p_value=float(self.calibration_.p_values(score, category)) if rule else None,
            threshold=rule.threshold if rule else None,
            verdict=rule.verdict(score) if rule else None,
            alpha=rule.alpha if rule else None,
            confidence=rule.confidence if rule else None,
            pixel_threshold=rule.pixel_threshold if rule else None,
            source=picture.source,
            size=picture.size,
            network_maps=judged.maps,
            network_reconstructions=judged.reconstructions,
            geometry=picture.geometry,
            log_map=self.log_maps,
        )

    def score_samples(
        self, data: Any, *, category: str | None = None, batch_size: int = 8, workers: int = 2
    ) -> NDArray[np.float32]:
        """(n,) raw scores, higher = more anomalous (unlike scikit-learn's, which fall). data and category: as for
        `predict`."""
        found = self.predict(data, category=category, batch_size=batch_size, workers=workers, maps=False)
        return np.array([p.score for p in found], np.float32)

    def calibrate(self, good: Any, *, extend: bool = False, group: str | None = None, workers: int = 2) -> Self:
        """Replace the calibration by the scores of these good pictures, which the model was not fitted on.

        good: a folder, a list or generator of pictures, or a Dataset, whose good validation pictures are taken, or else
        the good training pictures. Where the model knows several categories, the data must name them. extend: keep the
        scores that are there, too. group: a regular expression that finds in a picture's path what part, lot or board
        it shows; such pictures count as one. Raises InlierError for data that cannot be used.
        """
        self.check_fitted()
        dataset = open_dataset(good)
        samples = dataset.validation or dataset.train
        if not samples:
            raise InlierError("nothing to calibrate on: no good pictures found")
        of = [sample.category for sample in samples]
        if len(self.categories_) <= 1:
            of = len(of) * list(self.categories_ or ("",))
        elif unknown := sorted(set(of) - set(self.categories_)):
            raise InlierError(
                f"the model knows {', '.join(self.categories_)}; these pictures are of {', '.join(unknown)}: give a "
                "data set whose categories have those names"
            )
        report = check(replace(dataset, samples=tuple(replace(s, split="train") for s in samples)), workers)
        for warning in report.warnings:
            log.warning("%s", warning)
        if of_fit := self.n_known(report.digests):
            raise InlierError(
                f"{of_fit} of these {counted(len(samples), 'picture<|s>')} are ones that the model was fitted on, and "
                "it knows them: it needs others to calibrate on"
            )
        groups = grouped(samples, report.groups, group)
        scores = self.held_out([s.source for s in samples], [self.geometry_for(name) for name in of], workers)
        new = Calibration("split", *scores, np.array(of), np.array(groups))
        if extend:
            known = set(zip(self.calibration_.scores.tolist(), self.calibration_.peaks.tolist(), strict=True))
            again = sum(pair in known for pair in zip(new.scores.tolist(), new.peaks.tolist(), strict=True))
            if again:
                raise InlierError(
                    f"{again} of these pictures have the very scores of pictures that the model is calibrated on: a "
                    "picture must not count twice; leave out what was used before"
                )
            new = self.calibration_.extended(new)
        self.calibration_ = new
        kept = self.cues_ if extend else self.cues_[:0]
        self.cues_ = np.concatenate([kept, np.array(report.cues, np.float32)])
        log.info("calibration: %s", self.calibration_)
        if note := self.calibration_.note(None):
            self._say_once(note)
        return self

    def n_known(self, digests: Sequence[str]) -> int:
        """How many of these pictures the fit had, also to calibrate on. digests: sha256 of the files, as hex; or ""."""
        if not len(self.marks_):  # a model of before knows them all together
            return len(digests) if fingerprint(digests) == getattr(self, "fingerprint_", None) else 0
        known = {bytes(mark).hex() for mark in self.marks_}
        return sum(digest[: 2 * MARK] in known for digest in digests)

    def held_out(
        self, sources: Sequence[ImageSource], geometries: Sequence[Geometry], workers: int = 2
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """(scores, highest map values), float32 (n,) each, of pictures that the model was not fitted on."""
        scores, peaks = [], []
        with progress("calibrating", len(sources)) as show:
            for judged in self._judged(read_batches(sources, geometries, 8, workers), True, threshold=None):
                assert judged.maps is not None
                inside = judged.picture.geometry.inspected(*judged.picture.size)
                scores.append(judged.score)
                peaks.append(float(judged.maps.max() if inside is None else judged.maps[inside].max()))
                show(len(scores))
        return np.array(scores, np.float32), np.array(peaks, np.float32)

    def check_fitted(self) -> None:
        if "runtime_" not in vars(self):
            raise InlierError(f"this {type(self).__name__} is not fitted yet: call fit(...) or inlier.load(...)")

    def take_as_said(self, note: str | None) -> None:
        """Do not say this: somebody does."""
        self._said = note or ""

    def _say_once(self, note: str) -> None:
        if vars(self).setdefault("_said", "") != note:
            self._said = note
            log.warning("%s", note)


def _stored_calibration(arrays: Mapping[str, NDArray[Any]], header: Mapping[str, Any]) -> Calibration:
    """Models of before know no categories and groups: one pool, each picture alone."""
    if header["kind"] not in KINDS:
        raise TypeError(f"the calibration cannot be {header['kind']!r}")
    stored = {name: arrays[key] for name in ("scores", "peaks", "categories", "groups")
              if (key := f"calibration.{name}") in arrays}  # fmt: skip
    scores, peaks = stored["scores"], stored["peaks"]
    if scores.ndim != 1 or scores.shape != peaks.shape or scores.dtype.kind != "f" or peaks.dtype != scores.dtype:
        raise TypeError("its calibration is no list of scores, and of as many peaks of maps")
    if not (np.isfinite(scores).all() and np.isfinite(peaks).all()):
        raise TypeError("its calibration scores are not all numbers")
    if "categories" in stored:
        stored["categories"] = np.array(header["categories"], str)[stored["categories"]]
    return Calibration(header["kind"], **stored)


def _stored_cues(cues: NDArray[Any]) -> NDArray[np.float32]:
    if cues.ndim != 2 or cues.shape[1] != len(WATCHED) or not np.isfinite(cues).all():
        raise TypeError(f"its cues are not {', '.join(WATCHED)} of each picture")
    return np.asarray(cues, np.float32)


def pictures_of(data: Any) -> Iterable[ImageSource]:
    """The pictures that `predict` was given: folders are listed now, a generator is read as it comes.

    Raises InlierError where there are none.
    """
    if isinstance(data, Dataset):
        if not data.test:
            raise InlierError(f"{data.name}: has no test pictures ({data.layout}); pass a list of pictures")
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
    if not isinstance(item, (str, Path)):
        return [item]
    path = at_home(item)
    if not path.is_dir():
        return [path if str(item).startswith("~") else item]  # named as it was given
    return pictures_at(path)
