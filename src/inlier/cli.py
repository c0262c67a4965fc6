"""The commands: parsing and printing only. Results go to stdout, progress and messages to stderr.

Exit codes: 0 done, 1 something failed on the way (each thing named), 2 wrong use, 130 stopped with Ctrl-C.
"""

import io
import json
import logging
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inlier import artifact, methods
from inlier.artifact import ArtifactError
from inlier.errors import InlierError
from inlier.outputs import Writer, json_line, protect, read_by, text_line
from inlier.version import __version__

if TYPE_CHECKING:
    from inlier.detector import Detector
    from inlier.evaluation import Results

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
log = logging.getLogger("inlier")

Data = Annotated[
    str, typer.Argument(help="MVTec-AD, VisA, BTAD or MPDD folder, CSV manifest, folder of good images, or 'elpv'.")
]
Model = Annotated[Path, typer.Argument(help="A .inlier file that `inlier train` wrote.")]
Categories = Annotated[list[str] | None, typer.Option("--category", help="Repeat for several. Default: all.")]
Alpha = Annotated[
    float | None, typer.Option(help="Accepted false-alarm rate. Default: 0.01, or the lowest that can be promised.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Textures = Annotated[
    Path | None, typer.Option(help="Folder of pictures that simulated defects take foreign texture from, e.g. DTD.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Decides everything random.")]
Workers = Annotated[int, typer.Option(min=1, max=64, help="Threads that read pictures.")]


def main() -> None:
    """Entry point: errors of a person become one sentence; `--debug` shows the traceback."""
    try:
        code = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        # the parser's own errors know how to show themselves
        text = error.format_message() if hasattr(error, "format_message") else str(error)
        mistake = isinstance(error, (InlierError, ArtifactError)) or hasattr(error, "format_message")
        if "--debug" in sys.argv or not (mistake or isinstance(error, OSError)):
            raise
        print(f"error: {text}", file=sys.stderr)
        refused = isinstance(error, ArtifactError) and isinstance(error.__cause__, OSError)  # a full or read-only disk
        code = 2 if mistake and not refused else 1
    if code == 130:
        print("stopped", file=sys.stderr)
    sys.exit(code or 0)


class _Messages(logging.Handler):
    """Plain lines on whatever stderr is now (a progress bar redirects it)."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        print(prefix + record.getMessage(), file=sys.stderr)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"inlier {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress and no messages but warnings.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Learn what good parts look like from pictures of good parts; then find, locate and grade defects."""
    log.handlers[:] = [_Messages()]
    log.propagate = False
    log.setLevel(logging.WARNING if quiet else logging.INFO)


@app.command()
def train(
    data: Data,
    method: Annotated[str, typer.Option(help=f"One of: {', '.join(methods.names())}.")],
    preset: Annotated[
        str, typer.Option(help="light (two CPU cores, minutes), paper, ...: see `inlier methods`.")
    ] = "light",
    category: Categories = None,
    backbone: Annotated[str | None, typer.Option(help="Pretrained network, e.g. resnet18 or timm:NAME.")] = None,
    weights: Annotated[Path | None, typer.Option(help="File with the backbone's weights.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; repeat for several.")
    ] = None,
    calibration: Annotated[str | None, typer.Option(help="split, folds or none. Default: the method's own.")] = None,
    textures: Textures = None,
    seed: Seed = 0,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="Where to write the model.")] = Path("model.inlier"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a stopped run of the same command was.")
    ] = False,
    log_with: Annotated[
        str | None, typer.Option("--log", help="tensorboard: loss and learning rate as event files in OUT.run.")
    ] = None,
    workers: Workers = 2,
) -> None:
    """Learn from the good pictures in DATA and write a model."""
    settings = _settings(method, preset, set_, backbone=backbone, textures=textures and str(textures))
    detector = methods.get(method)(preset, seed=seed, device=device, weights=weights, **settings)
    start = time.monotonic()
    _train(detector, data, category or [], calibration, out, resume, workers, log_with)
    print(f"{out}: {method} ({preset}), {_size(out)}, fitted in {time.monotonic() - start:.0f} s")


def _settings(method: str, preset: str, texts: list[str] | None, **options: Any) -> dict[str, Any]:
    """What `--set` changes, and the options that have names of their own. Raises InlierError for what does not fit."""
    presets = methods.get(method).presets
    if preset not in presets:
        raise InlierError(f"{method} has no preset '{preset}'. Known: {', '.join(presets)}")
    values = type(presets[preset]).parse(texts or [])
    for name, value in options.items():
        if value is None:
            continue
        if not hasattr(presets[preset], name):
            raise InlierError(f"--{name}: {method} has no such setting; `inlier methods {method}` shows what it has")
        if name in values:
            raise InlierError(f"--{name} and --set {name}={values[name]} are given; leave one out")
        values[name] = value
    return values


