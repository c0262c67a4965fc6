"""MemSeg equals the numbers of the unofficial code: search, attention, fusion, decoder, loss, schedule, whole."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image

from golden import close, fill_module, load
from inlier import InlierError, MemSeg
from inlier.methods import memseg
from inlier.methods.memseg import (
    CoordinateAttention,
    Decoder,
    MultiScaleFusion,
    Network,
    Settings,
    distances,
    learning_rate,
    losses,
    nearest,
    rounding,
    take_turns,
)
from inlier.training import Run

CASE, GOLDEN = load("memseg")
CHANNELS = (64, 64, 128, 256, 512)  # ResNet-18
OURS_TO_REFERENCE = (
    ("backbone.net.", "feature_extractor."),
    ("fusion.", "msff."),
    ("from3.", "upconv32.1."),
    ("from2.", "upconv21.1."),
    ("squeeze.0.", "conv1."),
    ("squeeze.1.", "bn1."),
    ("rows.", "conv_h."),
    ("columns.", "conv_w."),
    ("blocks.0.conv.", "blk1.conv1."),
    ("blocks.1.conv.", "blk2.conv1."),
    ("blocks.2.conv.", "blk3.conv1."),
    ("blocks.0.", "blk1."),
    ("blocks.1.", "blk2."),
    ("blocks.2.", "blk3."),
    ("attention.", "attn."),
    ("out.", "conv2."),
    ("to_image.", "upconv2mask."),
    *((f"step{i}.", f"upconv{i}.") for i in range(4)),
    ("decoder.stem.", "decoder.conv."),
    ("decoder.last.", "decoder.final_conv."),
)
LEVELS = ("bank0", "bank1", "bank2")


def reference_name(key):
    for ours, reference in OURS_TO_REFERENCE:
        if not key.startswith("backbone") or ours == "backbone.net.":
            key = key.replace(ours, reference)
    if "upconv" in key and ("norm." in key or ".conv." in key):
        key = key.replace(".conv.", ".blk.1.").replace(".norm.", ".blk.2.")
    return key


@pytest.fixture
def network():
    """The whole network on the golden weights and memory, as the released code runs it."""
    net = Network(Settings(backbone="resnet18", size=64, memory=5, frozen=False)).eval()
    net.backbone.mean.zero_()
    net.backbone.std.fill_(1)
    kept = ("memory", "norms", "mean", "std")
    memory = {key: tensor.clone() for key, tensor in net.state_dict().items() if key.startswith(kept)}
    fill_module(net, reference_name)
    net.load_state_dict(memory, strict=False)
    net.remember([GOLDEN["in.e2e.memory_images"][GOLDEN["out.e2e.memory_order"]]])
    return net


def golden_memory():
    banks = [GOLDEN[f"in.memory.{name}"].permute(0, 2, 3, 1) for name in LEVELS]
    return banks, torch.stack([bank.square().mean((1, 2, 3)) for bank in banks]).sum(0)


def own_square(features):
    return sum(f.square().mean((1, 2, 3)) for f in features)[:, None]


def test_the_search_finds_the_nearest_entry_by_the_summed_mean_squared_differences():
    banks, norms = golden_memory()
    queries = [GOLDEN[f"in.memory.query{level}"] for level in range(3)]
    close(distances(banks, norms, queries) + own_square(queries), GOLDEN["out.memory.distance"], 5e-5)
    best = nearest(banks, norms, queries)
    assert torch.equal(best, GOLDEN["out.memory.argmin"])
    for level, (bank, query) in enumerate(zip(banks, queries)):
        entry = bank[best].permute(0, 3, 1, 2)
        assert torch.equal(torch.cat([query, (entry - query).square()], 1), GOLDEN[f"out.memory.ci{level}"])


def test_a_hidden_entry_is_not_found():
    banks, norms = golden_memory()
    queries = [GOLDEN[f"in.memory.query{level}"] for level in range(3)]
    best = nearest(banks, norms, queries)
    hidden = torch.arange(len(norms)) == best[:, None]
    found = nearest(banks, norms, queries, hidden)
    expected = distances(banks, norms, queries).masked_fill(hidden, torch.inf).argmin(1)
    assert torch.equal(found, expected) and not (found == best).any()


def test_a_picture_that_hides_its_own_entry_learns_from_another(plates, monkeypatch):
    seen = []

    def spy(memory, norms, features, hidden=None):
        seen.append(hidden)
        return nearest(memory, norms, features, hidden)

    monkeypatch.setattr(memseg, "nearest", spy)
    settings = {"backbone": "tiny", "size": 64, "decoder": 8, "steps": 2, "memory": 16, "batch_size": 4}
    MemSeg("light", hide_own=True, **settings).fit(plates, calibration="none")
    training = [hidden for hidden in seen if hidden is not None]
    assert len(training) == 2 and all((hidden.sum(1) == 1).all() for hidden in training[:1])
    seen.clear()
    MemSeg("light", hide_own=False, **settings).fit(plates, calibration="none")
    assert all(hidden is None for hidden in seen)


def test_near_ties_are_settled_in_double_precision():
    torch.manual_seed(0)
    query = 100 + torch.randn(1, 4, 16, 16)
    entry = query[0].permute(1, 2, 0)
    bank = torch.stack([entry + 1.1e-2, entry + 1e-2, entry - 1.2e-2, entry + 5])
    norms = bank.square().mean((1, 2, 3))
    assert nearest([bank], norms, [query]).tolist() == [1]
    assert (distances([bank], norms, [query])[0, :3] + own_square([query])[0]).abs().max() < 0.05


@pytest.mark.parametrize("shift", [0.0, 3.0])
@pytest.mark.parametrize("sides, channels", [((16, 8, 4), 32), ((128, 64, 32), 64)])
def test_rounding_stays_far_below_its_bound(sides, channels, shift):
    """Up to the size of ResNet18's features of a picture of 512 pixels."""
    torch.manual_seed(0)
    shapes = [(side, side, channels * 2**k) for k, side in enumerate(sides)]
    banks = [torch.randn(6, *shape).abs() + shift for shape in shapes]
    queries = [(bank[:1] + 0.1 * torch.randn(1, *bank.shape[1:])).permute(0, 3, 1, 2) for bank in banks]
    norms = torch.stack([bank.square().mean((1, 2, 3)) for bank in banks]).sum(0)
    exact_norms = sum(bank.double().square().mean((1, 2, 3)) for bank in banks)
    exact = distances([bank.double() for bank in banks], exact_norms, [query.double() for query in queries])
    off = (distances(banks, norms, queries) - exact).abs() / rounding(banks, norms, queries)
    assert off.max() < 0.05  # 0.01 on the machine of the comment in memseg.py


