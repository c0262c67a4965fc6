"""The page of a benchmark, beside its tables: one file without any reference to another."""

import itertools
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inlier import artifact
from inlier.bench import tables
from inlier.bench.compare import Group, Spread, differences, grouped
from inlier.bench.grid import best, tried
from inlier.bench.rows import Row
from inlier.data.cues import CUES
from inlier.report.charts import ranges, trade_off
from inlier.report.pages import render
from inlier.trivial import SUSPICIOUS, strongest, suspicious

MACHINE = ("processor", "cores", "threads", "device", "torch", "onednn", "python", "system", "library", "commit")
FILES = ("table.md", "table.csv", "index.html")
Pairs = dict[tuple[str, str], Spread]


def write(rows: Sequence[Row], folder: Path, compare: bool = False) -> list[Path]:
    """Write FILES into the folder, and return their paths. compare: with the published figures.

    Raises ArtifactError if they cannot be written.
    """
    groups = grouped(rows)
    html = render("benchmark.html.j2", "inlier.bench", **_values(rows, groups, differences(groups, folder), compare))
    for name, text in zip(FILES, (_markdown(rows, groups, compare), tables.as_csv(groups), html), strict=True):
        artifact.write_bytes(folder / name, text.encode(errors="backslashreplace"))
    return [folder / name for name in FILES]


def _markdown(rows: Sequence[Row], groups: Sequence[Group], compare: bool) -> str:
    def listed(lines: Sequence[str]) -> str:
        return "\n".join(f"- {tables.escaped(line)}" for line in lines)

    parts = [
        "Means over seeds (lowest to highest), shares in %. Last step; the test set is only scored.",
        tables.markdown(groups),
        listed(tables.warnings(groups)),
    ]
    if trivial := tables.trivial_table(groups):
        parts += ["Trivial baselines, AUROC in %:", trivial]
    for model, of in tried(rows).items():
        lines = [
            (name, *(f"{100 * value:.1f}" for value in found), "chosen" if name == best(of) else "")
            for name, found in of.items()
        ]
        parts += [
            f"Trials on planted defects, {tables.escaped(' '.join(model))}:",
            tables.table(("settings", "average precision", "detected", ""), lines),
        ]
    if compare and (figures := tables.published_table(groups)):
        parts += ["Published, on MVTec AD, each with its protocol:", figures, listed(tables.doubts(groups))]
    failed = [row for row in rows if row.get("error")]
    parts.append(listed([f"failed: {row['category']}, {row['method']}, seed {row['seed']}" for row in failed]))
    return "\n\n".join(filter(None, parts)) + "\n"


def _values(rows: Sequence[Row], groups: Sequence[Group], pairs: dict[str, Pairs], compare: bool) -> dict[str, Any]:
    """What the template asks for."""
    sections = [
        _section(name, list(of), pairs.get(name, {})) for name, of in itertools.groupby(groups, lambda group: group.set)
    ]
    done = [row for group in groups for row in group.rows]
    alphas = sorted({round(row["at_alpha"]["alpha"], 4) for row in done if row["at_alpha"]})
    return {
        "sections": sections,
        "means": _means(groups) if len(sections) > 1 else [],
        "variants": list(dict.fromkeys(group.variant for group in groups)),
        "seeds": sorted({row["seed"] for row in rows}),
        "alphas": alphas,
        "charts": _charts(groups, sections),
        "pairs": [_matrix(name, of) for name, of in sorted(pairs.items(), key=lambda item: item[0] != "") if of],
        "trivial": [(section["name"], section["baselines"]) for section in sections if section["baselines"]],
        "cues": CUES,
        "suspicious": SUSPICIOUS,
        "warnings": tables.warnings(groups),
        "published": tables.beside_published(groups) if compare else [],
        "doubts": tables.doubts(groups) if compare else [],
        "trials": [(model, of, best(of)) for model, of in tried(rows).items()],
        "failed": [row for row in rows if row.get("error")],
        "settings": _settings(groups),
        "machines": _machines(done),
        "noted": list(dict.fromkeys(text for row in rows for text in row.get("warnings", ()))),
    }


