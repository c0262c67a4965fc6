"""Feature maps equal torchvision's and timm's to the last digits; weights are found where the docs say."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

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
def timm(monkeypatch):
    """A small stand-in with the parts of timm's interface that inlier calls (timm itself needs torchvision)."""

    class Levels(torch.nn.Module):
        def __init__(self, out_indices, pretrained):
            super().__init__()
            self.stages = torch.nn.ModuleList(torch.nn.Conv2d(3 if i == 0 else 4, 4, 2, 2) for i in range(3))
            self.out_indices = out_indices
            self.feature_info = SimpleNamespace(
                reduction=lambda: [2, 4, 8], module_name=lambda: ["stem", "stages.0", "stages.1"]
            )
            self.pretrained_cfg = {"license": "mit"}
            if pretrained:
                fill_module(self, gain=1.0)

        def forward(self, x):
            maps = [x := stage(x) for stage in self.stages]
            return [maps[i] for i in self.out_indices]

    def create_model(name, features_only, out_indices=(0, 1, 2), pretrained=False, pretrained_cfg_overlay=None):
        assert name == "tiny" and features_only
        created.append(pretrained_cfg_overlay)
        return Levels(out_indices, pretrained)

    created = []
    module = ModuleType("timm")
    module.is_model, module.create_model, module.created = lambda name: name == "tiny", create_model, created
    module.get_pretrained_cfg = lambda _: SimpleNamespace(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    monkeypatch.setitem(sys.modules, "timm", module)
    return module


def test_a_timm_backbone_is_tapped_by_stride_or_layer_and_brings_its_own_normalisation(timm):
    backbone = Backbone("timm:tiny", (4, "stages.1"))
    weights = backbone.load()
    assert backbone.channels == [4, 4] and weights.source == "hf.co/timm/tiny" and weights.licence == "mit"
    image = torch.rand(2, 3, 32, 32)
    x = (image - 0.5) / 0.25
    maps = [x := stage(x) for stage in backbone.net.stages]
    for ours, expected in zip(backbone(image), maps[1:], strict=True):
        close(ours, expected.detach(), 1e-5)


def test_a_timm_backbone_takes_weights_from_a_file(timm, tmp_path):
    Backbone("timm:tiny", (4,)).load(tmp_path / "tiny.safetensors")
    assert timm.created[-1] == {"file": str(tmp_path / "tiny.safetensors")}


@pytest.mark.parametrize(
    ("name", "taps", "words"),
    [
        ("timm:huge", (4,), "timm knows no model 'huge'"),
        ("timm:tiny", (3,), r"no tap point 3. Strides: \[2, 4, 8\]; layers: \['stem'"),
        ("timm:tiny", (8, 4), "from shallow to deep"),
    ],
)
def test_what_timm_does_not_have_is_said(timm, name, taps, words):
    with pytest.raises(InlierError, match=words):
        Backbone(name, taps)


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InlierError, match=r"pip install 'inlier\[timm\]'"):
        Backbone("timm:tiny", (4,))
