"""Write a fitted detector for another runtime, and judge the result against the detector before anybody else does.

The network becomes an ONNX graph (torch.onnx, through torch.export); OpenVINO's file is made from that. What is written
is opened again as its users will open it and judges the same pictures: scores, maps and verdicts are compared, and a
file that differs by more than its precision explains is not kept.
"""

import inspect
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inlier import artifact, calibration
from inlier.data.batches import read_batches
from inlier.data.check import check as check_data
from inlier.data.check import grouped
from inlier.data.datasets import open_dataset
from inlier.data.datasets.sample import Dataset, Sample
from inlier.data.images import decode_image
from inlier.errors import InlierError
from inlier.machine import own_torch_state
from inlier.progress import progress
from inlier.runtime.exported import Exported, to_text
from inlier.runtime.graph import PIXELS, Graph
from inlier.runtime.onnx import OnnxRuntime, with_header
from inlier.runtime.openvino import COLOURS, OpenvinoRuntime, core, has_bf16
from inlier.runtime.openvino import write as write_openvino
from inlier.runtime.parity import NOT_WRITTEN, TOLERANCE, Parity, compare, compared, first_difference

log = logging.getLogger("inlier")
SUFFIXES = {".onnx": "onnx", ".xml": "openvino", ".pt2": "torch"}
PRECISIONS = {"onnx": ("f32", "f16", "int8"), "openvino": ("f32", "f16", "bf16", "int8"), "torch": ("f32",)}
OF_READING = ("region", "eight_bit")  # what a geometry knows beside what the file says of it
LARGEST = 2**31  # elements of a constant that is computed now, not by each user: the weights of a layer
QUANTISED_ON = 128  # good pictures at most that show the ranges of values


