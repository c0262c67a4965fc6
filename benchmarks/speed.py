"""One table of speed: `make bench`. Writes benchmarks/SPEED.md, and what it is made from, benchmarks/speed.jsonl.

    python benchmarks/speed.py [SECTION ...]      only these anew; the others' rows are kept with their date and commit

Every comparison is made in one run, the two sides taking turns; what counts is the ratio. With one thread
(OMP_NUM_THREADS=1) seconds are the processor's, which other programs on the machine change least. Weights are random
where time does not depend on them. Times are of scores and maps of 8 pictures, a picture's share, unless it says
otherwise.

"Naive scheme": the released program's way of computing, re-created with our weights (benchmarks/naive.py), which gives
the same numbers. "Bare backbone": the pretrained network alone, cut off after the last layer that the method reads, in
the same runtime; an exported one gives the means of its maps, so that nothing is left out. bf16 is told without what it
computes again in float32, which depends on the pictures (RUNTIMES.md).
"""

import argparse
import json
import logging
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import Row, clock, grown, own_process, print_rows, rows_of, shortest
from safetensors.torch import save_file
from torch import Tensor

from inlier import DiAD, DifferNet, InlierError, MemSeg, PaDiM, SimpleNet, load, methods
from inlier.features import BACKBONES
from inlier.machine import about
from inlier.runtime import export as exporting

HERE = Path(__file__).parent
TABLE, KEPT = HERE / "SPEED.md", HERE / "speed.jsonl"
BATCH = 8
FITTED_ON = 200  # pictures, about as many as a category of MVTec AD has
HEADS = ("what", "ours", "beside", "ratio", "wanted")
# as little training as there may be: what is learned changes no time of judging
QUICK: dict[str, dict[str, Any]] = {
    "padim": {},
    "simplenet": {"steps": 2},
    "memseg": {"steps": 2},
    "differnet": {"steps": 2, "view_pool": 2},  # the two views that most parts have
    "diad": {"steps": 2, "autoencoder_steps": 2},
}
BEYOND = {  # method -> the most that it may take, in bare backbones: preset light, preset paper
    "padim": ("<= 1.15", "<= 1.15"),
    "simplenet": ("<= 1.15", "<= 1.15"),
    "memseg": ("<= 1.6", ""),
    "differnet": ("<= 1.1", "<= 1.1"),
}
EXPORTS = (("onnx", "f32"), ("openvino", "f32"), ("openvino", "bf16"))


def ms(seconds: float, pictures: int = BATCH) -> str:
    return f"{1000 * seconds / pictures:.3g} ms"


def built(kind: Any, preset: str, **settings: Any) -> Any:
    """A network with random weights."""
    detector = kind(preset, **settings)
    torch.manual_seed(0)
    network = detector.build(detector.settings).eval()
    if kind is MemSeg:  # an empty memory is all ties, each settled the slow way
        network.remember(clouds(detector.settings.memory, detector.settings.size).split(8))
    return network


def clouds(n: int, size: int) -> Tensor:
    """(n, 3, size, size): pictures that differ as pictures do; to a network all white noise looks the same."""
    return torch.nn.functional.interpolate(torch.rand(n, 3, 6, 6), size=size, mode="bicubic").clamp(0, 1)


def pictures(n: int, size: int = 256) -> list[Any]:
    return list(np.random.default_rng(0).integers(0, 256, (n, size, size), np.uint8))


# -- beside the bare backbone -----------------------------------------------------------------------------------------


def bare_of(network: Any, images: Tensor) -> Callable[[], object]:
    """What the backbone alone does for a batch: DifferNet's sees every view at every scale."""
    if not hasattr(network, "strides"):
        return lambda: network.backbone(images)
    chunks = list(network.views(images))

    def all_views() -> None:
        for views in chunks:
            for stride in network.strides:
                network.backbone(views[..., ::stride, ::stride])

    return all_views