def _train(
    detector: "Detector",
    data: Any,
    categories: list[str],
    calibration: str | None,
    out: Path,
    resume: bool = False,
    workers: int = 2,
    log_with: str | None = None,
) -> None:
    from inlier.data.datasets import open_dataset

    dataset = open_dataset(data, categories)
    protect([out], read_by(data, dataset, detector))
    artifact.check_writable(out)
    run_folder = out.with_name(out.name + ".run")
    if hasattr(detector.settings, "look_every"):  # pictures of the training go to the run folder
        protect([run_folder / "look.png"], {Path(sample.name).parent for sample in dataset.samples})
    detector.fit(
        dataset,
        calibration=calibration,
        run_folder=run_folder,
        resume=resume,
        workers=workers,
        log_with=log_with,
    )
    detector.save(out)


@app.command()
def evaluate(
    model: Model,
    data: Data,
    category: Categories = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Write all numbers to this file ('-': stdout).")] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page with figures, index.html, to this folder.")] = None,
    alpha: Alpha = None,
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Compare a model's scores and maps with the truth on the test pictures of DATA."""
    from inlier.data.datasets import open_dataset
    from inlier.detector import load
    from inlier.evaluation import evaluate as run

    dataset = open_dataset(data)
    to_file = json_ is not None and str(json_) != "-"
    if json_ and to_file:
        protect([json_], [model, *read_by(data, dataset)])
        artifact.check_writable(json_)
    if report:
        artifact.check_writable(report / "index.html")

    results = run(load(model, device), dataset, categories=category or [], alpha=alpha, workers=workers)
    text = json.dumps(results.to_json(), indent=1, allow_nan=False) + "\n"
    if json_ and not to_file:
        print(text, end="")
    else:
        _print_results(results)
    if json_ and to_file:
        artifact.write_bytes(json_, text.encode())
        print(f"numbers: {json_}")
    if report:
        print(f"report: {_write_report(results, report)}", file=sys.stdout if to_file or not json_ else sys.stderr)


def _write_report(results: "Results", folder: Path) -> Path:
    from inlier.report import write_report

    log.info("writing the report")
    return write_report(results, folder)


@app.command()
def predict(
    model: Model,
    images: Annotated[list[Path], typer.Argument(help="Pictures, or folders of pictures.")],
    jsonl: Annotated[
        Path | None, typer.Option(help="Write a JSON line per picture to this file ('-': stdout).")
    ] = None,
    maps: Annotated[Path | None, typer.Option(help="Write raw anomaly maps (32-bit TIFF) to this folder.")] = None,
    overlays: Annotated[
        Path | None, typer.Option(help="Write pictures with map and outlined region to this folder.")
    ] = None,
    no_maps: Annotated[
        bool, typer.Option("--no-maps", help="Scores only, as always where neither --maps nor --overlays is given.")
    ] = False,
    reconstructions: Annotated[
        Path | None, typer.Option(help="Write the pictures repainted as good (diad) to this folder.")
    ] = None,
    alpha: Alpha = None,
    device: Device = "auto",
    workers: Workers = 2,
) -> None:
    """Judge pictures. Goes on after one that cannot be read, names it, and ends with exit code 1."""
    from inlier.data.images import list_images
    from inlier.detector import load
    from inlier.progress import progress

    if no_maps and (maps or overlays or reconstructions):
        raise InlierError("--no-maps leaves nothing to write for --maps, --overlays or --reconstructions")
    detector = load(model, device)
    if reconstructions and not hasattr(detector.network_, "inspect"):
        raise InlierError(f"--reconstructions: {detector.name} repaints nothing")
    found = {root: list_images(root) if root.is_dir() else [root] for root in images}
    for root, paths in found.items():
        if not paths:
            raise InlierError(f"{root}: holds no pictures (.png .jpg .jpeg .bmp .tif .tiff .webp)")
    roots = {path: root for root, paths in found.items() for path in paths}
    if jsonl and str(jsonl) != "-":
        protect([jsonl], [model, *images, *roots])
        if not jsonl.exists() or jsonl.is_dir():  # a pipe will do: lines are written as they come
            artifact.check_writable(jsonl)
    for folder in filter(None, (maps, overlays, reconstructions)):
        protect([folder / "any.png"], [root for root in images if root.is_dir()])
        artifact.check_writable(folder / "any.png")
    sources, failed = list(roots), 0
    with ExitStack() as stack:
        lines = sys.stdout
        if jsonl and str(jsonl) != "-":
            # names that are no valid text are written with backslashes
            lines = stack.enter_context(jsonl.open("w", encoding="utf-8", errors="backslashreplace"))
        show = stack.enter_context(progress("predicting", len(sources))) if jsonl else None
        write = Writer(roots, maps, overlays, reconstructions, detector)
        # a map that is not written is not computed: with some methods it costs far more than the score
        predictions = detector.predict(
            sources, alpha=alpha, workers=workers, errors="keep", maps=bool(maps or overlays or reconstructions)
        )
        for done, p in enumerate(predictions, 1):
            if p.error:
                failed += 1
                print(f"error: {p.error}", file=sys.stderr)
            else:
                write(p)
            print(json_line(p) if jsonl else text_line(p), file=lines, flush=lines is not sys.stdout)
            if show:
                show(done)
    if failed:
        print(f"{failed} of {len(sources)} pictures could not be read", file=sys.stderr)
        raise typer.Exit(1)


