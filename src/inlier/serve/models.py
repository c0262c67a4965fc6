"""The model of a station: a file, and the calibration and region of interest that the station gave it."""

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inlier import artifact
from inlier.calibration import Rule
from inlier.data.region import Region, read_region
from inlier.errors import ArtifactError, InlierError
from inlier.inspection.inspector import Inspector
from inlier.runtime.load import load
from inlier.serve.config import StationConfig

log = logging.getLogger("inlier")
Key = tuple[str, str | None, str]  # sha256 of a model's file, runtime and device: what alike stations need only once


@dataclass(frozen=True)
class Model:
    """What judges from one moment to the next change; a picture is judged by one of them as a whole."""

    inspector: Inspector
    key: Key
    path: Path
    alpha: float | None
    confidence: float | None
    category: str | None

    @property
    def sha256(self) -> str:
        """Of the file that it was read from."""
        return self.key[0]

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


def check_model(config: StationConfig) -> None:
    """Raise InlierError where the station's model is no file."""
    try:
        artifact.check_is_file(config.model)
    except ArtifactError as error:
        raise InlierError(f"station {config.name}: {error}") from None


def open_model(config: StationConfig, folder: Path, opened: Mapping[Key, Inspector]) -> Model:
    """The station's model, warm. folder: where models that stations calibrated lie. Raises InlierError.

    opened: what is open already.
    """
    path = config.model
    check_model(config)
    base = file_hash(path)
    own = calibrated_file(config, base, folder)
    if own:
        log.info("station %s: judges with %s, which it calibrated from %s", config.name, own, path)
    elif config.region and config.good:
        own = _with_region(config, base, folder)
    chosen = own or path
    key = file_hash(chosen), config.runtime, config.device
    inspector = opened.get(key) or load(chosen, config.device, runtime=config.runtime)
    if config.category is not None and config.category not in inspector.categories_:
        known = ", ".join(inspector.categories_)
        raise InlierError(
            f"station {config.name}: category: {path} was not fitted on {config.category!r}, only: {known}"
        )
    model = Model(inspector, key, chosen, config.alpha, config.confidence, config.category)
    _ = model.rule  # an alpha that cannot be promised is said now
    try:
        inspector.geometry_for(model.known_category)
    except InlierError as error:
        raise InlierError(f"station {config.name}: category: {path}: {error}") from None
    if key not in opened:
        model.warm_up()
    return model


def _with_region(config: StationConfig, base: str, folder: Path) -> Path:
    """The configured model, calibrated for the configured region on the configured pictures; made once for them."""
    assert config.region and config.good
    told = hashlib.sha256(f"{_region_hash(config)} {config.good}".encode()).hexdigest()
    path = folder / f"{config.name}-{base[:12]}-region-{told[:12]}{config.model.suffix}"
    if not path.is_file():
        log.info("station %s: calibrates %s for the region %s", config.name, config.model, config.region)
        inspector = recalibrated(config, config.model, config.good, read_region(config.region))
        save(inspector, path)
    return path


def _region_hash(config: StationConfig) -> str | None:
    """Of what station.toml names as region, if it does. Raises InlierError."""
    return file_hash(config.region) if config.region else None


def recalibrated(config: StationConfig, path: Path, good: Path | Sequence[Path], region: Region | None) -> Inspector:
    """The model in a file with a calibration on other good pictures. region: None: as it was. Raises InlierError."""
    inspector = load(path, config.device)  # by the file's own runtime, or the result would be a file of another kind
    if len(inspector.categories_) > 1:
        raise InlierError(
            "this model judges several categories: calibrate it with `inlier calibrate` on a data set that has them all"
        )
    if region is not None:
        inspector.regions_ = {"": region}
    inspector.calibrate(good if isinstance(good, Path) else list(good))
    return inspector


def save(inspector: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    inspector.save(path)


def calibrated_file(config: StationConfig, base: str, folder: Path) -> Path | None:
    """What the station calibrated last; a new model file, or a new region in station.toml, is taken instead of it."""
    note, region = folder / f"{config.name}.json", _region_hash(config)
    if not note.is_file():
        return None
    try:
        told = json.loads(note.read_text())
        path = folder / Path(told["file"]).name
        is_new = told.get("base") != base or told.get("region", region) != region  # older notes name no region
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise InlierError(
            f"{note}: is damaged; remove it, and the station judges with its model's own calibration"
        ) from None
    if is_new:
        log.info("station %s: %s is set aside: model or region are new since it was calibrated", config.name, path)
    return path if path.is_file() and not is_new else None


def adopt(inspector: Any, config: StationConfig, folder: Path) -> Path:
    """Keep a calibrated model beside the records, and judge with it from the next start on."""
    told = {"base": file_hash(config.model), "region": _region_hash(config)}
    known = [int(m[1]) for p in folder.glob("*") if (m := re.fullmatch(rf"{re.escape(config.name)}-(\d+)\..*", p.name))]
    path = folder / f"{config.name}-{max(known, default=0) + 1}{config.model.suffix}"
    save(inspector, path)
    artifact.write_bytes(folder / f"{config.name}.json", json.dumps(told | {"file": path.name}).encode())
    return path


def file_hash(path: Path) -> str:
    """sha256 of a file; of a model that OpenVINO keeps in two, of one after the other. Raises InlierError."""
    digest = hashlib.sha256()
    try:
        for one in (path, path.with_suffix(".bin")) if path.suffix.lower() == ".xml" else (path,):
            with one.open("rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
    except OSError as error:
        raise InlierError(f"{error.filename or path}: cannot be read ({error.strerror or error})") from None
    return digest.hexdigest()