def paper() -> Iterator[Row]:
    """The published recipes, in PyTorch."""
    for kind in (PaDiM, SimpleNet, MemSeg, DifferNet):
        network, settings, views = built(kind, "paper"), kind("paper").settings, kind is DifferNet
        n = 1 if views else BATCH
        images = torch.rand(n, 3, settings.size, settings.size)
        whole = network.scores if views else network
        with torch.inference_mode():
            bare, ours = shortest(bare_of(network, images), lambda: whole(images), repeats=1 if views else 2)  # noqa: B023
        name = f"{kind.name} `paper` ({settings.backbone}), torch" + (
            ", score of a picture in 64 views" if views else ""
        )
        wanted = BEYOND[kind.name][1]
        yield Row(name, ms(ours, n), f"bare backbone {ms(bare, n)}", ours / bare, "x as long", wanted)


def light(name: str) -> Iterator[Row]:
    """One method's preset `light` on every runtime, each beside its bare backbone and beside PyTorch."""
    from runtimes import bare_seconds

    bf16 = torch.cpu.get_capabilities().get("avx512_bf16") or torch.cpu.get_capabilities().get("amx_bf16")
    exports = [(runtime, precision) for runtime, precision in EXPORTS if precision == "f32" or bf16]
    with tempfile.TemporaryDirectory() as folder:
        detector = methods.create(name, **QUICK[name]).fit(pictures(24), calibration="none")
        size, maps = detector.geometry_.size, not detector.maps_cost_extra
        images = np.random.default_rng(0).integers(0, 256, (BATCH, 3, size, size)).astype(np.float32) / 255
        runners: dict[tuple[str, str], Any] = {("torch", "f32"): lambda: detector.runtime_(images, None, maps)}
        program = exporting.trace(exporting.Exporting(detector, "float"))  # once for all files
        exporting.trace = lambda graph: program
        for runtime, precision in exports:
            file = Path(folder) / f"{name}-{precision}{'.onnx' if runtime == 'onnx' else '.xml'}"
            detector.export(file, precision=precision, check=pictures(8), force=True)
            model = load(file)
            runners[runtime, precision] = lambda model=model: model.runtime_(images, None, maps)
        if name in BEYOND and name != "differnet":
            bare = bare_seconds(detector, [images], Path(folder))
            runners |= {(runtime, "bare"): run for runtime, run in bare.items()}
        elif name == "differnet":
            tensor = torch.from_numpy(images)
            all_views = bare_of(detector.network_, tensor)

            def bare_views() -> None:
                with torch.inference_mode():
                    all_views()

            runners["torch", "bare"] = bare_views
        found = dict(zip(runners, shortest(*runners.values(), repeats=2 if name == "diad" else 5), strict=True))
    told = "" if maps else ", scores alone"
    for (runtime, precision), seconds in found.items():
        if precision == "bare":
            continue
        label, bare_time = f"{name} `light`, {runtime} {precision}{told}", found.get((runtime, "bare"))
        if bare_time and precision == "f32":
            wanted = BEYOND[name][0]
            yield Row(label, ms(seconds), f"bare backbone {ms(bare_time)}", seconds / bare_time, "x as long", wanted)
        if runtime != "torch":
            torch_time, wanted = found["torch", "f32"], ">= 1.5" if precision == "f32" else ">= 2.5"
            yield Row(label, ms(seconds), f"eager torch {ms(torch_time)}", torch_time / seconds, "x faster", wanted)


# -- beside the naive schemes -----------------------------------------------------------------------------------------


def naive() -> Iterator[Row]:
    yield from naive_padim()
    yield from naive_simplenet()
    yield from naive_memseg()
    yield from naive_differnet()
    yield from naive_diad()


