"""`inlier study`: measurement system analysis for attributes: may people and models judge parts?"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inlier import artifact
from inlier.cli.options import Alpha, Confidence, Device, Group, Runtime, Seed
from inlier.cli.outputs import check_stdout, percent, print_table, protect, read_by, say
from inlier.errors import InlierError
from inlier.names import shown

if TYPE_CHECKING:
    from inlier.data.datasets.sample import Sample
    from inlier.inspection.inspector import Inspector
    from inlier.study.judgements import Table
    from inlier.study.parts import Part

study = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Plan, run and report an attribute study (AIAG, MSA): may people and models judge parts?",
)

Folder = Annotated[Path, typer.Option("--study", help="The study's folder.")]
FOLDER = Path("study")
TRIALS = 3  # the manual's
BORDERLINE = 16  # parts; with the clear ones 50, as the manual has
FAILURES = 4  # numbers of misses that a plan tells of


@study.command()
def plan(
    data: Annotated[
        str | None, typer.Argument(help="Where parts are drawn from: test pictures of a data set. Default: none are.")
    ] = None,
    folder: Folder = FOLDER,
    escape: Annotated[
        float,
        typer.Option(min=1e-6, max=0.5, help="The statement wanted: at most such a share of defects is missed, ..."),
    ] = 0.05,
    confidence: Annotated[float, typer.Option(min=0.5, max=0.999999, help="... with this confidence.")] = 0.95,
    model: Annotated[Path | None, typer.Option(help="A model whose scores say which parts are borderline.")] = None,
    good: Annotated[int, typer.Option(min=0, help="Good parts to draw.")] = 17,
    defects: Annotated[int, typer.Option(min=0, help="Defects to draw.")] = 17,
    borderline: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Parts near the model's threshold to draw, half of them defects. Default: "
            f"{BORDERLINE} with --model, else none.",
        ),
    ] = None,
    appraisers: Annotated[str, typer.Option(metavar="NAME,...", help="Who gets a sheet to fill in.")] = "A,B,C",
    trials: Annotated[int, typer.Option(min=1, max=20, help="How often each judges each part.")] = TRIALS,
    category: Annotated[str | None, typer.Option(help="Which one of DATA, where it has several.")] = None,
    group: Group = None,
    alpha: Alpha = None,
    seed: Seed = 0,
    device: Device = "auto",
    runtime: Runtime = None,
) -> None:
    """Say how many defects a statement needs, and draw parts from DATA with a sheet for each appraiser."""
    check_stdout()
    _print_sizes(escape, confidence)
    if data is None:
        return
    from inlier.data.check import check, grouped
    from inlier.data.datasets import open_dataset
    from inlier.progress import progress
    from inlier.report.pages import check_installed
    from inlier.runtime.load import load
    from inlier.study import parts
    from inlier.study.judgements import sheet_files, write_sheets

    check_installed()
    dataset = open_dataset(data, [category] if category else [])
    if len(dataset.categories) != 1:
        raise InlierError(f"{dataset.name}: one category at a time; choose one of {', '.join(dataset.categories)}")
    if (folder / parts.FILE).exists():
        raise InlierError(f"{shown(folder)}: holds a study already; choose another folder, or remove that one")
    names = [name.strip() for name in appraisers.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise InlierError(f"--appraisers {appraisers}: names with commas between them, each once")
    sheets = itertools.chain(*(sheet_files(folder, name) for name in names))
    read = [*read_by(data, dataset), *filter(None, [model])]
    protect([folder / "pictures" / "P001.png", folder / parts.FILE, *sheets], read)
    if borderline is None:
        borderline = BORDERLINE if model else 0
    inspector = load(model, device, runtime=runtime) if model and borderline else None
    if good + defects + borderline == 0:
        raise InlierError("a study needs parts: --good, --defects and --borderline are all 0")
    samples = dataset.test
    numbers = grouped(samples, range(len(samples)), group)
    found: dict[int, list[Sample]] = {}
    for number, sample in zip(numbers, samples, strict=True):
        found.setdefault(number, []).append(sample)
    candidates = list(found.values())
    for pictures in candidates:
        if len({sample.is_defect for sample in pictures}) > 1:
            raise InlierError(f"{shown(pictures[0].name)}: pictures of its part are good and defect; mend --group")
    with progress("checking pictures", len(samples)) as show:
        check(replace(dataset, samples=samples), show=show)
    artifact.check_writable(folder / parts.FILE)
    scores, threshold = _scores(inspector, candidates, alpha)
    defect = [pictures[0].is_defect for pictures in candidates]
    drawn, kinds = parts.draw(defect, scores, threshold, (good, defects, borderline), seed)
    scores_of_drawn = [None if scores is None else scores[i] for i in drawn]
    laid = parts.lay_out(folder, [candidates[i] for i in drawn], kinds, scores_of_drawn)
    for path in write_sheets(folder, laid, names, trials, seed):
        say(f"{shown(path)}: {trials * len(laid)} judgements to make: good or defect")
    n = sum(part.is_defect for part in laid)
    say(f"{shown(folder)}: {len(laid)} parts, {len(laid) - n} good and {n} defects; {parts.FILE} knows the truth")


@study.command()
def run(
    sources: Annotated[
        list[Path], typer.Argument(metavar="SOURCE...", help="Sheets that were filled in (.csv), and models.")
    ],
    folder: Folder = FOLDER,
    trials: Annotated[
        int | None, typer.Option(min=1, max=20, help="How often a model judges each part. Default: as planned.")
    ] = None,
    light: Annotated[
        float,
        typer.Option(min=0, max=50, help="Where a part has one picture, models judge it again with other light: %."),
    ] = 3.0,
    position: Annotated[float, typer.Option(min=0, max=20, help="... and position: % of the longer side.")] = 1.0,
    focus: Annotated[float, typer.Option(min=0, max=10, help="... and focus: pixels of blur.")] = 0.5,
    planted: Annotated[
        int, typer.Option(min=0, help="Defects of known size to plant in good parts, for models to find.")
    ] = 60,
    alpha: Alpha = None,
    confidence: Confidence = None,
    seed: Seed = 0,
    device: Device = "auto",
    runtime: Runtime = None,
) -> None:
    """Take the judgements of people from filled sheets, and have models judge the same parts."""
    from inlier.study import judgements, judging
    from inlier.study.parts import read_parts

    check_stdout()
    parts = read_parts(folder)
    artifact.check_writable(folder / judgements.FOLDER / "A.csv")
    planned = judgements.planned_trials(folder, parts)
    trials = trials or planned or TRIALS
    sheets = {source: judgements.read_judgements(source, parts, planned) for source in sources if _is_sheet(source)}
    said_by = [{j.appraiser for j in sheets[source]} if source in sheets else {source.name} for source in sources]
    if twice := [name for name, n in Counter(itertools.chain(*said_by)).items() if n > 1]:
        raise InlierError(f"several sources are of {', '.join(map(shown, twice))}: the last would replace the others")
    for sheet in sheets.values():
        judgements.arranged(sheet, parts)  # or an incomplete one would be noticed by the report only
    for source in sources:
        if source in sheets:
            for path in judgements.keep(folder, sheets[source], parts):
                say(f"{shown(path)}: kept")
            continue
        from inlier.runtime.load import load

        inspector = load(source, device, runtime=runtime)
        around = judging.Surroundings(light, position, focus)
        said = judging.judge(inspector, source.name, parts, trials, around, seed, alpha=alpha, confidence=confidence)
        found = judging.detect(inspector, source.name, parts, said, planted, seed, alpha=alpha, confidence=confidence)
        for path in judgements.keep(folder, said, parts):
            say(f"{shown(path)}: kept")
        if found:
            path = judging.keep_detections(folder, source.name, found)
            say(f"{shown(path)}: {sum(d.found for d in found)} of {len(found)} defects of known size found")


def _is_sheet(source: Path) -> bool:
    return source.suffix.lower() == ".csv"


@study.command()
def report(folder: Folder = FOLDER) -> None:
    """Write the study's page (index.html) and all its figures (study.csv).

    The page has the robustness card, too, where `inlier stress MODEL DATA --out STUDY` wrote one.
    """
    from inlier.bench import card, stress
    from inlier.report.pages import check_installed
    from inlier.study import judgements, page
    from inlier.study.judging import kept_detections
    from inlier.study.parts import read_parts

    check_installed()
    check_stdout()
    parts = read_parts(folder)
    table = judgements.arranged(judgements.kept(folder, parts), parts)
    artifact.check_writable(folder / page.FILES[0])
    _print_agreement(parts, table)
    changes = folder / card.FILES[1]
    robustness = stress.read(changes) if changes.is_file() else None
    for path in page.write(parts, table, kept_detections(folder), robustness, folder):
        say(f"{shown(path)}: written")


def _print_sizes(escape: float, confidence: float) -> None:
    from inlier.metrics import exact_interval
    from inlier.study.plan import chance, parts_needed, parts_needed_bayes

    rows = []
    for misses in range(FAILURES):
        n = parts_needed(escape, confidence, misses)
        bayes = parts_needed_bayes(escape, confidence, misses)
        good = [percent(chance(escape / part, n, misses)) for part in (2, 5, 10)]
        rows.append((str(misses), str(n), str(bayes), *good))
    shares = [f"chance to pass\nif {100 * escape / part:.3g} % escape" for part in (2, 5, 10)]
    title = f"defects to judge for 'at most {100 * escape:g} % escape, {100 * confidence:g} % confidence'; chances in %"
    print_table(title, ("missed\nat most", "exact", "Bayes", *shares), rows)
    say("as many good parts for the same statement about false alarms; parts count, trials of one part add none")
    for n in (50, 100, 200):
        low, high = map(percent, exact_interval(round(0.9 * n), n, confidence))
        say(f"{n} parts pin an effectiveness of 90 % down to between {low} and {high} %")
    say(f"the manual's study: 50 parts, {TRIALS} appraisers, {TRIALS} trials")


def _scores(
    inspector: "Inspector | None", candidates: "Sequence[Sequence[Sample]]", alpha: float | None
) -> tuple[list[float] | None, float | None]:
    """Of each part's first picture, and the threshold."""
    from inlier.progress import progress

    if inspector is None:
        return None, None
    known = inspector.category_of(candidates[0][0].category)
    found: list[float] = []
    with progress("looking for borderline parts", len(candidates)) as show:
        for p in inspector.predict([of[0].source for of in candidates], alpha=alpha, category=known, maps=False):
            assert p.score is not None  # what cannot be read was an error
            found.append(p.score)
            show(len(found))
    rule = inspector.calibration_.rule(alpha, None, known)
    return found, None if rule is None else rule.threshold


def _print_agreement(parts: "Sequence[Part]", table: "Table") -> None:
    import numpy as np

    from inlier.study.agreement import agreement

    found = agreement(table.names, table.ratings, np.array([part.is_defect for part in parts]))
    rows = []
    for a in found.appraisers:
        shares = (a.within, a.effectiveness, a.miss_rate, a.false_alarm_rate)
        kappas = ("-" if k is None else f"{k:.2f}" for k in (a.kappa_within.value, a.kappa_truth.value))
        rows.append((a.name, *(percent(share.value) for share in shares), *kappas, a.grade))
    heads = ("within", "effec-\ntiveness", "miss\nrate", "false\nalarms", "kappa,\ntrials", "kappa,\ntruth", "verdict")
    print_table(f"{len(parts)} parts, {table.ratings.shape[2]} trials, %", ("appraiser", *heads), rows)
    for name, what in table.simulated.items():
        say(f"{shown(name)}: simulated: {shown(what)}")