def test_the_nearest_is_found_whatever_rounding_does_within_its_bound(monkeypatch):
    """Two entries whose distances differ by less than the bound, which errors of either sign would swap."""
    torch.manual_seed(0)
    query = 1 + torch.rand(1, 8, 64, 64)
    entry = query[0].permute(1, 2, 0)
    bank = torch.stack([entry + 0.0101, entry + 0.01, entry + 0.5])
    norms = bank.square().mean((1, 2, 3))
    true = distances([bank.double()], bank.double().square().mean((1, 2, 3)), [query.double()]).float()
    error = 0.9 * rounding([bank], norms, [query])
    assert true[0, 0] - true[0, 1] < 2 * error[0, 0]
    for signs in ([-1, 1, 1], [1, -1, -1], [1, 1, 1]):
        monkeypatch.setattr(memseg, "distances", lambda *_, s=signs: true + error * torch.tensor(s))
        assert nearest([bank], norms, [query]).tolist() == [1]


def test_an_unused_place_of_the_memory_is_never_found():
    banks, norms = golden_memory()
    norms[GOLDEN["out.memory.argmin"]] = math.inf
    queries = [GOLDEN[f"in.memory.query{level}"] for level in range(3)]
    assert not set(nearest(banks, norms, queries).tolist()) & set(GOLDEN["out.memory.argmin"].tolist())