def export(
    detector: Any,
    path: str | os.PathLike[str],
    *,
    to: str | None = None,
    precision: str = "f32",
    pixels: str = "float",
    check: Any = None,
    force: bool = False,
    workers: int = 2,
) -> Parity:
    """Write `detector`, a fitted Detector on the CPU, to `path` for another runtime, and tell how the result differs.

    to: "onnx", "openvino" or "torch" (a torch.export program for programs of your own); default: by the suffix, .onnx,
    .xml or .pt2. precision: "f32", "f16", "bf16" or "int8", see PRECISIONS. pixels: what the graph takes, "float" or
    "uint8", see runtime.graph.PIXELS. check: pictures or a data set that both judge. int8 needs good ones among them,
    to see the ranges of values, and bf16 any, to see how far it moves scores, and a processor that has it. Where they
    are those that the detector was fitted and calibrated on (kind "split"), the calibration is scored anew by the
    runtime that will judge. A .pt2 file takes none. force: write what differs too much, too.
    Raises InlierError for a file that would judge differently, and says where its graph starts to.
    """
    path = Path(path).expanduser()
    to = to or SUFFIXES.get(path.suffix.lower())
    if to not in PRECISIONS:
        raise InlierError(f"{path}: what it is exported to is told by the suffix, {', '.join(SUFFIXES)}, or by --to")
    if SUFFIXES.get(path.suffix.lower()) != to:
        wanted = next(suffix for suffix, name in SUFFIXES.items() if name == to)
        raise InlierError(f"{path}: a file for {to} ends in {wanted}")
    if precision not in PRECISIONS[to]:
        others = [name for name, known in PRECISIONS.items() if precision in known]
        hint = f"; {precision} is for {', '.join(others)} (--to)" if others else ""
        raise InlierError(f"precision {precision!r}: {to} is exported with {', '.join(PRECISIONS[to])}{hint}")
    if pixels not in PIXELS:
        raise InlierError(f"input {pixels!r}: must be one of {', '.join(PIXELS)}")
    if to == "torch" and check is not None:
        raise InlierError(f"{path}: is for programs of your own, so nothing is compared here; leave the pictures out")
    artifact.check_writable(path)
    dataset = None if check is None else _known(open_dataset(check), detector.categories_)
    kept = [
        Sample(decode_image(file, f"kept picture {i}"), category, "train", None)
        for i, (category, file) in enumerate(detector.kept_)
    ]
    good = (dataset and dataset.train + dataset.validation) or kept
    if precision == "int8" and not good:
        raise InlierError(
            "int8 needs good pictures, which show the ranges of values: give them with --check, or let the model keep "
            "some when it is fitted (--keep)"
        )
    if precision == "bf16" and not (dataset or kept):
        raise InlierError(
            "bf16 needs pictures, which show how far rounding moves a score: give them with --check, or let the model "
            "keep some when it is fitted (--keep)"
        )
    if precision == "bf16" and not has_bf16():
        raise InlierError(
            "bf16: this processor does not compute in it, so how far it moves a score cannot be found here; export on "
            "one that does, or with another --precision"
        )
    with own_torch_state(), tempfile.TemporaryDirectory() as folder:
        graph = Exporting(detector, pixels)
        log.info("exporting %s to %s, %s", detector.name, to, precision)
        log.info("building the graph (large networks take minutes)")
        program = trace(graph)
        made = Path(folder) / f"model{path.suffix.lower()}"
        header = detector.header() | {
            "log_maps": detector.log_maps,
            "maps_cost_extra": detector.maps_cost_extra,
            "geometry": {name: value for name, value in asdict(detector.geometry_).items() if name not in OF_READING},
            "graph": asdict(graph.described),
            "precision": precision,
            "runtime": to,
            "torch": torch.__version__,
            "opset": program.model_proto.opset_import[0].version,
        }
        text = to_text(header, detector.arrays())
        log.info("converting it for %s, %s", to, precision)
        WRITERS[to](program, made, text, precision, lambda: _feeds(detector, graph.described, good, workers))
        if to == "torch":
            artifact.write_bytes(path, made.read_bytes())
            return Parity(0, "a .pt2 file is for programs of your own", 0.0, 0.0, None)
        exported = Exported(path, RUNTIMES[to](made))
        pictures = compared(detector, dataset, kept)
        if precision == "bf16":
            log.info("finding on %d %s how far rounding moves a score", len(pictures.samples), pictures.source)
            moved = compare(detector, exported, pictures._replace(are_real=False), workers)  # warnings come below
            exported.doubt = moved.score, moved.size
            found = f"{100 * moved.score:.2g} % of it, or of {moved.size:.3g} where it is smaller"
            log.info("rounding moves a score by at most %s: what is so near is computed again in float32", found)
        if dataset and detector.calibration_.kind == "split":
            _rescore(detector, exported, dataset, workers)
        log.info("comparing on %d %s", len(pictures.samples), pictures.source)
        parity = compare(detector, exported, pictures, workers)
        if rules := parity.unexplained(precision, detector.maps_jump):
            where = first_difference(program, made, graph.described, TOLERANCE[precision]) if to == "onnx" else ""
            told = f"{path}: judges differently from the model: {parity}; but {', '.join(rules)}"
            if not force:
                raise InlierError(f"{told}. {where}{NOT_WRITTEN}")
            log.warning("%s. %sIt is written all the same", told, where)
        exported.told["parity"] = asdict(parity)
        exported.save(path)
    return parity


