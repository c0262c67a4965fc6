"""DifferNet equals the numbers of the authors' code: views, features, flow, loss, score, gradients."""

import re
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from scipy import ndimage
from torch.nn import functional as F

import inlier
from golden import built, close, fill_module, load
from inlier import DifferNet, InlierError
from inlier.methods.differnet import (
    LARGEST,
    Flow,
    bits,
    negative_log_likelihood,
    pool_features,
    training_views,
    whitening,
)
from inlier.methods.differnet.settings import Settings
from inlier.methods.differnet.views import (
    View,
    choose_views,
    fixed_angles,
    look,
    rotate,
    share_unlike,
    smaller,
    spline_matrix,
    turn,
)

CASE, GOLDEN = load("differnet")
LAYERS = {"0": "fc1", "2": "fc2", "4": "fc2b", "6": "fc3"}


def reference_name(key):
    """blocks.2.s1.0.weight -> nf.module_list.6.s1.fc1.weight"""
    _, block, subnet, layer, tensor = key.split(".")
    return f"nf.module_list.{2 + 2 * int(block)}.{subnet}.{LAYERS[layer]}.{tensor}"


def fill_flow(flow):
    """The permutations stay: they are checked, not filled."""
    orders = {key: tensor for key, tensor in flow.state_dict().items() if key.endswith("order")}
    weights = {key: tensor for key, tensor in flow.state_dict().items() if key not in orders}

    class Weights(torch.nn.Module):
        def state_dict(self):
            return weights

        def load_state_dict(self, state):
            flow.load_state_dict({**state, **orders})

    fill_module(Weights(), reference_name, CASE["gain"])
    return flow


@pytest.fixture(scope="module")
def flow():
    return fill_flow(Flow(768, Settings(width=CASE["config"]["fc"])))


def paper(**settings):
    network = built(DifferNet("paper", size=256, width=CASE["config"]["fc"], **settings))
    fill_module(network.backbone.net, "feature_extractor.{}".format, CASE["gain"])
    network.backbone.mean.zero_()  # the golden pictures are what comes after the normalisation
    network.backbone.std.fill_(1)
    fill_flow(network.flow)
    return network


def test_permutations(flow):
    for k, block in enumerate(flow.blocks):
        assert torch.equal(block.order[:10], GOLDEN[f"out.permutation.{k}.first10"])
        assert zlib.crc32(block.order.numpy().tobytes()) == GOLDEN[f"out.permutation.{k}.crc32"].item()


def test_flow_logdet_loss_and_score(flow):
    x = GOLDEN["in.flow.x"]
    with torch.no_grad():
        z, logdet = flow.with_logdet(x)
        assert torch.equal(z, flow(x))
        step = x[:1]
        for k, block in enumerate(flow.blocks):
            step = block(step)
            close(step[0], GOLDEN["out.flow.blocks"][k], 1e-4)
    close(z, GOLDEN["out.flow.z"], 1e-4)
    close(logdet, GOLDEN["out.flow.logdet"], 1e-4)
    close(negative_log_likelihood(z, logdet).mean()[None], GOLDEN["out.flow.loss"], 1e-5)
    network = paper(test_views=CASE["config"]["transforms"])
    close(network.mean_square(z), GOLDEN["out.flow.score"], 2e-5)


def test_far_values_are_bounded(flow):
    expected = GOLDEN["out.flow.z_of_1e6_x"]
    with torch.no_grad():
        z = flow(1e6 * GOLDEN["in.flow.x"][:1])
    # only what lies at the bound is the same on every processor: eight blocks multiply the rounding of the rest
    at_bound = expected.abs() == LARGEST
    assert z.abs().max() == LARGEST and at_bound.sum() > 500
    close(z[at_bound] / LARGEST, expected[at_bound] / LARGEST, 1e-2)


def test_gradients_of_the_loss(flow):
    flow.zero_grad()
    negative_log_likelihood(*flow.with_logdet(GOLDEN["in.flow.x"])).mean().backward()
    checked = 0
    for key, parameter in flow.named_parameters():
        name = f"out.flow.grad.{reference_name(key)}"
        if name in GOLDEN:
            close(parameter.grad, GOLDEN[name], 2e-7 if ".16." in name else 5e-7)
            checked += 1
    assert checked == 5