def naive_padim() -> Iterator[Row]:
    """Fitting in processes of their own, so that no peak of memory hides another; judging in this one."""
    from naive import padim_predict

    from inlier.methods.padim import pressed

    with tempfile.TemporaryDirectory() as folder:
        weights = str(Path(folder) / "resnet18.safetensors")
        torch.manual_seed(0)
        save_file(BACKBONES["resnet18"][0]().state_dict(), weights)
        ours, whole, theirs = (
            own_process("speed.py", "--padim-fit", how, weights) for how in ("ours", "folds", "naive")
        )
    beside = f"naive scheme {theirs['memory']:.0f} MiB"
    name = f"padim `paper`, fit on {FITTED_ON} pictures"
    less = theirs["memory"] / ours["memory"]
    yield Row(f"{name}, memory", f"{ours['memory']:.0f} MiB", beside, less, "x less", ">= 5")
    less = theirs["memory"] / whole["memory"]
    yield Row(f"{name} and calibrated, leave-one-out, memory", f"{whole['memory']:.0f} MiB", beside, less, "x less")
    beside, gain = f"naive scheme {theirs['seconds']:.1f} s", theirs["seconds"] / ours["seconds"]
    yield Row(f"{name}, time", f"{ours['seconds']:.1f} s", beside, gain, "x faster")

    network, settings = built(PaDiM, "paper"), PaDiM("paper").settings
    rng = np.random.default_rng(0)
    positions, d = network.mean.shape
    factors = np.tril(rng.normal(0, 0.02, (positions, d, d))).astype(np.float32)
    factors[:, range(d), range(d)] = rng.uniform(0.5, 2, (positions, d))
    covariance = factors @ factors.transpose(0, 2, 1)
    network.whitening.copy_(pressed(torch.from_numpy(np.linalg.inv(factors))))
    covariance, mean = np.ascontiguousarray(covariance.transpose(1, 2, 0)), network.mean.numpy().T
    images = torch.rand(BATCH, 3, settings.size, settings.size)
    with torch.inference_mode():

        def released() -> Any:
            return padim_predict(network, mean, covariance, images, settings.size, settings.sigma)

        np.testing.assert_allclose(released(), network(images)[1], rtol=1e-3)
        ours_time, theirs_time = shortest(lambda: network(images), released, repeats=2)
    gain = theirs_time / ours_time
    yield Row("padim `paper`", ms(ours_time), f"naive scheme {ms(theirs_time)}", gain, "x faster")


def padim_fit(how: str, weights: str) -> None:
    """Prints seconds and MiB of a fit: ours without or with calibration, or the naive scheme's."""
    from naive import padim_fit as naive_fit

    from inlier.data.batches import read_batches

    sources, detector = pictures(FITTED_ON), PaDiM("paper", weights=weights)
    if how == "naive":
        network = built(PaDiM, "paper")
        network.whitening.resize_(0)
        batches = read_batches(
            sources, PaDiM("paper", weights=weights).fit(sources[:2], calibration="none").geometry_, 32
        )

        def fit() -> None:
            with torch.inference_mode():
                naive_fit(network, (torch.from_numpy(batch.images) for batch in batches), detector.settings.epsilon)
    else:
        built(PaDiM, "paper").backbone(torch.zeros(32, 3, 224, 224))  # what the first call alone costs

        def fit() -> None:
            detector.fit(sources, calibration="folds" if how == "folds" else "none")

    seconds, mib = grown(fit)
    print(json.dumps({"seconds": seconds, "memory": mib}))


def naive_simplenet() -> Iterator[Row]:
    from naive import NaiveSimpleNet

    from inlier.methods.simplenet import Head

    network, settings = built(SimpleNet, "paper"), SimpleNet("paper").settings
    head = Head(settings.features, settings.hidden).eval()
    released = NaiveSimpleNet(network.backbone, head, settings.features, settings.size, settings.sigma)
    with torch.no_grad():
        network.fuse([head], torch.zeros(settings.features), torch.ones(settings.features))
    images = torch.rand(BATCH, 3, settings.size, settings.size)
    with torch.inference_mode():
        for one, other in zip(released(images[:1]), network(images[:1]), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))
        ours, theirs, bare = shortest(
            lambda: network(images), lambda: released(images), lambda: network.backbone(images), repeats=1
        )
    yield Row("simplenet `paper`", ms(ours), f"naive scheme {ms(theirs)}", theirs / ours, "x faster", ">= 8")
    beyond = theirs - bare, max(ours - bare, 0.0)
    yield Row(
        f"simplenet `paper`, beyond the bare backbone's {ms(bare)}", ms(beyond[1]), f"naive scheme {ms(beyond[0])}"
    )


