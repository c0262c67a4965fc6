"""The model of a station: a file, and the calibration and region of interest that the station gave it."""

import copy
import hashlib
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from inlier import artifact
from inlier.calibration import Rule
from inlier.data.region import Region, read_region
from inlier.errors import InlierError
from inlier.inspection.inspector import Inspector
from inlier.runtime.load import load
from inlier.serve.config import StationConfig

log = logging.getLogger("inlier")


@dataclass(frozen=True)
class Model:
    """What judges from one moment to the next change; a picture is judged by one of them as a whole."""

    inspector: Inspector
    sha256: str  # of the file that it was read from
    path: Path
    alpha: float | None
    confidence: float | None
    category: str | None

    @property
    def rule(self) -> Rule | None:
        return self.inspector.calibration_.rule(self.alpha, self.confidence, self.known_category)

    @property
    def known_category(self) -> str | None:
        return self.inspector.known(self.category)

    def rule_at(self, alpha: float) -> Rule | None:
        """The same with another alpha. Raises InlierError where it cannot be promised."""
        return self.inspector.calibration_.rule(alpha, self.confidence, self.known_category)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides a verdict beside the file, for records."""
        rule, header = self.rule, self.inspector.header()
        return {
            "alpha": rule and rule.alpha,
            "confidence": self.confidence,
            "category": self.known_category,
            "method": header.get("method"),
            "calibration": header["calibration"],
            "regions": header["regions"],
        }

    def warm_up(self) -> None:
        """The first picture takes long: kernels are chosen, memory is taken."""
        size = self.inspector.geometry_.size
        self.inspector.runtime_(np.zeros((1, 3, size, size), np.float32), None, True)


def open_model(config: StationConfig, folder: Path, opened: dict[Any, Inspector]) -> Model:
    """The station's model, warm. folder: where models that stations calibrated lie. Raises InlierError.

    opened: what is open already, by file and runtime; stations that share a model share its batches.
    """
    path = config.model.expanduser()
    if not path.is_file():
        raise InlierError(f"station {config.name}: {path}: no such model file")
    base = file_hash(path)
    own = calibrated_file(config.name, base, folder)
    if own:
        log.info("station %s: judges with %s, which it calibrated from %s", config.name, own, path)
    elif config.region and config.good:
        own = _with_region(config, base, folder)
    chosen = own or path
    sha256 = file_hash(chosen)
    key = sha256, config.runtime, config.device
    inspector = opened.get(key) or load(chosen, config.device, runtime=config.runtime)
    if config.category is not None and config.category not in inspector.categories_:
        known = ", ".join(inspector.categories_)
        raise InlierError(
            f"station {config.name}: category: {path} was not fitted on {config.category!r}, only: {known}"
        )
    model = Model(inspector, sha256, chosen, config.alpha, config.confidence, config.category)
    _ = model.rule  # an alpha that cannot be promised is said now
    if len(inspector.regions_) > 1 and model.known_category is None:
        raise InlierError(
            f"station {config.name}: category: {path} has a region of interest for each category, so the station must "
            f"say what its pictures show: one of {', '.join(inspector.categories_)}"
        )
    if key not in opened:
        model.warm_up()
        opened[key] = inspector
    return model


def _with_region(config: StationConfig, base: str, folder: Path) -> Path:
    """The configured model, calibrated for the configured region; made once for each pair of them."""
    assert config.region and config.good
    drawn = hashlib.sha256(config.region.read_bytes() if config.region.is_file() else b"").hexdigest()
    path = folder / f"{config.name}-{base[:12]}-region-{drawn[:12]}{config.model.suffix}"
    if not path.is_file():
        log.info("station %s: calibrates %s for the region %s", config.name, config.model, config.region)
        inspector = recalibrated(config, config.model, config.good, read_region(config.region))
        save(inspector, path)
    return path


def recalibrated(config: StationConfig, path: Path, good: Path | Sequence[Path], region: Region | None) -> Inspector:
    """The model in a file with a calibration on other good pictures. region: None: as it was. Raises InlierError."""
    inspector = load(path, config.device, runtime=config.runtime)
    if len(inspector.categories_) > 1:
        raise InlierError(
            "this model judges several categories: calibrate it with `inlier calibrate` on a data set that has them all"
        )
    if region is not None:
        inspector.regions_ = {"": region}
    inspector.calibrate(good if isinstance(good, Path) else list(good))
    return inspector


def with_calibration_of(model: Model, inspector: Inspector) -> Model:
    """The model that judges now, as it would with another's calibration and region. The networks are the same."""
    other = copy.copy(model.inspector)
    other.calibration_, other.regions_ = inspector.calibration_, inspector.regions_
    return replace(model, inspector=other)


def save(inspector: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    inspector.save(path)


def calibrated_file(name: str, base: str, folder: Path) -> Path | None:
    """What the station calibrated from the file with this hash last; a new file is taken as it is."""
    note = folder / f"{name}.json"
    if not note.is_file():
        return None
    try:
        told = json.loads(note.read_text())
        path = folder / Path(told["file"]).name
    except (OSError, ValueError, KeyError, TypeError):
        raise InlierError(
            f"{note}: is damaged; remove it, and the station judges with its model's own calibration"
        ) from None
    return path if told.get("base") == base and path.is_file() else None


def adopt(inspector: Any, config: StationConfig, folder: Path) -> Path:
    """Keep a calibrated model beside the records, and judge with it from the next start on."""
    base = file_hash(config.model.expanduser())
    known = [int(m[1]) for p in folder.glob("*") if (m := re.fullmatch(rf"{re.escape(config.name)}-(\d+)\..*", p.name))]
    path = folder / f"{config.name}-{max(known, default=0) + 1}{config.model.suffix}"
    save(inspector, path)
    artifact.write_bytes(folder / f"{config.name}.json", json.dumps({"base": base, "file": path.name}).encode())
    return path


def file_hash(path: Path) -> str:
    """sha256 of a model's file; of what OpenVINO keeps in two files, of one after the other."""
    digest = hashlib.sha256()
    for one in (path, path.with_suffix(".bin")) if path.suffix.lower() == ".xml" else (path,):
        with one.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()
