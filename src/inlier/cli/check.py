"""`inlier check`: what a dataset would be used as, before anything is trained."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inlier.cli.options import Categories, Data, Workers
from inlier.cli.outputs import Numbers, print_table, read_by, say
from inlier.names import counted, shown

if TYPE_CHECKING:
    from inlier.data.check import Look, Report
    from inlier.data.datasets.sample import Dataset, Sample


def check(
    data: Data,
    category: Categories = None,
    report: Annotated[Path | None, typer.Option(help="Write a page of sample pictures to this folder.")] = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Write all of it to this file ('-': stdout).")] = None,
    workers: Workers = 2,
) -> None:
    """Show what would be used as what in DATA, and what looks wrong. Ends with exit code 2 if it cannot be used."""
    from inlier.data.check import examine
    from inlier.data.datasets import open_dataset
    from inlier.progress import progress
    from inlier.report.contact import write_contact_sheet
    from inlier.report.pages import check_installed

    dataset = open_dataset(data, category or [])
    numbers = Numbers(json_)
    if report:
        check_installed("jinja2")
    numbers.check(read_by(data, dataset), report and report / "index.html")
    with progress("checking pictures", len(dataset.samples)) as show:
        found = examine(dataset, workers, show)
    summary = summarize(dataset, found)
    if not numbers.to_stdout:
        _print(dataset, found, summary)
    numbers.write(summary)
    if report:
        numbers.say(f"page: {shown(write_contact_sheet(dataset, found, report, roles))}")
    if not summary["usable"]:
        raise typer.Exit(2)


def summarize(dataset: "Dataset", found: "Report") -> dict[str, Any]:
    """The fixed layout of `inlier check --json`."""
    categories: dict[str, Any] = {}
    seen, copies = set[int](), Counter[str]()
    for sample, group in zip(dataset.train, found.groups, strict=True):
        copies[sample.category] += group in seen
        seen |= {group} - {-1}  # -1 could not be read
    for name in dataset.categories:
        own = [(s, look) for s, look in zip(dataset.samples, found.looks, strict=True) if s.category == name]
        categories[name] = {
            "roles": {role: len(members) for role, members in roles(s for s, _ in own).items()},
            "masks": sum(bool(s.masks) for s, _ in own),
            "copies": copies[name],
            **_sizes([look for _, look in own if not look.problem or look.kind]),
        }
    return {
        "schema": 1,
        "name": dataset.name,
        "layout": dataset.layout,
        "usable": bool(dataset.train or dataset.test) and not found.problems,
        "categories": categories,
        "notes": list(dataset.notes),
        "warnings": list(found.warnings),
        "problems": [{"path": s.name, "kind": p.kind, "message": p.message} for s, p in found.problems],
        "suspicious": [{"what": what, "paths": [s.name for s in samples]} for what, samples in found.suspicious],
        "left_out": [{"why": left.reason, "paths": [str(path) for path in left.paths]} for left in dataset.left_out],
    }


def roles(samples: Iterable["Sample"]) -> dict[str, list["Sample"]]:
    """ "train, good" -> its samples, in the order in which a reader looks for them."""
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(f"{sample.split}, {sample.defect or 'good'}", []).append(sample)
    splits = ("train", "validation", "test")
    return {
        role: found[role]
        for role in sorted(found, key=lambda r: (splits.index(r.split(",")[0]), not r.endswith(", good"), r))
    }


def _sizes(looks: list["Look"]) -> dict[str, Any]:
    sizes = Counter(look.size for look in looks).most_common()
    return {
        "kinds": dict(Counter(look.kind for look in looks).most_common()),
        "sizes": {
            "different": len(sizes),
            "commonest": sizes and list(sizes[0][0]),
            "widths": sizes and [min(size[0] for size, _ in sizes), max(size[0] for size, _ in sizes)],
            "heights": sizes and [min(size[1] for size, _ in sizes), max(size[1] for size, _ in sizes)],
        },
    }


def _print(dataset: "Dataset", found: "Report", summary: dict[str, Any]) -> None:
    rows = []
    for name in dataset.categories:
        for role, samples in roles(s for s in dataset.samples if s.category == name).items():
            rows.append((name, role, str(len(samples)), str(sum(bool(s.masks) for s in samples) or "")))
    print_table(f"{dataset.name}: {dataset.layout}", ("category", "used as", "pictures", "masks"), rows)
    for name, of in summary["categories"].items():
        sizes, kinds = of["sizes"], ", ".join(f"{n} {kind}" for kind, n in of["kinds"].items())
        if not sizes["commonest"]:
            continue
        (width, height), (narrow, wide), (low, high) = sizes["commonest"], sizes["widths"], sizes["heights"]
        several = f"{sizes['different']} sizes, {narrow} to {wide} wide and {low} to {high} high, most often "
        say(f"{shown(name)}: {several if sizes['different'] > 1 else ''}{width} x {height}; {kinds}")
    for note in dataset.notes:
        say(f"note: {shown(note)}")
    for warning in found.warnings:
        say(f"warning: {shown(warning)}")
    for _, (kind, message) in found.problems:
        say(f"{kind}: {shown(message)}")
    bad = sum(s.split == "train" and not s.is_defect for s, _ in found.problems)
    say(f"for training: {_verdict(len(dataset.train), bad)}")
    say(f"for evaluation: {_verdict(len(dataset.test), len(found.problems) - bad)}")


def _verdict(pictures: int, problems: int) -> str:
    if not pictures:
        return "no pictures"
    return f"{counted(problems, 'problem<|s>')} to mend" if problems else "usable"