class Exporting(nn.Module):
    """A detector's graph with the inputs that it needs, in a fixed order."""

    def __init__(self, detector: Any, pixels: str):
        super().__init__()
        self.inner = detector.export_graph().eval()
        takes = inspect.signature(self.inner.forward).parameters
        self.described = Graph(
            detector.geometry_.size,
            pixels,
            bool(detector.regions_) and "inspected" in takes,
            tuple(self.inner.noise_shape) if "noise" in takes else (),  # type: ignore[arg-type]
            detector.repaints,
            getattr(self.inner, "at_once", Graph.at_once),
            "inspected" not in takes,
        )

    def forward(self, images: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        if self.described.pixels == "uint8":
            images = images.permute(0, 3, 1, 2).float() / 255
        named = dict(zip(self.described.inputs[1:], others, strict=True))
        found: tuple[Tensor, ...] = self.inner(images, **named)
        return found


def trace(graph: Exporting) -> Any:
    """The ONNX program of a graph; the number of pictures is free."""
    g = graph.described
    n = 2
    try:
        from onnxscript import optimizer
    except ImportError as error:
        raise InlierError("exporting needs onnx and onnxscript: pip install 'inlier[export]'") from error
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(n, 3, g.size, g.size, generator=generator)
    given = [images if g.pixels == "float" else (255 * images.permute(0, 2, 3, 1)).byte()]
    if g.regions:
        given.append(images[:, 0] > 0.5)
    if g.noise:
        given.append(torch.randn(n, *g.noise, generator=generator))
    free = {0: torch.export.Dim.DYNAMIC}
    for chatty in ("torch.onnx._internal.exporter._registration", "onnxscript.optimizer._constant_folding"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad(), progress("tracing the network", 1) as show:
        warnings.simplefilter("ignore")  # of the exporter's own deprecations
        program: Any = torch.onnx.export(
            graph,
            tuple(given),
            dynamo=True,
            input_names=g.inputs,
            output_names=g.outputs,
            dynamic_shapes=(free, *([tuple(free for _ in given[1:])] if given[1:] else [])),
            verbose=False,
            optimize=False,  # its rules take x + 1e-10 for x; the runtimes have better ones of their own
        )
        optimizer.fold_constants(program.model, input_size_limit=LARGEST, output_size_limit=LARGEST)
        optimizer.remove_unused_nodes(program.model)
        show(1)
    return program


# -- writing ----------------------------------------------------------------------------------------------------------

RECTIFIERS = ("Relu", "Clip")
SUMS = ("Conv", "Add", "Concat", "Resize", "AveragePool")
Feeds = Callable[[], Iterator[dict[str, NDArray[Any]]]]


def _write_onnx(program: Any, path: Path, text: str, precision: str, feeds: Feeds) -> None:
    model = program.model_proto
    if precision == "f16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        model = convert_float_to_float16(model, keep_io_types=True)
    elif precision == "int8":
        model = _quantised_onnx(model, path, feeds)
    if model.ByteSize() >= 2**31:
        raise InlierError(f"{path}: larger than the 2 GiB that one ONNX file can hold; export to openvino (.xml)")
    path.write_bytes(with_header(model.SerializeToString(), text))


def _of_scores(model: Any) -> list[Any]:
    """The nodes that the scores need, in order: not those of maps that are gradients."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    needed, wanted = set[str](), ["scores"]
    while wanted:
        node = made_by.get(wanted.pop())
        if node is not None and node.name not in needed:
            needed.add(node.name)
            wanted += node.input
    return [node for node in model.graph.node if node.name in needed]


def _for_8_bit(model: Any) -> list[str]:
    """Names of an ONNX graph's convolutions that 8 bit hold well, which is those that take what an activation leaves.
    Not those that take sums, means or several layers as they are: their channels differ in size so much that the small
    ones would be lost. Nor those that read the picture, and a depthwise one after these (see
    `runtime.openvino.first_convolutions`), nor one that gives a single channel, which is a score."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    shapes = {w.name: w.dims for w in model.graph.initializer}

    def before(node: Any, passed: Sequence[str]) -> Any:
        found = made_by.get(node.input[0])
        while found is not None and found.op_type in passed:
            found = made_by.get(found.input[0])
        return found

    def reads_picture(node: Any) -> bool:
        return node is not None and node.op_type == "Conv" and shapes[node.input[1]][1] == COLOURS

    def held(node: Any) -> bool:
        taken = before(node, ("Pad", "MaxPool"))
        if taken is None or taken.op_type in SUMS or reads_picture(node) or shapes[node.input[1]][0] == 1:
            return False
        depthwise = any(a.name == "group" and a.i > 1 for a in node.attribute)
        return not (depthwise and reads_picture(before(node, ("Pad", "BatchNormalization", *RECTIFIERS))))

    convolutions = [node for node in _of_scores(model) if node.op_type == "Conv"]
    found = [node.name for node in convolutions if held(node)]
    if not found:
        raise InlierError(f"int8: none of the {len(convolutions)} convolutions of this model follows an activation")
    return found


def _quantised_onnx(model: Any, path: Path, feeds: Feeds) -> Any:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = feeds()

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            return next(self.feeds, None)

    whole, small = path.with_suffix(".f32"), path.with_suffix(".int8")
    onnx.save(model, whole)
    quantize_static(
        whole,
        small,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        # with the rectifiers, or what a convolution gives would be rounded before its range is cut; distances and
        # densities keep their precision
        op_types_to_quantize=["Conv", *RECTIFIERS],
        nodes_to_quantize=[*_for_8_bit(model), *(n.name for n in _of_scores(model) if n.op_type in RECTIFIERS)],
    )
    return onnx.load(small)


def _write_openvino(program: Any, path: Path, text: str, precision: str, feeds: Feeds) -> None:
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.onnx"
        program.save(source)
        model = openvino.convert_model(source)
        if precision == "f16":
            small = Path(folder) / "f16.xml"
            openvino.save_model(model, small, compress_to_fp16=True)
            model = core().read_model(small)
        elif precision == "int8":
            try:
                import nncf
            except ImportError as error:
                raise InlierError("int8 for OpenVINO needs NNCF: pip install 'inlier[int8]'") from error
            logging.getLogger("nncf").setLevel(logging.ERROR)  # it names every operation that stays as it is
            quantised = {name + end for name in _for_8_bit(program.model_proto) for end in ("", "/WithoutBiases")}
            kept = [op.get_friendly_name() for op in model.get_ops() if op.get_friendly_name() not in quantised]
            model = nncf.quantize(
                model, nncf.Dataset(list(feeds())), ignored_scope=nncf.IgnoredScope(names=kept, validate=False)
            )
        write_openvino(model, path, text)


def _write_torch(program: Any, path: Path, text: str, precision: str, feeds: Feeds) -> None:
    torch.export.save(program.exported_program, path, extra_files={"inlier": text})


WRITERS = {"onnx": _write_onnx, "openvino": _write_openvino, "torch": _write_torch}
RUNTIMES: dict[str, Callable[[Path], Any]] = {"onnx": OnnxRuntime, "openvino": OpenvinoRuntime}


def _known(dataset: Dataset, categories: Sequence[str]) -> Dataset:
    """What shows the model's own categories, where the data set says so."""
    known = [category for category in dataset.categories if category in categories]
    return dataset.select(known) if known else dataset


def _feeds(detector: Any, graph: Graph, good: Sequence[Sample], workers: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Some of the good pictures, which show what values are usual."""
    chosen = [good[i] for i in np.random.default_rng(0).permutation(len(good))[:QUANTISED_ON]]
    log.info("finding the ranges of values on %d good pictures", len(chosen))
    geometries = [detector.geometry_for(detector.category_of(sample.category)) for sample in chosen]
    for batch in read_batches([sample.source for sample in chosen], geometries, 1, workers):
        yield graph.feed(batch.images, batch.inspected)


def _rescore(detector: Any, exported: Exported, dataset: Dataset, workers: int) -> None:
    """Score the calibration pictures by the runtime that will judge, where they are at hand and known for sure."""
    samples = [sample for sample in dataset.train if sample.category in detector.categories_]
    if not samples:
        return
    log.info("checking %d pictures, to score the calibration anew", len(samples))
    report = check_data(dataset, workers, training=True)
    of = [sample.category for sample in samples]
    _, held_out = calibration.split(grouped(samples, report.groups, None), of, detector.seed)
    known = detector.calibration_
    if report.fingerprint != detector.fingerprint_ or len(held_out) != len(known):
        log.info("the calibration keeps the scores of the model: other pictures than those that it was fitted on")
        return
    sources = [samples[i].source for i in held_out]
    geometries = [detector.geometry_for(of[i]) for i in held_out]
    again, _ = detector.held_out(sources[:2], geometries[:2], workers)
    if not np.allclose(again, known.scores[:2], rtol=1e-3):
        log.info("the calibration keeps the scores of the model: its pictures are not known for sure (--group)")
        return
    scores, peaks = exported.held_out(sources, geometries, workers)
    exported.calibration_ = calibration.Calibration("split", scores, peaks, known.categories, known.groups)
    log.info("the calibration was scored anew by the runtime that will judge, on %d pictures", len(scores))
