"""Feature maps equal torchvision's and timm's to the last digits; weights are found where the docs say."""

import functools
import sys
from pathlib import Path

import pytest
import torch

import inlier
from golden import close, fill_module, load
from inlier import InlierError
from inlier.features import BACKBONES, Backbone
from inlier.features.efficientnet_lite import _conv, normed

RESNET_TOLERANCE = {"stem": 2e-5, "layer1": 5e-5, "layer2": 5e-5, "layer3": 5e-5, "layer4": 1e-4}
ALEXNET_TOLERANCE = {"features2": 2e-5, "features5": 5e-5, "features12": 5e-5}


def raw(backbone):
    """The golden inputs are what the network itself sees: switch our normalisation off."""
    backbone.mean.zero_()
    backbone.std.fill_(1)
    return backbone


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "wide_resnet50_2", "alexnet"])
def test_feature_maps_equal_torchvision(name):
    case, golden = load("backbones")
    taps = ["features.2", "features.5", "features.12"] if name == "alexnet" else [2, 4, 8, 16, 32]
    tolerances = ALEXNET_TOLERANCE if name == "alexnet" else RESNET_TOLERANCE
    backbone = raw(Backbone(name, taps))
    fill_module(backbone.net, gain=case["gain"][name])
    for i in range(len(case["config"][name])):
        with torch.no_grad():
            maps = backbone(golden[f"in.{name}.image{i}"])
        for map_, (layer, tolerance) in zip(maps, tolerances.items(), strict=True):
            expected = golden[f"out.{name}.{i}.{layer}"]
            # large maps are stored with every 4th or 16th channel
            close(
                map_[:, :: map_.shape[1] // expected.shape[1]], expected, 2 * tolerance if "wide" in name else tolerance
            )


def test_efficientnet_lite0_with_the_packaged_weights_equals_timm():
    _, golden = load("efficientnet_lite0")
    backbone = raw(Backbone("efficientnet_lite0", (2, 4, 8, 16, 32)))
    backbone.load()
    for i in (0, 1):
        with torch.no_grad():
            maps = backbone(golden[f"in.image{i}"])
        for stage, map_ in enumerate(maps):
            expected = golden[f"out.{i}.stage{stage}"]
            close(map_[:, :: map_.shape[1] // expected.shape[1]], expected, 1e-3)


@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 1, 1), (3, 2, 8)])
def test_a_norm_inside_its_convolution_changes_nothing_and_waits_while_it_learns(kernel, stride, groups):
    conv, norm = _conv(8, 8, kernel, stride, groups), torch.nn.BatchNorm2d(8)
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        tensor.uniform_(0.5, 2)
    x = torch.randn(2, 8, 9, 9)
    torch.testing.assert_close(normed(conv, norm.eval(), x), norm(conv(x)))
    before = norm.running_mean.clone()
    normed(conv, norm.train(), x)
    assert not torch.equal(norm.running_mean, before)


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_strides_say_how_much_smaller_a_map_is(name):
    strides = list(BACKBONES[name][1])
    with torch.no_grad():
        maps = Backbone(name, strides)(torch.zeros(1, 3, 128, 128))
    for stride, map_ in zip(strides, maps, strict=True):
        assert abs(map_.shape[-1] - 128 / stride) <= 1


def test_layers_after_the_last_tap_are_not_built():
    backbone = Backbone("resnet18", (4, 8))
    assert not any("layer3" in key or "layer4" in key for key in backbone.state_dict())
    shallow = Backbone("efficientnet_lite0", ("blocks.1",))
    assert not any("blocks.2" in key for key in shallow.state_dict())


def test_taps_come_back_in_the_order_asked_for():
    deep_first = Backbone("resnet18", ("layer2", 4))
    assert deep_first.channels == [128, 64]


def test_images_are_normalised_inside():
    backbone = Backbone("resnet18", (4,))
    image = torch.rand(1, 3, 64, 64)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    by_hand = (image - mean[None, :, None, None]) / std[None, :, None, None]
    with torch.no_grad():
        expected = backbone(image)[0]
        close(raw(backbone)(by_hand)[0], expected, 1e-4)


def test_the_embedded_backbone_sees_pictures_as_it_was_trained():
    backbone = Backbone("efficientnet_lite0", (2,))
    grey = torch.full((1, 3, 64, 64), 127 / 255)
    assert torch.equal((grey - backbone.mean) / backbone.std, torch.zeros_like(grey))
    close(((grey + 128 / 255) - backbone.mean) / backbone.std, torch.ones_like(grey), 1e-6)


