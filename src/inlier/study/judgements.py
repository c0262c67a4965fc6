"""What appraisers said: the sheets that people fill in, and judgements as they are kept in the study's folder."""

import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from inlier import artifact
from inlier.errors import InlierError
from inlier.names import counted, file_name
from inlier.report.pages import render
from inlier.study.agreement import Ratings
from inlier.study.parts import Part, fingerprint, read_table

FOLDER = "judgements"
COLUMNS = ("appraiser", "trial", "part", "verdict", "simulated", "study")
NEEDED = COLUMNS[:4]  # a table of one's own may lack the others
SHEET = ("appraiser", "trial", "part", "picture", "study", "verdict")
WORDS = {  # 0 and 1 are no words: the manual writes 1 for accepted, others for a defect
    **dict.fromkeys(("good", "ok", "pass", "accept", "accepted", "g"), False),
    **dict.fromkeys(("defect", "nok", "ng", "fail", "reject", "rejected", "bad", "d"), True),
}


class Judgement(NamedTuple):
    appraiser: str
    trial: int  # from 1
    part: str
    is_defect: bool  # the verdict
    simulated: str = ""  # what of it is simulated


class Table(NamedTuple):
    """All judgements of a study."""

    names: list[str]  # of the appraisers
    ratings: Ratings  # (appraisers, parts, trials)
    simulated: dict[str, str]  # of those appraisers of whom something is: what


def sheet_files(folder: Path, appraiser: str) -> tuple[Path, Path]:
    """The table and the page of an appraiser."""
    page = folder / file_name(f"sheet-{appraiser}.html")  # the longer suffix: where it fits, both do
    return page.with_suffix(".csv"), page


def write_sheets(folder: Path, parts: Sequence[Part], appraisers: Sequence[str], trials: int, seed: int) -> list[Path]:
    """Two files for each appraiser: a table whose verdicts are blank, and a page that asks for them and saves it.

    All trials one after the other, each in an order of its own. The page needs no server and sends nothing.
    """
    paths, study = [], fingerprint(parts)
    for number, name in enumerate(appraisers):
        rows = []
        for trial in range(1, trials + 1):
            for i in np.random.default_rng((seed, number, trial)).permutation(len(parts)):
                picture = parts[i].pictures[(trial - 1) % len(parts[i].pictures)]
                rows.append((name, trial, parts[i].name, picture.relative_to(folder).as_posix(), study, ""))
        table, page = sheet_files(folder, name)
        artifact.write_table(table, SHEET, rows)
        key = secrets.token_hex(8)  # of what the browser remembers: another study's sheet is another one
        html = render("sheet.html.j2", "inlier.study", appraiser=name, rows=rows, columns=SHEET, key=key,
                      file=table.name)  # fmt: skip
        artifact.write_bytes(page, html.encode(errors="backslashreplace"))
        paths += [table, page]
    return paths


def planned_trials(folder: Path, parts: Sequence[Part]) -> int | None:
    """Of the sheets that were written; None where there are none.

    Their length tells: people fill them in, and a number mistyped in one must not become the plan.
    """
    sheets = [list(read_table(sheet, SHEET)) for sheet in folder.glob("sheet-*.csv")]
    lengths = [len([_trial(row["trial"], where) for where, row in rows]) for rows in sheets]
    return max(lengths, default=0) // len(parts) or None


def read_judgements(path: Path, parts: Sequence[Part], trials: int | None = None) -> list[Judgement]:
    """A sheet that was filled in, or judgements as they are kept. trials: that were planned, where it is known.

    Raises InlierError, also for another study's.
    """
    known, study = {part.name for part in parts}, fingerprint(parts)
    found: dict[tuple[str, int, str], Judgement] = {}
    for where, row in read_table(path, NEEDED):
        name, part, verdict = row["appraiser"], row["part"], row["verdict"]
        trial = _trial(row["trial"], where)
        if trials is not None and trial > trials:
            planned = counted(trials, "<trial was|trials were> planned")
            raise InlierError(f"{where}: there is no trial {trial}, as {planned}")
        if row.get("study", study) != study:
            raise InlierError(f"{where}: is of another study, or pictures of this one were replaced since")
        if not name:
            raise InlierError(f"{where}: needs an appraiser's name")
        if part not in known:
            raise InlierError(f"{where}: the study has no part {part!r}")
        if verdict.lower() not in WORDS:
            raise InlierError(f"{where}: the verdict must be good or defect, not {verdict!r}")
        key = name, trial, part
        if key in found:
            raise InlierError(f"{where}: {name} judges {part} twice in trial {trial}")
        found[key] = Judgement(*key, WORDS[verdict.lower()], row.get("simulated", ""))
    if not found:
        raise InlierError(f"{path}: holds no judgements")
    return list(found.values())


def _trial(text: str, where: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise InlierError(f"{where}: the trial must be its number, from 1 on, not {text!r}")
    return number


def keep(folder: Path, judgements: Sequence[Judgement], parts: Sequence[Part]) -> list[Path]:
    """One file for each appraiser, over what was kept of them before."""
    paths, study = [], fingerprint(parts)
    for name in dict.fromkeys(j.appraiser for j in judgements):
        own = [j for j in judgements if j.appraiser == name]
        rows = [(j.appraiser, j.trial, j.part, "defect" if j.is_defect else "good", j.simulated, study) for j in own]
        paths.append(folder / FOLDER / file_name(f"{name}.csv"))
        artifact.write_table(paths[-1], COLUMNS, rows)
    return paths


def kept(folder: Path, parts: Sequence[Part]) -> list[Judgement]:
    """All that is kept in the folder. Raises InlierError where there is nothing."""
    files = sorted((folder / FOLDER).glob("*.csv"))
    if not files:
        raise InlierError(f"{folder}: nobody judged yet; `inlier study run` takes models and filled sheets")
    return [judgement for file in files for judgement in read_judgements(file, parts)]


def arranged(judgements: Iterable[Judgement], parts: Sequence[Part]) -> Table:
    """The judgements as an array. Raises InlierError where one is missing: every appraiser judges every part in the
    same trials."""
    found = {(j.appraiser, j.trial, j.part): j for j in judgements}
    names = list(dict.fromkeys(name for name, _, _ in found))
    trials = sorted({trial for _, trial, _ in found})
    ratings: NDArray[np.bool_] = np.zeros((len(names), len(parts), len(trials)), np.bool_)
    for a, name in enumerate(names):
        for t, trial in enumerate(trials):
            for p, part in enumerate(parts):
                if (name, trial, part.name) not in found:
                    raise InlierError(
                        f"{name} did not judge {part.name} in trial {trial}: every appraiser must judge every part in "
                        f"each of the {len(trials)} trials"
                    )
                ratings[a, p, t] = found[name, trial, part.name].is_defect
    simulated = {j.appraiser: j.simulated for j in found.values() if j.simulated}
    return Table(names, ratings, simulated)
