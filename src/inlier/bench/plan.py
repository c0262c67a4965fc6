"""What a sweep will run: sets and categories x methods, presets and settings x seeds, all checked before the first."""

import hashlib
import itertools
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inlier import methods
from inlier.bench.rows import Row
from inlier.data.batches import read_ahead
from inlier.data.datasets import open_dataset
from inlier.data.datasets.sample import Dataset, Sample
from inlier.data.images import read_bytes, read_image
from inlier.errors import ImageError, InlierError
from inlier.progress import progress
from inlier.settings import Settings, as_text

if TYPE_CHECKING:
    from inlier.detector import Detector

MOST_SEEDS = 1000  # each is a model of its own


@dataclass(frozen=True)
class Variant:
    """A method with its settings."""

    method: str
    preset: str
    settings: dict[str, Any]  # as the constructor takes them
    everything: dict[str, Any]  # all settings as rows have them: of files and folders the last name only
    changed: dict[str, Any]  # of these what differs from the preset

    def create(self, seed: int = 0, device: str = "auto") -> "Detector[Any, Any]":
        return methods.create(self.method, self.preset, seed=seed, device=device, **self.settings)


@dataclass(frozen=True, eq=False)  # itself, and no other: comparing thousands of samples would take long
class Source:
    """One category of one set."""

    data: str  # the set's name
    category: str
    label: str  # the category, with the set where several have one of that name
    dataset: Dataset  # this category alone, under its label
    fingerprint: str  # of all good training and test pictures, and the masks


@dataclass(frozen=True)
class Cell:
    """One model: what it is fitted on, and how."""

    kind: str  # "test": tested on the test pictures; "trial": on defects planted in held-out good pictures
    sources: tuple[Source, ...]  # several: one model for all of them
    variant: Variant
    seed: int
    alpha: float | None

    @property
    def model(self) -> tuple[tuple[Source, ...], str, str]:
        """What one choice of settings is made for."""
        return self.sources, self.variant.method, self.variant.preset

    @property
    def name(self) -> str:
        """For people."""
        changed = ", ".join(f"{key}={as_text(value)}" for key, value in self.variant.changed.items())
        what = " ".join(filter(None, [self.variant.method, self.variant.preset, changed]))
        trial = " (trial)" if self.kind == "trial" else ""
        return f"{' + '.join(source.label for source in self.sources)}: {what}, seed {self.seed}{trial}"

    def rows(self) -> list[Row]:
        """What is known of its rows before it is run, one a category."""
        joint = {source.label: source.fingerprint for source in self.sources} if len(self.sources) > 1 else None
        return [
            {
                "kind": self.kind,
                "data": source.data,
                "category": source.category,
                "joint": joint,
                "fingerprint": source.fingerprint,
                "method": self.variant.method,
                "preset": self.variant.preset,
                "settings": self.variant.changed,
                "all_settings": self.variant.everything,
                "alpha": self.alpha,
                "seed": self.seed,
            }
            for source in self.sources
        ]


