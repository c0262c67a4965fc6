"""The tables of a benchmark, as Markdown and as CSV. Shares in %."""

import csv
import io
import itertools
import statistics
from collections.abc import Sequence
from typing import Any

from inlier.bench import published
from inlier.bench.compare import VALUES, Group
from inlier.names import shown
from inlier.report.pages import percent
from inlier.settings import as_text
from inlier.trivial import Baseline, warning

HERE = "this benchmark"
SHARES = ("image AUROC", "image AP", "pixel AUROC", "AUPRO", "false alarms", "detected")
COSTS = {  # name -> value, divisor, decimals
    "fit, s": ("fit, s", 1.0, 1),
    "picture, ms": ("picture, s", 1e-3, 1),
    "memory, MiB": ("peak memory, bytes", 2**20, 0),
    "file, MiB": ("file, bytes", 2**20, 1),
}


def markdown(groups: Sequence[Group], columns: Sequence[str] = (*SHARES, *COSTS)) -> str:
    """One line for each set and variant: means over seeds, with lowest and highest where they differ."""
    lines = []
    for group in groups:
        first = group.first
        changed = group.variant.removeprefix(f"{first['method']} ")
        values = [share(group, column) if column in SHARES else cost(group, column) for column in columns]
        lines.append([group.set, first["method"], changed, str(len(group.rows)), *values])
    return table(("set", "method", "preset", "seeds", *columns), lines)


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown; names cannot break out of their cells."""
    cells = [[escaped(cell) for cell in line] for line in lines]
    rows = [f"| {' | '.join(line)} |" for line in [list(heads), *cells]]
    return "\n".join([rows[0], "|---" * len(heads) + "|", *rows[1:]])


def escaped(text: str) -> str:
    """A name in Markdown."""
    return shown(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def share(group: Group, column: str) -> str:
    """ "97.1" or "89.0 (85.4 to 92.7)"."""
    spread = group.spread(column)
    if spread is None:
        return "no masks" if column in ("pixel AUROC", "AUPRO") else "-"
    mean, low, high = (100 * value for value in spread)
    return f"{mean:.1f}" if high - low < 0.05 else f"{mean:.1f} ({low:.1f} to {high:.1f})"


def cost(group: Group, column: str) -> str:
    """The mean over seeds, in the column's unit."""
    value, unit, decimals = COSTS[column]
    spread = group.spread(value)
    return "-" if spread is None else f"{spread.mean / unit:.{decimals}f}"


def baselines(group: Group) -> dict[str, Baseline]:
    """Those of a group's set; none where its rows are of before there were any."""
    known: dict[str, Any] = next((row["trivial"] for row in group.rows if row.get("trivial")), {})
    return {cue: Baseline(**values) for cue, values in known.items()}


def one_of_each_set(groups: Sequence[Group]) -> list[Group]:
    """One that has the set's baselines, where any has: rows of before there were any are among them."""
    sets = [list(of) for _, of in itertools.groupby(groups, lambda group: group.set)]
    return [max(of, key=lambda group: bool(baselines(group))) for of in sets]


def warnings(groups: Sequence[Group]) -> list[str]:
    """What a reader must know before believing the figures, a sentence each."""
    of_sets = (warning(group.set, baselines(group)) for group in one_of_each_set(groups))
    found = list(filter(None, of_sets))
    alphas = {round(row["at_alpha"]["alpha"], 4) for group in groups for row in group.rows if row["at_alpha"]}
    if len(alphas) > 1:
        found.append(
            f"false alarms and detected are at alphas from {100 * min(alphas):.3g} to {100 * max(alphas):.3g} %, the "
            "lowest that each calibration can promise: they do not compare; --alpha sets one for all"
        )
    return found


def trivial_table(groups: Sequence[Group]) -> str:
    """Each cue of each set: as a detector, and as a leak."""
    lines = []
    for group in one_of_each_set(groups):
        for cue, (detector, leak) in baselines(group).items():
            lines.append([group.set, cue, percent(detector), percent(leak)])
    return table(("set", "cue", "as a detector", "as a leak"), lines) if lines else ""


def beside_published(groups: Sequence[Group]) -> list[published.Figure]:
    """For each category of which somebody published figures: those of this benchmark, then theirs."""
    found = []
    figures = published.figures([group.first["category"] for group in groups])
    for category in dict.fromkeys(figure.category for figure in figures):
        wanted = published.MVTEC if category == published.MEAN else (category,)
        for variant in dict.fromkeys(group.variant for group in groups):
            own = [group for group in groups if group.variant == variant and group.first["category"] in wanted]
            values = [
                [100 * spread.mean for group in own if (spread := group.spread(name))]
                for name in ("image AUROC", "pixel AUROC", "AUPRO")
            ]
            means = [statistics.mean(of) if len(of) == len(wanted) else None for of in values]
            image, pixel, aupro = means
            if image is not None:
                note = f"seeds: {min(len(group.rows) for group in own)}"
                protocol = published.SHARED if own[0].first.get("joint") else published.LAST
                found.append(published.Figure(category, variant, protocol, HERE, note, image, pixel, aupro))
        found += [figure for figure in figures if figure.category == category]
    return found


def published_table(groups: Sequence[Group]) -> str:
    """`beside_published` in Markdown; "" where there is nothing."""
    lines = []
    for figure in beside_published(groups):
        numbers = ["-" if value is None else f"{value:.1f}" for value in (figure.image, figure.pixel, figure.aupro)]
        lines.append([figure.category, figure.run, figure.protocol, *numbers, figure.source, figure.note])
    heads = ("category", "run", "protocol", "image AUROC", "pixel AUROC", "AUPRO", "source", "note")
    return table(heads, lines) if lines else ""


def doubts(groups: Sequence[Group]) -> list[str]:
    """Where a set cannot be the published one."""
    of = [
        (group.first["category"], group.first["n_good"], group.first["n_defect"]) for group in one_of_each_set(groups)
    ]
    return [doubt for counts in of if (doubt := published.doubt(*counts))]


def as_csv(groups: Sequence[Group]) -> str:
    """One line for each set and variant: of each value mean, lowest and highest over the seeds, as rows have it."""
    text = io.StringIO()
    values = [f"{name}{part}" for name in VALUES for part in ("", " lowest", " highest")]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["set", "method", "preset", "settings", "joint", "seeds", "good", "defects", "alpha", *values])
    for group in groups:
        first = group.first
        numbers = [group.spread(name) or (None, None, None) for name in VALUES]
        changed = ";".join(f"{key}={as_text(value)}" for key, value in first["settings"].items())
        about = [
            group.set,
            first["method"],
            first["preset"],
            changed,
            len(first.get("joint") or ()) or 1,
            len(group.rows),
        ]
        alpha = (first["at_alpha"] or {}).get("alpha")
        writer.writerow([*map(str, about), first["n_good"], first["n_defect"], alpha, *itertools.chain(*numbers)])
    return text.getvalue()