def test_coordinate_attention():
    attention = fill_module(CoordinateAttention(16), lambda key: "coord." + reference_name(key)).eval()
    close(attention(GOLDEN["in.coord.x"]).detach(), GOLDEN["out.coord.y"], 5e-6)


def test_fusion_blocks_and_spatial_attention():
    fusion = fill_module(MultiScaleFusion(CHANNELS[1:4]), lambda key: reference_name("fusion." + key)).eval()
    information = [GOLDEN[f"in.msff.ci{level}"] for level in range(3)]
    with torch.no_grad():
        for i, (block, x) in enumerate(zip(fusion.blocks, information), 1):
            close(block(x), GOLDEN[f"out.msff.blk{i}"], 1e-5)
        for level, out in enumerate(fusion(information)):
            close(out, GOLDEN[f"out.msff.out{level}"], 2e-5 if level == 0 else 1e-5)


def test_decoder():
    decoder = fill_module(Decoder(CHANNELS, 48), lambda key: reference_name("decoder." + key)).eval()
    f0, f1, f2, f3, f4 = (GOLDEN[f"in.decoder.f{i}"] for i in range(5))
    with torch.no_grad():
        close(decoder(f0, (f1, f2, f3), f4, (64, 64)), GOLDEN["out.decoder.logits"], 5e-6)


def test_losses_and_their_gradient():
    logits = GOLDEN["in.loss.logits"].requires_grad_()
    l1, focal = losses(logits, GOLDEN["in.loss.mask"])
    total = 0.6 * l1 + 0.4 * focal
    total.backward()
    close(l1[None].detach(), GOLDEN["out.loss.l1"], 3e-7)
    close(focal[None].detach(), GOLDEN["out.loss.focal"], 3e-7)
    close(total[None].detach(), GOLDEN["out.loss.total"], 3e-7)
    close(logits.grad, GOLDEN["out.loss.grad_logits"], 2e-10)


def test_the_learning_rate_warms_up_and_falls_as_a_cosine():
    for name, (steps, high, low, warm_up) in CASE["config"]["schedules"].items():
        s = Settings(steps=steps, lr=high, lr_end=low, warm_up=warm_up)
        close(torch.tensor([learning_rate(k, s) for k in range(steps)]), GOLDEN[f"out.schedule.{name}"], 1e-8)
    s = MemSeg.presets["paper-code"]
    rates = [learning_rate(k, s) for k in GOLDEN["out.schedule.sampled.step"].tolist()]
    close(torch.tensor(rates), GOLDEN["out.schedule.sampled.lr"], 1e-8)


def test_the_whole_network_in_evaluation(network):
    with torch.no_grad():
        compared = network.backbone(GOLDEN["in.e2e.image"])[1:4]
        distance = distances(network.memory, network.norms, compared) + own_square(compared)
        logits = network.logits(GOLDEN["in.e2e.image"])
        scores, maps = network(GOLDEN["in.e2e.image"])
    close(distance, GOLDEN["out.e2e.distance"], 1e-5)
    close(logits, GOLDEN["out.e2e.logits"], 5e-4)
    close(maps, GOLDEN["out.e2e.map"], 1e-4)
    close(scores, GOLDEN["out.e2e.score"], 5e-6)


def test_one_training_pass_as_the_released_code_makes_it(network):
    # in float64: the tolerance of the focal loss is as tight as float32's own rounding
    logits = network.train().double().logits(GOLDEN["in.e2e.image"].double())
    l1, focal = losses(logits, GOLDEN["in.loss.mask"].double())
    total = 0.6 * l1 + 0.4 * focal
    total.backward()
    close(logits.detach(), GOLDEN["out.train.logits"], 1e-4)
    close(l1[None].detach(), GOLDEN["out.train.l1"], 2e-6)
    close(focal[None].detach(), GOLDEN["out.train.focal"], 3e-7)
    close(total[None].detach(), GOLDEN["out.train.loss"], 2e-6)
    gradients = {reference_name(name): parameter.grad for name, parameter in network.named_parameters()}
    compared = [name for name in GOLDEN if name.startswith("out.train.grad.")]
    tolerance = {"final_conv": 1e-6, "conv1": 1e-6, "blk.2": 2e-7, "bn1": 2e-7, "conv_h": 2e-8, "upconv21": 5e-9}
    assert len(compared) == 7
    for name in compared:
        allowed = next(value for part, value in tolerance.items() if part in name)
        close(gradients[name.removeprefix("out.train.grad.")], GOLDEN[name], allowed)
    state = {reference_name(name): tensor for name, tensor in network.state_dict().items()}
    for name in (name for name in GOLDEN if name.startswith("out.train.after.")):
        close(state[name.removeprefix("out.train.after.")], GOLDEN[name], 5e-6 if "layer2" in name else 2e-6)