def seeds(text: str) -> list[int]:
    """ "3": the first three; "0,7": these; "7,": this one. Raises InlierError.

    >>> seeds("3"), seeds("0,7"), seeds("7,")
    ([0, 1, 2], [0, 7], [7])
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() for part in parts):
        raise InlierError(f"--seeds: {text!r} is neither a number of seeds nor a list of them, such as 3 or 0,1,2")
    # more digits than any seed has say enough of a number; Python reads no more than 4300 of them
    numbers = [int(part.lstrip("0")[:11] or "0") for part in parts]
    if not 1 <= (len(numbers) if "," in text else numbers[0]) <= MOST_SEEDS:
        raise InlierError(f"--seeds: {text[:40]!r} must give at least one seed, and at most {MOST_SEEDS}")
    found = numbers if "," in text else list(range(numbers[0]))
    if max(found) >= 2**31 or len(set(found)) < len(found):
        raise InlierError(f"--seeds: {text[:40]!r} must give each seed once, from 0 to {2**31 - 1}")
    return found


def variants(
    names: Sequence[str], presets: Sequence[str], changes: Sequence[str], grid: Sequence[str]
) -> list[list[Variant]]:
    """For each method and preset, its settings: one, or all combinations of the grid.

    changes: "KEY=VALUE" for all methods, or "METHOD.KEY=VALUE" for one. grid: the same with several values, of which a
    list stands in brackets: "lr=0.01,0.04", "taps=[8],[8,16]". Raises InlierError for what no method takes.
    """
    for what, named in (("method", names), ("preset", presets)):
        if not named or len(set(named)) < len(named):
            raise InlierError(f"--{what}s: name at least one, each once, with commas between, not {','.join(named)!r}")
    found = []
    backbones = set()  # that were built
    for name, preset in itertools.product(names, presets):
        kind = methods.get(name)
        if preset not in kind.presets:
            raise InlierError(f"{name} has no preset '{preset}'. Known: {', '.join(kind.presets)}")
        fixed = type(kind.presets[preset]).parse(_of_method(name, names, changes))
        axes = parse_grid(name, preset, _of_method(name, names, grid), fixed)
        points: dict[str, Variant] = {}
        for point in itertools.product(*axes.values()):
            values = fixed | dict(zip(axes, point, strict=True))
            detector = methods.create(name, preset, **values)
            settings = detector.complete()  # what cannot be used is said now, not after hours
            if (settings.backbone, settings.taps) not in backbones:
                detector.build_backbone(settings)
                backbones.add((settings.backbone, settings.taps))
            plain, everything = (_plain(of) for of in (kind.presets[preset], detector.settings))
            changed = {key: value for key, value in everything.items() if value != plain[key]}
            points.setdefault(json.dumps(changed), Variant(name, preset, values, everything, changed))
        found.append(list(points.values()))
    return found


def parse_grid(method: str, preset: str, texts: Sequence[str], fixed: Collection[str] = ()) -> dict[str, list[Any]]:
    """["lr=0.01,0.04", "taps=[8],[8,16]"] -> values by setting. fixed: settings that a grid may not have.

    Raises InlierError for what does not fit.
    """
    parse = type(methods.get(method).presets[preset]).parse
    found: dict[str, list[Any]] = {}
    for text in texts:
        name, _, values = (part.strip() for part in text.partition("="))
        parts = list(_parts(values))
        if not parts:
            raise InlierError(f"--grid: '{text}' is not KEY=VALUE,VALUE,...")
        if name in found or name in fixed:
            raise InlierError(f"{method}'s {name} is given twice, by --grid or by --set; leave one out")
        found[name] = [parse([f"{name}={value}"])[name] for value in parts]
    return found


def sources(data: Sequence[Any], categories: Sequence[str], workers: int) -> list[Source]:
    """The categories of all sets; the bytes of each picture are read once.

    Raises InlierError for sets that cannot be used, or not be told apart.
    """
    sets = [open_dataset(one) for one in data]
    known = list(dict.fromkeys(name for dataset in sets for name in dataset.categories))
    if unknown := [name for name in categories if name not in known]:
        raise InlierError(f"no set has a category {', '.join(unknown)}. There are: {', '.join(known)}")
    pairs = [(dataset, name) for dataset in sets for name in dataset.categories if not categories or name in categories]
    for dataset in sets:
        if not any(dataset is one for one, _ in pairs):
            raise InlierError(f"{dataset.name}: has none of the categories {', '.join(categories)}; leave it out")
    plain = [name for _, name in pairs]
    labels = [name if plain.count(name) == 1 else f"{dataset.name}/{name}" for dataset, name in pairs]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise InlierError(f"{', '.join(twice)}: given twice, or two sets of one name: rename the folder of one")
    found = []
    for (dataset, name), label in zip(pairs, labels, strict=True):
        own = dataset.select([name])
        if not own.train or not own.test:
            kind = "good training" if not own.train else "test"
            raise InlierError(f"{dataset.name}: {name} has no {kind} pictures ({dataset.layout})")
        samples = tuple(replace(sample, category=label) for sample in own.samples)
        found.append(_source(replace(own, samples=samples), name, label, workers))
    return found


def joined(sources: Sequence[Source]) -> Dataset:
    """All of them as one set."""
    if len(sources) == 1:
        return sources[0].dataset
    names = dict.fromkeys(source.data for source in sources)
    samples = tuple(sample for source in sources for sample in source.dataset.samples)
    return Dataset(" + ".join(names), f"{len(sources)} categories together", samples)


def _source(dataset: Dataset, category: str, label: str, workers: int) -> Source:
    used = [*dataset.train, *dataset.test]
    lines: list[str] = []
    with (
        progress(f"reading {label}", len(used)) as show,
        closing(read_ahead(_digest, used, workers, 4 * workers)) as digests,
    ):
        for sample, digest in zip(used, digests):
            lines.append(f"{sample.split} {sample.defect} {digest}\n")
            show(len(lines))
    fingerprint = hashlib.sha256("".join(sorted(lines)).encode(errors="backslashreplace")).hexdigest()
    return Source(dataset.name, category, label, dataset, fingerprint)


def _digest(sample: Sample) -> str:
    """sha256, hexadecimal, of the bytes of a picture and its masks.

    Where one cannot be read each model of this category will say so, and the others have theirs.
    """
    try:
        if isinstance(sample.source, Path):
            digest = hashlib.sha256(read_bytes(sample.source))
        else:
            image = read_image(sample.source, sample.name)
            digest = hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes())
        for mask in sample.masks:
            digest.update(read_bytes(mask))
    except ImageError:
        return f"unreadable {sample.name}"
    return digest.hexdigest()


def _plain(settings: Settings) -> dict[str, Any]:
    """All settings, as a file of JSON gives them back."""
    found: dict[str, Any] = json.loads(json.dumps(settings.public()))
    return found


def _of_method(name: str, names: Iterable[str], texts: Sequence[str]) -> list[str]:
    """Of "KEY=VALUE" and "METHOD.KEY=VALUE" those for this method, without its name."""
    found = []
    for text in texts:
        owner, dot, _ = text.partition("=")[0].partition(".")
        if dot and owner.strip() not in names:
            raise InlierError(f"'{text}': {owner.strip()} is not among the methods of this benchmark")
        if not dot or owner.strip() == name:
            found.append(text[len(owner) + 1 :] if dot else text)
    return found


def _parts(text: str) -> Iterator[str]:
    """Values between commas that stand in no bracket."""
    depth = 0
    part = ""
    for sign in text:
        depth += (sign in "[(") - (sign in "])")
        if sign == "," and depth == 0:
            yield part.strip()
            part = ""
        else:
            part += sign
    if part.strip():
        yield part.strip()