def test_features_of_an_image_and_their_likelihood():
    network = paper()
    with torch.no_grad():
        features = network.features(GOLDEN["in.image"])
        z, logdet = network.flow.with_logdet(features)
    close(features, GOLDEN["out.image.features"], 5e-6)
    close(z, GOLDEN["out.image.z"], 1e-5)
    close(logdet, GOLDEN["out.image.logdet"], 5e-5)


def test_gradient_picture(monkeypatch):
    network = paper(test_views=CASE["config"]["grad_views"])
    views = GOLDEN["in.grad.views"]
    with torch.no_grad():
        loss = negative_log_likelihood(*network.flow.with_logdet(network.features(views))).mean()
    close(loss[None], GOLDEN["out.grad.loss"], 1e-6)
    monkeypatch.setattr(network, "views", lambda images, at_once: iter([views.clone()]))
    with torch.inference_mode():
        z, gradients = network.input_gradients(views[:1])
        picture = network.picture(gradients)[None]
    assert z.shape == (2, 768)
    # as a whole: where rounding turns a ReLU on or off, and it does on some processors, the pixels below it jump
    for ours, golden in ((gradients[..., ::4, ::4], "out.grad.input_every4"), (picture, "out.grad.map")):
        assert ours.shape == GOLDEN[golden].shape and (ours - GOLDEN[golden]).norm() < 1e-3 * GOLDEN[golden].norm()


def test_gradients_are_turned_back_by_splines_as_scipy_does():
    rng = np.random.default_rng(0)
    for n in (37, 64):  # noise: what interpolation changes most
        image = rng.normal(size=(2, 3, n, n)).astype(np.float32)
        for degrees in (-360 / 64, 30.0, 120.0, -217.3, 90.0, 180.0, 359.0):
            expected = ndimage.rotate(image, degrees, axes=(2, 3), reshape=False)
            ours = turn(torch.from_numpy(image), degrees, spline_matrix(n)).numpy()
            np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-5)


def test_the_picture_is_that_of_the_code():
    network = built(DifferNet("paper", size=128, scales=1, width=16, test_views=16))
    _, gradients = network.input_gradients(torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0)))
    turned = [
        ndimage.rotate(g.numpy(), -degrees, axes=(2, 1), reshape=False) for g, degrees in zip(gradients, network.angles)
    ]
    expected = np.abs(ndimage.gaussian_filter(np.stack(turned), (0, 0, 3, 3))).mean((0, 1)) ** 2
    np.testing.assert_allclose(network.picture(gradients).numpy(), expected, rtol=0, atol=1e-4 * expected.max())


def test_smaller_scales_are_floored_as_torchs_nearest_interpolation_does():
    for side in (64, 270, 271, 449):
        views = torch.rand(1, 3, side, side + 2)
        for stride in (1, 2, 4, 8):
            expected = F.interpolate(views, size=(side // stride, (side + 2) // stride), mode="nearest")
            assert torch.equal(smaller(views, stride), expected)
    network = built(DifferNet("paper", size=135, scales=2, width=16, test_views=1))
    seen = []
    network.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[2]))
    network.features(torch.rand(1, 3, 135, 135))
    assert seen == [135, 67]


def test_rotation():
    image = GOLDEN["in.rotate.image"].permute(2, 0, 1)
    for degrees, expected in zip(GOLDEN["in.rotate.degrees"], GOLDEN["out.rotate.out"]):
        close(rotate(image, degrees.item()), expected.permute(2, 0, 1), 0)


@pytest.mark.parametrize("size", [(7, 7), (48, 48), (31, 50), (64, 33), (448, 448)])
def test_rotation_picks_the_pixels_that_pillow_picks(size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, size, np.uint8)
    for degrees in [*fixed_angles(8, 180), *rng.uniform(-180, 180, 12)]:
        expected = torch.from_numpy(np.array(Image.fromarray(image).rotate(degrees)))
        assert torch.equal(rotate(torch.from_numpy(image)[None], degrees)[0], expected), degrees


def test_right_angles_lose_nothing_and_turn_back_exactly():
    image = torch.rand(3, 33, 33)
    for quarter in range(4):
        turned = rotate(image, 90.0 * quarter)
        assert torch.equal(turned, torch.rot90(image, quarter, (1, 2)))
        assert torch.equal(rotate(turned, -90.0 * quarter), image)