def test_a_backbone_stays_frozen_inside_a_training_model():
    backbone = torch.nn.ModuleList([Backbone("resnet18", (4,))]).train()[0]
    assert not backbone.net.training and not any(p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize(
    ("name", "taps", "words"),
    [
        ("resnet19", (4,), "unknown backbone 'resnet19'. Known: efficientnet_lite0, resnet18"),
        ("resnet18", (3,), "no tap point 3. Strides: 2, 4, 8, 16, 32; layers: conv1"),
        ("resnet18", ("layer9",), "no tap point 'layer9'"),
    ],
)
def test_unknown_names_are_errors_that_list_the_known_ones(name, taps, words):
    with pytest.raises(InlierError, match=words.replace("(", r"\(")):
        Backbone(name, taps)


@pytest.fixture
def timm():
    """The real one. Beside a CPU build of torch, torchvision needs its two operators declared before it is imported."""
    folder = Path(sys.prefix) / "timm"  # where `make` puts it: beside, not among, what inlier may import
    if folder.is_dir() and str(folder) not in sys.path:
        sys.path.append(str(folder))
        declare_operators()
    return pytest.importorskip("timm", reason="timm is not installed")


@functools.cache
def declare_operators():
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


@pytest.mark.parametrize(
    ("name", "taps", "sizes", "shapes"),
    [
        ("vit_tiny_patch16_224", ("blocks.3", 16), (64, 96), ((192, 16), (192, 16))),
        ("deit_tiny_patch16_224", (16,), (64,), ((192, 16),)),
        ("vit_small_patch14_dinov2", ("blocks.5", 14), (56, 70), ((384, 14), (384, 14))),
        ("vit_small_patch16_dinov3", (16,), (64,), ((384, 16),)),
        ("swin_tiny_patch4_window7_224", (4, 8), (64,), ((96, 4), (192, 8))),
        ("resnet18", (4, "layer3"), (64,), ((64, 4), (256, 16))),
        ("mobilenetv3_small_050", (8, 16), (64,), ((16, 8), (24, 16))),
    ],
)
def test_networks_of_timm_give_maps_at_every_size(timm, name, taps, sizes, shapes):
    backbone = Backbone(f"timm:{name}", taps[: len(shapes)])
    assert backbone.channels == [channels for channels, _ in shapes]
    for size in sizes:
        maps = backbone(torch.rand(2, 3, size, size))
        for m, (channels, stride) in zip(maps, shapes, strict=True):
            assert m.shape == (2, channels, size // stride, size // stride) and m.isfinite().all()


def test_maps_of_a_transformer_are_registered_to_the_picture(timm):
    """Attention mixes all positions, but the patch that changes most is the one that was changed."""
    backbone = Backbone("timm:vit_tiny_patch16_224", ("blocks.0",))
    picture = torch.rand(1, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    changed = picture.clone()
    changed[:, :, 64:80, 16:32] = 0
    difference = (backbone(picture)[0] - backbone(changed)[0]).square().sum(1)[0]
    assert difference.shape == (6, 4) and difference.argmax() == 4 * 4 + 1


def test_a_size_that_is_no_multiple_of_the_patch_is_refused_and_says_what_fits(timm):
    backbone = Backbone("timm:vit_small_patch14_dinov2", (14,))
    with pytest.raises(InlierError, match="setting 'size': .* patches of 14 pixels.* take 252 or 266"):
        backbone(torch.zeros(1, 3, 256, 256))


@pytest.mark.parametrize("name, suffix", [("vit_tiny_patch16_224", ".pth"), ("resnet18", ".safetensors")])
def test_weights_of_timm_come_from_a_file_or_the_folder(timm, name, suffix, tmp_path, monkeypatch):
    from safetensors.torch import save_file

    tensors = timm.create_model(name).state_dict()
    path = tmp_path / f"{name}{suffix}"
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    one, two = (Backbone(f"timm:{name}", (16,)) for _ in range(2))
    assert one.load(path).source == str(path)
    monkeypatch.setenv("INLIER_WEIGHTS", str(tmp_path))
    assert two.load().source == str(path)
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(one(image)[0], two(image)[0])
    key = "net.net.model.blocks.0.attn.qkv.weight" if "vit" in name else "net.net.layer1.0.conv1.weight"
    assert torch.equal(one.state_dict()[key], tensors[key.removeprefix("net.net.").removeprefix("model.")])


def test_a_machine_without_internet_is_told_what_to_do(timm):
    with pytest.raises(InlierError, match="no weights for timm:vit_tiny_patch16_224 from the Hugging Face hub"):
        Backbone("timm:vit_tiny_patch16_224", (16,)).load()
    with pytest.raises(InlierError, match=r"nowhere.pth: no such weight file"):
        Backbone("timm:vit_tiny_patch16_224", (16,)).load("nowhere.pth")


def test_padim_on_a_vision_transformer_saves_and_loads(timm, plates, tmp_path):
    tensors = timm.create_model("vit_tiny_patch16_224").state_dict()
    torch.save(tensors, tmp_path / "vit.pth")
    settings = {"backbone": "timm:vit_tiny_patch16_224", "taps": ("blocks.1",), "grid": 0, "channels": 20, "size": 64}
    detector = inlier.PaDiM(weights=tmp_path / "vit.pth", **settings).fit(plates)
    detector.save(tmp_path / "m.inlier")
    picture = plates / "plate/test/good/000.png"
    loaded = inlier.load(tmp_path / "m.inlier")
    assert loaded.inspect(picture) == detector.inspect(picture)
    with pytest.raises(InlierError, match="no multiple of; take 48 or 64"):
        inlier.PaDiM(weights=tmp_path / "vit.pth", **settings | {"size": 60}).fit(plates)


@pytest.mark.parametrize(
    ("name", "taps", "words"),
    [
        ("timm:huge", (4,), "timm knows no model 'huge'"),
        ("timm:resnet18", (3,), r"no tap point 3. Strides: \[2, 4, 8, 16, 32\]; layers: \['act1'"),
        ("timm:vit_tiny_patch16_224", (8,), r"no tap point 8. Strides: \[16, .*layers: \['blocks.0'"),
        ("timm:resnet18", (8, 4), "from shallow to deep"),
    ],
)
def test_what_timm_does_not_have_is_said(timm, name, taps, words):
    with pytest.raises(InlierError, match=words):
        Backbone(name, taps)


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InlierError, match=r"pip install 'inlier\[timm\]'"):
        Backbone("timm:tiny", (4,))