def test_the_image_score_is_the_mean_of_the_100_highest_pixels():
    p = GOLDEN["in.loss.logits"].softmax(1)[:, 1]
    close(p.flatten(1).topk(100).values.mean(1), GOLDEN["out.loss.score_top100"], 5e-6)


def test_stem_and_compared_layers_are_frozen_unless_asked_otherwise():
    net = Network(Settings(backbone="resnet18", size=64, memory=2)).train()
    learning = {name.split(".")[2] for name, p in net.named_parameters() if p.requires_grad and "backbone" in name}
    in_training = {name for name, stage in net.backbone.net.named_children() if stage.training}
    assert learning == in_training == {"layer4"}
    released = Network(Settings(backbone="resnet18", size=64, memory=2, frozen=False)).train()
    learning = {name.split(".")[2] for name, p in released.named_parameters() if p.requires_grad and "backbone" in name}
    assert learning == {"conv1", "bn1", "layer4"}
    assert all(stage.training for stage in released.backbone.net.children())


SMALL = {"backbone": "tiny", "size": 64, "memory": 4, "decoder": 8, "batch_size": 4, "look_every": 2}


def test_training_leaves_frozen_layers_and_memory_as_they_were(plates):
    detector = MemSeg("light", **SMALL, steps=3).fit(plates, calibration="none")
    network = detector.network_
    pretrained = memseg.Backbone("tiny", (2, 4, 8, 16, 32))
    pretrained.load()
    for name, tensor in pretrained.state_dict().items():
        frozen = not name.startswith("net.blocks.3.")
        if tensor.is_floating_point():
            assert torch.equal(tensor, network.backbone.state_dict()[name]) == frozen, name


def test_fewer_good_images_than_places_says_so_and_uses_all(plates, caplog):
    detector = MemSeg("light", **(SMALL | {"memory": 500}), steps=1).fit(plates, calibration="none")
    assert "memory: 500 places, filled with all" in caplog.text
    assert 0 < torch.isfinite(detector.network_.norms).sum() < 500


def test_the_memory_keeps_images_of_every_category():
    categories = ["a"] * 10 + ["b"] * 3 + ["c"]
    first = take_turns(list(range(14)), categories)[:5]
    assert {categories[i] for i in first} == {"a", "b", "c"}
    assert sorted(take_turns(list(range(14)), categories)) == list(range(14))


def test_looks_are_kept_as_pictures_and_the_best_can_be_the_model(plates, tmp_path, monkeypatch):
    values = iter([0.2, 0.9, 0.1])
    monkeypatch.setattr(memseg, "pixel_metrics", lambda *_: dataclasses.make_dataclass("M", ["ap"])(next(values)))
    best = MemSeg("light", **SMALL, steps=6, keep="best").fit(plates, calibration="none", run_folder=tmp_path / "run")
    best.save(tmp_path / "m.inlier")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [f"look-00000{i}.png" for i in (2, 4, 6)]
    with Image.open(tmp_path / "run/look-000002.png") as picture:
        assert picture.size == (3 * 64, min(4, picture.height // 64) * 64)
    values = iter([0.2, 0.9])
    shorter = MemSeg("light", **SMALL, steps=6, keep="best", patience=1)
    values = iter([0.2, 0.9, 0.1])
    stopped = shorter.fit(plates, calibration="none")
    a, b = (d.network_.state_dict() for d in (best, stopped))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"taps": (8, 16)}, "memseg needs five layers"),
        ({"tiles": (4, 8, 2)}, "setting 'tiles': rows and columns, each from 1 to 64, expected, got 4,8,2"),
        ({"tiles": (0, 4)}, "setting 'tiles'"),
        ({"tiles": (4, 65)}, "setting 'tiles'"),
        ({"l1_weight": 0.0, "focal_weight": 0.0}, "nothing is learned when both are 0"),
        ({"lr": 1e-5}, "setting 'lr_end': 0.0001 is above 'lr'"),
        ({"foreground": "darker:999"}, "setting 'foreground': got 'darker:999'"),
        ({"textures": "/nowhere"}, "/nowhere"),
        ({"foreground": "left"}, "got 'left'"),
    ],
)
def test_settings_that_make_no_sense(plates, settings, words):
    with pytest.raises(InlierError, match=words):
        MemSeg("light", **SMALL | {"steps": 1} | settings).fit(plates)