def test_reflection_fills_the_corners_with_the_picture():
    ones = torch.ones(3, 40, 40)
    assert rotate(ones, 45).min() == 0 and rotate(ones, 45, "reflect").min() == 1
    image = torch.rand(3, 40, 40)
    inside = rotate(ones, 30) > 0
    assert torch.equal(rotate(image, 30)[inside], rotate(image, 30, "reflect")[inside])


def test_angles():
    assert fixed_angles(4, 180) == [0, 90, 180, 270]
    assert fixed_angles(64, 180)[1] == 360 / 64
    assert fixed_angles(4, 10) == [-7.5, -2.5, 2.5, 7.5] and fixed_angles(1, 10) == [0]
    assert fixed_angles(3, 0) == [0], "turned by nothing, all views are one"


def test_a_view_in_all_its_parts():
    image = torch.rand(3, 20, 20)
    assert torch.equal(look(image, View(), "black"), image)
    assert torch.equal(look(image, View(mirror=True), "black"), image.flip(2))
    assert torch.equal(look(image, View(flip=True), "black"), image.flip(1))
    assert look(image, View(brightness=2.0), "black").max() == 1
    assert look(image, View(contrast=0.0), "black").std() < 1e-6
    s = Settings(rotation=10, mirror=True, brightness=0.1)
    assert all(not torch.equal(view, image) for view in training_views(image, s, 0, 3))


LIGHT = DifferNet("light").settings


def screws(n, lie, has_head=True, seed=0):
    """(n, 3, 96, 96) dark parts that lie at these degrees, or so many more or less, on a ground lit from the left."""
    rng = np.random.default_rng(seed)
    ground = np.tile(np.linspace(220, 150, 96), (96, 1))
    made = []
    for _ in range(n):
        part = Image.new("L", (96, 96))
        ImageDraw.Draw(part).rectangle((44, 16, 51, 79), 120)
        if has_head:
            ImageDraw.Draw(part).rectangle((34, 16, 61, 26), 120)
        dark = np.asarray(part.rotate(rng.uniform(*lie), Image.Resampling.BILINEAR))
        made.append(np.clip(ground - dark + rng.normal(0, 2, (96, 96)), 0, 255) / 255)
    return torch.from_numpy(np.stack(made)).float()[:, None].expand(-1, 3, -1, -1)


def chosen(pictures, **settings):
    categories = settings.pop("categories", ["part"] * len(pictures))
    return choose_views(LIGHT.replace(**settings), pictures, categories)


@pytest.mark.parametrize(
    ("lie", "has_head", "views"),
    [((-180, 180), True, 4), ((-4, 4), True, 1), ((-4, 4), False, 2)],
    ids=["at any angle", "one way up", "the same upside down"],
)
@pytest.mark.parametrize("n", [10, 60])
def test_the_views_are_those_at_which_good_pictures_look_like_good_ones(n, lie, has_head, views):
    s, why = chosen(screws(n, lie, has_head))
    assert (s.view_pool, s.views, s.test_views, s.rotation) == (views, min(2, views), None, 180)
    assert network_angles(s) == fixed_angles(views, 180)
    told = {4: "views at 0, 90, 180, 270 degrees: ", 2: "views at 0, 180 degrees: ", 1: "views at 0 degrees: "}
    assert why.startswith(told[views]) and "of good pictures turned by 90, 180, 270 degrees " in why
    if views < 4 and n == 60:
        assert "100, 100, 100 % look" in why if views == 1 else re.search(r"100, \d, 100 % look unlike good ones", why)


def network_angles(s):
    return built(DifferNet(**SMALL, view_pool=s.view_pool, views=s.views)).angles


def test_a_view_must_suit_every_category():
    pictures = torch.cat([screws(20, (-180, 180)), screws(20, (-4, 4), has_head=False)])
    assert chosen(pictures, categories=["any"] * 20 + ["twofold"] * 20)[0].view_pool == 2
    assert chosen(pictures[:1], categories=["alone"])[0].view_pool == 4, "one picture says nothing against it"