def _section(name: str, of: Sequence[Group], pairs: Pairs) -> dict[str, Any]:
    """A set: its variants with all numbers, and its trivial baselines."""
    scored = [group for group in of if group.spread("image AUROC")]
    top = max(scored, key=lambda group: group.spread("image AUROC") or (0.0,), default=None)
    baselines = tables.baselines(tables.one_of_each_set(of)[0])
    return {
        "name": name,
        "good": of[0].first["n_good"],
        "defects": of[0].first["n_defect"],
        "masks": any(group.first["pixel"] for group in of),
        "lines": [
            {
                "variant": group.variant,
                "device": group.first.get("device", "cpu").removeprefix("cpu"),  # where its times were taken
                "seeds": len(group.rows),
                "shares": [group.spread(column) for column in tables.SHARES],
                "costs": [tables.cost(group, column) for column in tables.COSTS],
                "processor": [
                    (spread.mean / unit if (spread := group.spread(value)) else None)
                    for value, unit in (("fit, processor s", 1.0), ("picture, processor s", 1e-3))
                ],
                "top": top is not None and (group is top or _not_told_apart(group.variant, top.variant, pairs)),
            }
            for group in of
        ],
        "baselines": baselines,
        "strongest": strongest(baselines),
        "leaks": suspicious(baselines),
    }


def _not_told_apart(one: str, other: str, pairs: Pairs) -> bool:
    found = pairs.get((one, other)) or pairs.get((other, one))
    return found is not None and found.low <= 0 <= found.high


def _means(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Means over all sets, of the variants that have them all."""
    sets = {group.set for group in groups}
    lines = []
    for variant in dict.fromkeys(group.variant for group in groups):
        own = [group for group in groups if group.variant == variant]
        if {group.set for group in own} == sets and len(own) == len(sets):
            shares = [[spread.mean for group in own if (spread := group.spread(column))] for column in tables.SHARES]
            lines.append({"variant": variant, "shares": [(statistics.mean(v), len(v)) if v else None for v in shares]})
    return lines


def _charts(groups: Sequence[Group], sections: Sequence[dict[str, Any]]) -> list[tuple[Any, str]]:
    """(chart, what it says) of what can be drawn."""
    points: list[tuple[str, float, tuple[float, float, float]]] = []
    series: dict[str, dict[str, tuple[float, float, float]]] = {}
    sets = {group.set for group in groups}
    for variant in dict.fromkeys(group.variant for group in groups):
        own = [group for group in groups if group.variant == variant]
        aurocs = {group.set: spread for group in own if (spread := group.spread("image AUROC"))}
        if aurocs:
            series[variant] = dict(aurocs)
        times = [1000 * spread.mean for group in own if (spread := group.spread("picture, s"))]
        if set(aurocs) == sets and len(times) == len(own):
            means = tuple(statistics.mean(values) for values in zip(*aurocs.values(), strict=True))
            points.append((variant, statistics.mean(times), means))  # type: ignore[arg-type]
    found = []
    if points:
        of = f", mean of {len(sets)} sets" if len(sets) > 1 else ""
        found.append(
            (
                trade_off(points, "milliseconds for a picture", f"image AUROC, %{of}", "AUROC against time"),
                "The further up and to the left, the better. Bars reach from the lowest to the highest seed.",
            )
        )
    if series:
        crosses = {s["name"]: s["strongest"][1] for s in sections if s["strongest"] and s["name"] in sets}
        found.append(
            (
                ranges(series, crosses, "best trivial detector", "image AUROC, %", "AUROC of each set"),
                "Lines reach from the lowest to the highest seed. A method earns its keep to the right of the "
                "cross: the best detector that looks at brightness, contrast, sharpness or size alone.",
            )
        )
    return found


def _matrix(name: str, pairs: Pairs) -> dict[str, Any]:
    """The differences of a set as a square: row minus column."""
    names = list(dict.fromkeys(itertools.chain(*pairs)))
    both = pairs | {(b, a): Spread(-d.mean, -d.high, -d.low) for (a, b), d in pairs.items()}
    return {"name": name, "variants": names, "rows": [[both.get((row, column)) for column in names] for row in names]}


def _settings(groups: Sequence[Group]) -> list[tuple[str, dict[str, str]]]:
    """Each variant with all its settings."""
    found: dict[str, dict[str, str]] = {}
    for group in groups:
        values = group.first.get("all_settings") or group.first["settings"]
        found.setdefault(group.variant, {k: v if isinstance(v, str) else json.dumps(v) for k, v in values.items()})
    return list(found.items())


def _machines(rows: Sequence[Row]) -> list[tuple[dict[str, str], int]]:
    """What computed, and how many rows of each."""
    found: dict[tuple[str, ...], int] = {}
    for row in rows:
        of = tuple(str(row.get(name, "not known")) for name in MACHINE)
        found[of] = found.get(of, 0) + 1
    return [(dict(zip(MACHINE, of, strict=True)), n) for of, n in found.items()]