def naive_memseg() -> Iterator[Row]:
    from naive import memseg_search

    from inlier.methods.memseg import nearest

    network = built(MemSeg, "paper")
    images = clouds(BATCH, 256)
    with torch.inference_mode():
        _, features, _ = network.encode(images)

        def search() -> Tensor:
            return nearest(network.memory, network.norms, features)

        def released() -> Tensor:
            return memseg_search(network.memory, features)

        assert torch.equal(search(), released())
        ours, theirs, whole = shortest(search, released, lambda: network(images), repeats=5)
    name = f"memseg `paper`, search in the memory ({100 * ours / whole:.1f} % of a prediction)"
    yield Row(name, ms(ours), f"naive scheme {ms(theirs)}", theirs / ours, "x faster", ">= 20")


def naive_differnet() -> Iterator[Row]:
    from naive import differnet_score

    network, size = built(DifferNet, "paper"), DifferNet("paper").settings.size
    image, n = torch.rand(1, 3, size, size), len(network.angles)
    with torch.inference_mode():

        def released() -> Tensor:
            return differnet_score(network, image)

        ours, theirs, bare = shortest(lambda: network.scores(image), released, bare_of(network, image), repeats=1)
        torch.testing.assert_close(released(), network.scores(image), rtol=1e-3, atol=1e-5)
    name = f"differnet `paper`, score, one of {n} views (bare backbone {ms(bare, n)})"
    yield Row(name, ms(ours, n), f"naive scheme, view by view {ms(theirs, n)}", theirs / ours, "x faster", ">= 2")


def naive_diad() -> Iterator[Row]:
    from naive import NaiveStep

    network = built(DiAD, "paper", channels=(64, 128, 256, 256), context_width=160)
    denoiser, released = network.denoiser, NaiveStep(network.denoiser)
    latent, image, t = torch.randn(1, 4, 32, 32), torch.rand(1, 3, 256, 256), torch.tensor([901])
    with torch.inference_mode():
        times, hint = denoiser.time_embeddings(t), denoiser.hint(image)
        torch.testing.assert_close(denoiser.step(latent, times, hint), released(latent, image, t), atol=1e-5, rtol=1e-4)
        ours, theirs = shortest(lambda: denoiser.step(latent, times, hint), lambda: released(latent, image, t))
    name = "diad `paper` at a fifth of its width, a step of one picture"
    beside = f"naive scheme, doubled guidance {ms(theirs, 1)}"
    yield Row(name, ms(ours, 1), beside, theirs / ours, "x faster")


# -- the rest ---------------------------------------------------------------------------------------------------------


def fits() -> Iterator[Row]:
    sources = pictures(320)
    for kind in (PaDiM, SimpleNet):
        start = clock()
        kind("light").fit(sources)
        yield Row(f"{kind.name} `light`, fit on 320 pictures, calibrated", f"{clock() - start:.0f} s")


def metrics() -> Iterator[Row]:
    from sklearn.metrics import roc_auc_score

    from inlier.metrics import pixel_metrics

    rng = np.random.default_rng(0)
    masks = np.zeros((100, 256, 256), bool)
    for mask in masks[:60]:
        for top, left in rng.integers(0, 220, (3, 2)):
            mask[top : top + 30, left : left + 30] = True
    maps = (rng.normal(size=masks.shape) + masks).astype(np.float32)
    theirs, ours = roc_auc_score(masks.ravel(), maps.ravel()), pixel_metrics(maps, masks).auroc
    assert ours is not None and abs(ours - theirs) < 1e-9
    both = shortest(lambda: pixel_metrics(maps, masks), lambda: roc_auc_score(masks.ravel(), maps.ravel()), repeats=1)
    name = "AUROC, AP, F1-max and AUPRO of 100 maps of 256 x 256"
    yield Row(name, f"{both[0]:.2f} s", f"scikit-learn's AUROC alone {both[1]:.2f} s", both[1] / both[0], "x faster")