def test_the_rotation_bounds_the_choice():
    s, why = chosen(screws(20, (-180, 180)), rotation=0)
    assert (s.view_pool, s.views, why) == (1, 1, "views at 0 degrees: 'rotation' allows no other")
    s, why = chosen(screws(60, (-30, 30)), rotation=10)
    assert s.view_pool == 4 and why.startswith("views at -7.5, -2.5, 2.5, 7.5 degrees: ")


def test_turned_pictures_are_unlike_where_they_lie_beyond_the_others():
    upright = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    again = torch.randn(200, 6, generator=torch.Generator().manual_seed(1))
    assert share_unlike(upright, again) == pytest.approx(0.05, abs=0.04)
    assert share_unlike(upright, again + 6) == 1 and share_unlike(upright[:1], again[:1] + 6) == 0


def test_what_was_chosen_is_told_and_kept_in_the_model(tmp_path, caplog):
    """So that a part which lies upside down is not scored as an upright one."""
    caplog.set_level("INFO", "inlier")
    parts = [(255 * picture).byte().permute(1, 2, 0).numpy() for picture in screws(12, (-4, 4))]
    detector = DifferNet("light", **SMALL).fit(parts, calibration="folds")
    assert caplog.text.count("views at 0 degrees: of good pictures") == 1, "folds take the views of the whole"
    detector.save(tmp_path / "m.inlier")
    found = inlier.load(tmp_path / "m.inlier")
    assert found.header()["settings"]["view_pool"] == 1 and found.network_.angles == [0.0]
    both = [found.inspect(part).score for part in (parts[0], parts[0][::-1, ::-1])]
    assert both[0] != pytest.approx(both[1], rel=0.01)
    # given by hand the number is taken as it is, and such a model cannot tell the two
    blind = DifferNet("light", **SMALL, view_pool=2).fit(parts, calibration="none")
    both = [blind.inspect(part).score for part in (parts[0], parts[0][::-1, ::-1])]
    assert both[0] == pytest.approx(both[1], rel=1e-4)