@app.command("methods")
def list_methods(name: Annotated[str | None, typer.Argument(help="Show this method's settings.")] = None) -> None:
    """List the methods, or one method's settings and presets."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if name is None:
        for known in methods.names():
            console.print(f"[bold]{known}[/bold]  {methods.summary(known)}", highlight=False)
        console.print("\n`inlier methods NAME` shows presets and settings.", highlight=False)
        return
    from dataclasses import fields

    kind = methods.get(name)
    table = Table(title=f"{methods.summary(name)}", title_justify="left", box=None, pad_edge=False)
    for column in ("setting", *kind.presets, "meaning"):
        table.add_column(column, overflow="fold")
    for f in fields(next(iter(kind.presets.values()))):
        values = (str(getattr(settings, f.name)) for settings in kind.presets.values())
        table.add_row(f.name, *values, f.metadata["meaning"])
    console.print(table)


@app.command()
def preview(
    data: Data,
    method: Annotated[
        str, typer.Option(help="memseg: simulated defects, step by step. differnet: the views it learns from.")
    ] = "memseg",
    preset: Annotated[str, typer.Option(help="The preset that will be trained: see `inlier methods`.")] = "light",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; repeat for several.")
    ] = None,
    category: Categories = None,
    textures: Textures = None,
    foreground: Annotated[
        str | None, typer.Option(help="Where defects may lie: auto, whole, released, brighter, darker, darker:120, ...")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Height and width of the pictures.")] = None,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option(help="Where to write the picture (.png, .jpg, .webp, ...).")] = Path(
        "preview.png"
    ),
) -> None:
    """Draw what a method makes of the good pictures of DATA, before hours of training."""
    from PIL import Image

    from inlier.data.datasets import open_dataset
    from inlier.data.images import SUFFIXES, read_batches
    from inlier.data.simulation import LOOKED_AT, open_textures
    from inlier.report.preview import IMAGES, preview_sheet, view_sheet

    if method not in ("memseg", "differnet"):
        raise InlierError(f"there is nothing to preview for '{method}', only for memseg and differnet")
    options = {"textures": textures and str(textures), "foreground": foreground, "size": size}
    detector = methods.get(method)(preset, seed=seed, **_settings(method, preset, set_, **options))
    s = detector.settings
    if out.suffix.lower() not in SUFFIXES:
        raise InlierError(f"{out}: a preview is a picture, its name ends in one of {', '.join(sorted(SUFFIXES))}")
    dataset = open_dataset(data, category or [])
    log.info("data: %s", dataset.layout)
    several = len(dataset.categories) > 1
    targets = {name: out.with_stem(f"{out.stem}-{name}") if several else out for name in dataset.categories}
    protect(targets.values(), read_by(data, dataset, detector))
    for target in targets.values():
        artifact.check_writable(target)
    source = open_textures(s.textures) if method == "memseg" else None
    sheets, failures = {}, list[str]()
    for name in dataset.categories:
        paths = [str(sample.source) for sample in dataset.train if sample.category == name][:LOOKED_AT]
        if not paths:
            raise InlierError(f"{dataset.name}: {name} has no good training images")
        batches = list(read_batches(paths, detector.preprocess, errors="keep"))
        failures += [reason for batch in batches for _, reason in batch.failures]
        if failures:
            continue
        pictures = [(255 * image).round().astype("uint8").transpose(1, 2, 0) for b in batches for image in b.images]
        if method == "differnet":
            sheets[name] = view_sheet(pictures[:IMAGES], s, seed)
        else:
            from inlier.methods.memseg import NO_FOREGROUND, make_simulator

            simulator = make_simulator(s, name, pictures, source, seed)
            if without := sum(not simulator.foreground(picture).any() for picture in pictures):
                log.warning(f"{name}: {NO_FOREGROUND}", without, len(pictures))
            names = [Path(path).name for path in paths]
            sheets[name] = preview_sheet(pictures[:IMAGES], simulator, names), simulator.describe()
    if failures:
        found = f"{len(failures)} picture{'s'[: len(failures) > 1]} cannot be read; mend or remove:"
        raise InlierError("\n  ".join([f"{dataset.name}: {found}", *failures]))
    for name, (sheet, description) in sheets.items():
        content = io.BytesIO()
        sheet.save(content, Image.registered_extensions()[out.suffix.lower()])
        artifact.write_bytes(targets[name], content.getvalue())
        print(f"{targets[name]}: {description}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for models and reports.")] = Path("inlier-demo"),
    method: Annotated[
        list[str] | None, typer.Option(help="Repeat for several. Default: the quick ones, padim and simplenet.")
    ] = None,
) -> None:
    """Real solar cells: fit the light presets, compare them, write a report. A few minutes on two cores."""
    from inlier.evaluation import evaluate as run

    start, rows = time.monotonic(), []
    detectors = {name: methods.get(name)("light") for name in method or ("padim", "simplenet")}
    for name, detector in detectors.items():
        began, model = time.monotonic(), out / f"{name}.inlier"
        _train(detector, "elpv", ["mono"], None, model)
        fitted = time.monotonic() - began
        results = run(detector, "elpv", categories=["mono"])
        page = _write_report(results, out / name)
        rows.append((name, fitted, results, page))
    _print_comparison(rows)
    for name, _, _, page in rows:
        print(f"report of {name}: {page.resolve()}")
    print(
        f"done in {time.monotonic() - start:.0f} s; try: inlier predict {out / next(iter(detectors))}.inlier PICTURES"
    )


def _print_comparison(rows: list[tuple[str, float, "Results", Path]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="ELPV solar cells, mono: good cells against defective ones", title_justify="left")
    for column in (
        "method",
        "image AUROC (95 % interval)",
        "AP",
        "F1-max",
        "false alarms",
        "detected",
        "fit",
        "per image",
    ):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, fitted, results, _ in rows:
        r = results.categories["mono"]
        low, high = r.intervals["auroc"]
        table.add_row(
            name,
            f"{_percent(r.image.auroc)} ({_percent(low)}-{_percent(high)})",
            _percent(r.image.ap),
            _percent(r.image.f1_max),
            _percent(r.false_alarm_rate),
            _percent(r.detection_rate),
            f"{fitted:.0f} s",
            f"{1000 * results.seconds['per_image']:.0f} ms",
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _print_results(results: "Results") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{results.model['method']} ({results.model['preset']}), %", title_justify="left")
    table.add_column("category")
    image, pixels = ("image AUROC", "95 % interval", "AP", "F1-max"), ("pixel AUROC", "AP", "F1-max", "AUPRO")
    for column in ("good", "defect", *image, *pixels, "false alarms", "detected"):
        table.add_column(column, justify="right")
    for name, r in results.categories.items():
        interval = "-".join(_percent(edge) for edge in r.intervals.get("auroc", ()))
        pixel = [getattr(r.pixel, key, None) for key in ("auroc", "ap", "f1_max", "aupro")]
        values = (r.image.auroc, interval, r.image.ap, r.image.f1_max, *pixel, r.false_alarm_rate, r.detection_rate)
        table.add_row(name, str(r.n_good), str(r.n_defect), *(v if isinstance(v, str) else _percent(v) for v in values))
    if len(results.categories) > 1:
        mean = results.mean
        of_pixels = mean["pixel"] or {}
        values = (
            mean["image"]["auroc"],
            "",
            mean["image"]["ap"],
            mean["image"]["f1_max"],
            *(of_pixels.get(key) for key in ("auroc", "ap", "f1_max", "aupro")),
            *mean["at_alpha"].values(),
        )
        table.add_row("mean", "", "", *(v if isinstance(v, str) else _percent(v) for v in values))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    for name, r in results.categories.items():
        for note in filter(None, (r.image.reason, r.pixel_note)):
            print(f"{name}: {note}")
        if r.not_inspected:
            print(f"{name}: {100 * r.not_inspected:.2g} % of the defect pixels lie outside the inspected region (crop)")
        if r.alpha is None:
            print(f"{name}: the model has no calibration, so there are no verdicts")
        else:
            print(f"{name}: verdicts at alpha {r.alpha:.4g}")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 2**20:.1f} MiB"