def test_batches_hold_every_second_image_with_a_defect_whatever_the_workers(plates, monkeypatch):
    seen = {}
    for workers in (1, 3):
        batches = []
        monkeypatch.setattr(
            memseg,
            "losses",
            lambda logits, masks, gamma, batches=batches: (batches.append(masks), (logits.mean(), logits.mean()))[1],
        )
        MemSeg("light", **SMALL, steps=3).fit(plates, calibration="none", workers=workers)
        seen[workers] = torch.stack(batches)
    assert torch.equal(seen[1], seen[3])
    has_defect = seen[1].flatten(2).any(2)
    assert torch.equal(has_defect, torch.tensor([[False, True, False, True]]).expand(3, -1))


def test_a_missing_foreground_is_counted_and_said(tmp_path, caplog):
    pictures = [np.full((64, 64, 3), 200, np.uint8) for _ in range(12)]
    MemSeg("light", **SMALL, steps=2, foreground="darker:100").fit(pictures, calibration="none")
    assert "none found on" in caplog.text


def test_a_layer_that_the_weights_lack_starts_afresh_and_is_recorded(plates, tmp_path):
    from inlier.features import Backbone

    path = tmp_path / "resnet18.pth"
    torch.save(Backbone("resnet18", (16,)).net.state_dict(), path)
    detector = MemSeg("light", **(SMALL | {"backbone": "resnet18"}), steps=1, weights=path).fit(
        plates, calibration="none"
    )
    assert detector.header()["weights"]["fresh"] == ["layer4"]
    again = MemSeg("light", **(SMALL | {"backbone": "resnet18"}), steps=1, weights=path).fit(plates, calibration="none")
    a, b = (d.network_.state_dict() for d in (detector, again))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_search_makes_no_tensor_of_batch_x_memory_x_features():
    banks = [torch.rand(50, 16, 16, 32)]
    query = [torch.rand(20, 32, 16, 16)]
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max(largest, out.numel() if isinstance(out, torch.Tensor) else 0)
            return out

    with Watch():
        nearest(banks, banks[0].square().mean((1, 2, 3)), query)
    assert largest <= max(banks[0].numel(), query[0].numel())


def test_a_run_stopped_between_two_steps_goes_on_bit_for_bit(plates, tmp_path, monkeypatch):
    from inlier import training

    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 0.0)
    settings = SMALL | {"steps": 6, "keep": "best"}
    whole = MemSeg("light", **settings).fit(plates, calibration="none")
    real, count = memseg.losses, 0

    def explode(*arguments):
        nonlocal count
        count += 1
        l1, focal = real(*arguments)
        return (l1 * float("nan"), focal) if count == 4 else (l1, focal)

    monkeypatch.setattr(memseg, "losses", explode)
    with pytest.raises(InlierError, match="became nan at step 4 of 6"):
        MemSeg("light", **settings).fit(plates, calibration="none", run_folder=tmp_path / "run")
    monkeypatch.setattr(memseg, "losses", real)
    resumed = MemSeg("light", **settings).fit(plates, calibration="none", run_folder=tmp_path / "run", resume=True)
    a, b = (d.network_.state_dict() for d in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert Run(folder=tmp_path / "run").checkpoint.is_file()