def test_views_that_were_chosen_are_those_that_are_given_by_hand():
    parts = [(255 * picture).byte().permute(1, 2, 0).numpy() for picture in screws(12, (-4, 4), has_head=False)]
    one, other = (DifferNet("light", **SMALL, **by_hand).fit(parts) for by_hand in ({}, {"view_pool": 2}))
    assert one.header() == other.header() and one.settings_.view_pool == 2
    same = zip(one.network_.state_dict().values(), other.network_.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


@pytest.fixture(scope="module")
def pictures():
    torch.manual_seed(0)
    return torch.rand(5, 3, 64, 64)


SMALL = {"backbone": "tiny", "taps": (8, 16), "size": 64, "width": 16, "blocks": 2, "steps": 3}


def test_the_same_score_in_any_company_with_and_without_maps(pictures):
    network = built(DifferNet("light", **SMALL, test_views=7))
    with torch.inference_mode():
        together, maps = network(pictures)
        assert maps.shape == (5, 64, 64)
        torch.testing.assert_close(network.scores(pictures), together)
        for i, image in enumerate(pictures):
            score, map_ = network(image[None])
            assert torch.equal(score[0], together[i]) and torch.equal(map_[0], maps[i])
            assert torch.equal(network.scores(image[None])[0], network.scores(pictures)[i])


def test_few_views_have_the_very_same_score_with_and_without_maps(pictures):
    network = built(DifferNet("light", **SMALL, test_views=4))
    with torch.inference_mode():
        assert torch.equal(network.scores(pictures), network(pictures)[0])


def test_no_determinant_where_none_is_needed(pictures, monkeypatch):
    network = built(DifferNet("light", **SMALL))
    monkeypatch.setattr(Flow, "with_logdet", lambda *_: pytest.fail("computed a determinant"))
    with torch.inference_mode():
        network.scores(pictures)


def test_the_pool_holds_the_features_of_the_scoring_views(pictures, monkeypatch):
    detector = DifferNet("light", **SMALL)
    network = built(detector)
    caught = []
    monkeypatch.setattr(
        "inlier.methods.differnet.pool_features", lambda *a: caught.append(pool_features(*a)) or caught[0]
    )
    detector.fit([(255 * image).byte().permute(1, 2, 0).numpy() for image in pictures], calibration="none")
    network = detector.network_
    images = (255 * pictures).byte().float() / 255
    with torch.no_grad():
        expected = torch.cat([network.features(views) for views in network.views(images)])
    pool = (caught[0].flatten(0, 1) - network.mean) @ network.whitening
    torch.testing.assert_close(pool, expected, rtol=1e-4, atol=5e-3)  # whitening makes rounding larger


def test_whitened_features_and_their_noise_have_the_covariance_one():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(400, 6, generator=generator) @ torch.randn(6, 8, generator=generator) + 3
    features[:, 7] = 5.0  # constant; and one more direction in which nothing varies
    mean, matrix, noise = whitening(features, 1e-4)
    z = (features - mean) @ matrix
    torch.testing.assert_close(z.T @ z / len(z) + noise.square().diag(), torch.eye(8), atol=1e-3, rtol=0)
    assert sorted(noise.tolist())[-2:] == pytest.approx([1, 1], abs=1e-3)
    torch.testing.assert_close(noise.sort().values[:6], torch.zeros(6), atol=0.1, rtol=0)


@pytest.mark.parametrize("settings", [{"view_pool": 0}, {"view_pool": 0, "whiten": None, "epochs": 2, "steps": None}])
def test_new_views_do_not_depend_on_the_number_of_threads(pictures, settings):
    arrays = [(255 * image).byte().permute(1, 2, 0).numpy() for image in pictures]
    one, four = (
        DifferNet("light", **{**SMALL, "mirror": True, "brightness": 0.2, **settings})
        .fit(arrays, calibration="none", workers=workers)
        .network_.state_dict()
        for workers in (1, 4)
    )
    assert all(torch.equal(one[key], four[key]) for key in one)


def test_bits_of_a_standard_normal_are_its_entropy():
    z = torch.randn(10_000, 4, generator=torch.Generator().manual_seed(0))
    value = bits(negative_log_likelihood(z, torch.zeros(len(z))).mean().item())
    assert value == pytest.approx(np.log2(2 * np.pi * np.e) / 2, abs=0.02)


def test_an_input_that_the_smallest_scale_cannot_use():
    with pytest.raises(InlierError, match="setting 'size': 64 is too small"):
        built(DifferNet("paper", size=64))


def test_a_flow_that_diverges_says_what_to_lower(pictures):
    arrays = [(255 * image).byte().permute(1, 2, 0).numpy() for image in pictures]
    with pytest.raises(InlierError, match="lower the setting lr"):
        DifferNet("light", **{**SMALL, "lr": 1.0, "clamp": 1e3, "steps": 400}).fit(arrays, calibration="none")


def test_a_flow_at_its_bound_has_diverged_though_its_loss_is_finite(pictures):
    arrays = [(255 * image).byte().permute(1, 2, 0).numpy() for image in pictures]
    with pytest.raises(InlierError, match="became inf .*lower the setting lr"):
        DifferNet("light", **{**SMALL, "blocks": 8, "lr": 1.0, "steps": 40}).fit(arrays, calibration="none")


def test_new_views_are_whitened_by_views_like_them(pictures, caplog):
    caplog.set_level("INFO", "inlier")
    arrays = [(255 * image).byte().permute(1, 2, 0).numpy() for image in pictures]
    options = {"view_pool": 0, "rotation": 30.0, "brightness": 0.2, "views": 4, "whiten": 1e-2, "fill": "black"}
    DifferNet("light", **{**SMALL, **options, "steps": 10}).fit(arrays, calibration="none")
    assert "of 20 views" in caplog.text
    bits = [float(m) for m in re.findall(r"step \d+ of 10: ([\d.]+) bits", caplog.text)]
    assert len(bits) == 10 and bits[-1] < bits[0] < 1000  # 1e11 where upright views alone whiten


def test_more_views_than_the_pool_has():
    with pytest.raises(InlierError, match="setting 'views': 3 in a step, but only 2 in 'view_pool'"):
        DifferNet("light", views=3, view_pool=2)


def test_the_clamp_bounds_log_scales(flow):
    log_scales: list[torch.Tensor] = []
    with torch.no_grad():
        flow(1000 * GOLDEN["in.flow.x"], log_scales)
    assert torch.cat(log_scales, 1).abs().max() <= 3 * 0.636 * np.pi / 2