def script(file: str, *arguments: str) -> Callable[[], Iterator[Row]]:
    return lambda: iter(rows_of(own_process(file, *arguments)))


SECTIONS: dict[str, tuple[str, Callable[[], Iterator[Row]]]] = {
    **{name: (f"{name}, preset `light`, by runtime", lambda name=name: light(name)) for name in QUICK},  # type: ignore[misc]
    "paper": ("Preset `paper`", paper),
    "naive": ("The released schemes", naive),
    "data": ("From file to verdict", script("data_path.py")),
    "scaled": ("JPEG decoded smaller", script("scaled.py")),
    "many": ("100,000 pictures", script("many.py")),
    "anomalib": ("Beside anomalib", script("beside_anomalib.py")),
    "fits": ("Fits", fits),
    "metrics": ("Metrics", metrics),
}
LONG = ("many",)  # a quarter of an hour; run when it is named


def kept() -> dict[str, dict[str, Any]]:
    """What was measured last, by section."""
    lines = KEPT.read_text().splitlines() if KEPT.exists() else []
    return {one["section"]: one for one in map(json.loads, lines)}


def commit() -> str:
    """What is measured; "+" where sources differ from it. The tables that are written here don't count."""
    told = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=HERE, stdout=subprocess.PIPE, text=True)
    changed = ["git", "diff", "--quiet", "HEAD", "--", "*.py"]
    plus = "+" if subprocess.run(changed, cwd=HERE.parent).returncode else ""
    return (told.stdout.strip() or "unknown") + plus


def page(found: dict[str, dict[str, Any]]) -> str:
    words = "\n\n".join((__doc__ or "").split("\n\n")[2:]).strip()
    machines = list(dict.fromkeys(found[section]["machine"] for section in SECTIONS if section in found))
    lines = [f"| {' | '.join(HEADS)} |", "|" + "---|" * len(HEADS)]
    for section, (title, _) in SECTIONS.items():
        if section not in found:
            continue
        one = found[section]
        on = f", machine {machines.index(one['machine']) + 1}" if len(machines) > 1 else ""
        about = f"{one['date']}, commit {one['commit']}, {one['threads']} thread(s){on}"
        lines.append(f"| **{title}** ({about}) {'| ' * (len(HEADS) - 1)}|")
        lines += [f"| {' | '.join(row.cells())} |" for row in rows_of(one["rows"])]
    told = machines[0] if len(machines) == 1 else "; ".join(f"machine {i}: {one}" for i, one in enumerate(machines, 1))
    return (
        f"# Speed\n\nMade by `make bench` (benchmarks/speed.py) on {told}; seed 0.\n\n{words}\n\n"
        + "\n".join(lines)
        + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--measure", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--padim-fit", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.getLogger("inlier").setLevel(logging.ERROR)
    if arguments.padim_fit:
        padim_fit(*arguments.padim_fit)
        return
    if arguments.measure:
        print_rows(list(SECTIONS[arguments.measure][1]()))
        return
    if unknown := set(arguments.sections) - set(SECTIONS):
        raise InlierError(f"no section {', '.join(unknown)}; known: {', '.join(SECTIONS)}")
    told, found = about(), kept()
    machine = ", ".join([told["processor"], f"{told['cores']} cores", f"torch {told['torch']}",
                         f"oneDNN {told['onednn']}", f"Python {told['python']}"])  # fmt: skip
    for section in arguments.sections or [name for name in SECTIONS if name not in LONG]:
        begun = commit()  # what is measured, whatever is committed meanwhile
        rows = own_process("speed.py", "--measure", section)
        found[section] = {"section": section, "date": time.strftime("%Y-%m-%d"), "commit": begun, "machine": machine,
                          "threads": told["threads"], "rows": rows}  # fmt: skip
        for row in rows_of(rows):
            print(" | ".join(row.cells()), flush=True)
        KEPT.write_text("".join(json.dumps(found[name]) + "\n" for name in SECTIONS if name in found))
        TABLE.write_text(page(found))
    print(TABLE.read_text())


if __name__ == "__main__":
    main()
