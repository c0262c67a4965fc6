"""Speed as ratios measured side by side in one run: `make bench`.

Prediction at batch 8 against the bare truncated backbone, DifferNet's 64 views also against a loop over them, the fit
of SimpleNet `light` on 320 pictures, a step of DiAD's repainting against the released scheme, and the metrics against
scikit-learn's AUROC alone. Weights are random where the real ones are not on this machine: they change no time.
"""

import argparse
import itertools
import logging
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel
from sklearn.metrics import roc_auc_score

from inlier import DiAD, DifferNet, MemSeg, PaDiM, SimpleNet
from inlier.methods.differnet.views import rotate
from inlier.methods.memseg import nearest
from inlier.metrics import pixel_metrics

REPEATS = 21


def seconds(*functions: Callable[[], object], repeats: int = REPEATS) -> list[float]:
    """Shortest time of each, as timeit advises: whatever else the machine does only adds. The functions take turns."""
    times: list[list[float]] = [[] for _ in functions]
    for repeat in range(repeats + 1):
        for function, column in zip(functions, times):
            start = time.perf_counter()
            function()
            if repeat:  # the first round warms up
                column.append(time.perf_counter() - start)
    return [min(column) for column in times]


def prediction() -> None:
    for kind, preset, backbone in ((PaDiM, "paper", "resnet18"), (SimpleNet, "paper", "resnet18"),
                                   (MemSeg, "paper", "resnet18"), (PaDiM, "light", None),
                                   (SimpleNet, "light", None), (MemSeg, "light", None)):  # fmt: skip
        detector = kind(preset, **({"backbone": backbone} if backbone else {}))
        network = built(detector)
        images = torch.rand(8, 3, detector.settings.size, detector.settings.size)
        with torch.inference_mode():
            if kind is MemSeg:  # an empty memory is all ties, each settled the slow way
                network.remember(torch.rand(detector.settings.memory, *images.shape[1:]).split(8))
            bare, whole = seconds(lambda: network.backbone(images), lambda: network(images))  # noqa: B023
        name = f"{detector.name} {preset} ({detector.settings.backbone})"
        print(f"{name:36} {whole / 8 * 1000:6.1f} ms an image; {whole / bare:.2f} x the bare backbone")


def built(detector: Any) -> Any:
    return detector.build(detector.settings).eval()


def memory_search() -> None:
    network = built(MemSeg("paper"))
    images = torch.rand(8, 3, 256, 256)
    with torch.inference_mode():
        network.remember(torch.rand(30, 3, 256, 256).split(8))
        compared = network.backbone(images)[1:4]
        search, whole = seconds(lambda: nearest(network.memory, network.norms, compared), lambda: network(images))
    print(f"memseg paper: the search in the memory takes {100 * search / whole:.1f} % of a prediction")


def many_views(preset: str) -> None:
    """DifferNet's scores alone and with maps, one picture in 64 views."""
    network = built(DifferNet(preset, test_views=64))
    image = torch.rand(1, 3, 448, 448)
    chunks = list(network.views(image))

    def bare() -> None:
        for views, stride in itertools.product(chunks, network.strides):
            network.backbone(views[..., ::stride, ::stride])

    def view_by_view() -> None:
        for degrees in network.angles:
            network.flow(network.features(rotate(image, degrees, network.fill)))

    with torch.inference_mode():
        backbone, scores, loop = seconds(bare, lambda: network.scores(image), view_by_view, repeats=3)
        (maps,) = seconds(lambda: network(image), repeats=1)
    print(f"differnet {preset}, 64 views: {scores:.1f} s an image; {scores / backbone:.2f} x the bare backbone; "
          f"view by view {loop / scores:.1f} x; with map {maps / scores:.1f} x")  # fmt: skip


def repainting_step() -> None:
    """DiAD at a fifth of the paper's width, one picture: our step, and what the released code computes in a step.

    That is: guidance with two equal branches, hint encoder and time embeddings in every step, all thirteen outputs.
    """
    denoiser = built(DiAD("paper", channels=(64, 128, 256, 256), context_width=160)).denoiser
    unet, guide = denoiser.unet, denoiser.guide
    body = ControlNetModel.from_config(guide.body.config).eval()
    latent, image, t = torch.randn(1, 4, 32, 32), torch.rand(1, 3, 256, 256), torch.tensor([901])
    context = denoiser.context.expand(2, -1, -1)

    def released() -> torch.Tensor:
        x, time = latent.repeat(2, 1, 1, 1), t.repeat(2)
        outs, middle = body(x, time, context, image.repeat(2, 1, 1, 1), return_dict=False)
        deepest = guide.fusion(outs[6:9], outs[9:])
        skips = (*(torch.zeros_like(out) for out in outs[:9]), *deepest)
        noise = unet(x, time, context, down_block_additional_residuals=skips, mid_block_additional_residual=middle)
        without, given = noise.sample.chunk(2)
        return torch.add(without, given - without, alpha=9.0)

    with torch.inference_mode():
        times, hint = denoiser.time_embeddings(t), denoiser.hint(image)
        assert torch.allclose(denoiser.step(latent, times, hint), released(), atol=1e-5)
        ours, theirs = seconds(lambda: denoiser.step(latent, times, hint), released)
        once = seconds(lambda: (denoiser.time_embeddings(t), denoiser.hint(image)))[0]
    print(f"diad paper, a fifth of its width: a step {1000 * ours:.0f} ms, {theirs / ours:.1f} x faster than the "
          f"released scheme; hint and time embeddings once a picture {1000 * once:.0f} ms")  # fmt: skip


def fit() -> None:
    rng = np.random.default_rng(0)
    pictures = list(rng.integers(0, 256, (320, 256, 256), np.uint8))
    for kind in (PaDiM, SimpleNet):
        start = time.perf_counter()
        kind("light").fit(pictures)
        print(f"{kind.name} light: fit on 320 pictures in {time.perf_counter() - start:.0f} s, calibration included")


def metrics() -> None:
    rng = np.random.default_rng(0)
    masks = np.zeros((100, 256, 256), bool)
    for mask in masks[:60]:
        for top, left in rng.integers(0, 220, (3, 2)):
            mask[top : top + 30, left : left + 30] = True
    maps = (rng.normal(size=masks.shape) + masks).astype(np.float32)
    start = time.perf_counter()
    ours = pixel_metrics(maps, masks)
    middle = time.perf_counter()
    theirs = roc_auc_score(masks.ravel(), maps.ravel())
    end = time.perf_counter()
    assert ours.auroc is not None and abs(ours.auroc - theirs) < 1e-9
    print(f"metrics of 100 maps 256 x 256: {middle - start:.2f} s for AUROC, AP, F1-max and AUPRO; "
          f"scikit-learn's AUROC alone {end - middle:.2f} s")  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-fit", action="store_true", help="skip the fits (minutes)")
    arguments = parser.parse_args()
    logging.getLogger("inlier").setLevel(logging.ERROR)
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    prediction()
    memory_search()
    many_views("paper")
    many_views("light")
    repainting_step()
    metrics()
    if not arguments.no_fit:
        fit()
