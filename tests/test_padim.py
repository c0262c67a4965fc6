"""PaDiM equals the numbers of the implementation everybody uses, and its shortcuts equal the long way."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

import conftest
from golden import built, close, fill_module, load
from inlier import InlierError, calibration
from inlier.gaussians import GaussianSums, inverse_factors, join
from inlier.maps import smooth_upsample_matrix
from inlier.methods.padim import Network, PaDiM, leave_out, pressed, select_channels

CASE, GOLDEN = load("padim")


def embedding(split, order):
    """(P, B, d) from the golden maps, channels in the released code's order."""
    maps = [GOLDEN[f"in.{split}.layer{i}"] for i in (1, 2, 3)]
    return join(maps, (16, 16)).flatten(2).permute(2, 0, 1)[..., order]


@pytest.mark.parametrize("batch", [12, 5, 1])
def test_streamed_mean_and_covariance_equal_numpy_cov(batch):
    x = embedding("train", GOLDEN["out.index.small"])
    sums = GaussianSums(torch.empty(256, 20, 20))
    for part in x.split(batch, dim=1):
        sums.add(part)
    close(sums.mean.T, GOLDEN["out.small.mean"], 5e-6)
    covariance = sums.covariance(slice(None)) + 0.01 * torch.eye(20)
    close(covariance.permute(1, 2, 0), GOLDEN["out.small.cov"], 2e-5)


def small_network():
    """The real network around the golden maps: only its backbone is not used."""
    network = Network(PaDiM.presets["light"].replace(taps=(4, 8, 16), grid=0, size=64, channels=None), seed=0)
    network.mean = torch.zeros(256, 20)
    return network


def fit(network, embeddings, epsilon):
    d = network.mean.shape[1]
    sums = GaussianSums(torch.empty(256, d, d))
    for part in embeddings:
        sums.add(part)
    network.mean.copy_(sums.mean)
    network.whitening = torch.cat([pressed(factors) for _, factors in inverse_factors(sums, epsilon)]).float()


@pytest.mark.parametrize("rows", [128, 7, 20])
def test_distances_maps_and_scores(rows, monkeypatch):
    monkeypatch.setattr("inlier.methods.padim.ROWS", rows)
    network, order = small_network(), GOLDEN["out.index.small"]
    fit(network, [embedding("train", order)], epsilon=0.01)
    squared = network.distances(embedding("test", order))
    close(squared.sqrt().T.reshape(3, 16, 16), GOLDEN["out.small.distance64"], 1e-3)
    maps = network.maps(squared)
    close(maps, GOLDEN["out.small.map64"], 1e-3)
    close(maps.amax((1, 2)), GOLDEN["out.small.score64"], 5e-4)
    low, high = maps.min(), maps.max()  # what the released script does with its scores
    close((maps.amax((1, 2)) - low) / (high - low), GOLDEN["out.small.score_minmax"], 5e-5)


def test_whole_method_through_resnet18():
    detector = PaDiM("paper", size=64, shorter_side=None)
    network = built(detector)
    fill_module(network.backbone.net)
    network.backbone.mean.zero_()
    network.backbone.std.fill_(1)
    images = GOLDEN["in.e2e.train"]
    with torch.no_grad():
        fit(network, map(network.embed, images.split(4)), detector.settings.epsilon)
        scores, maps = network(GOLDEN["in.e2e.test"])
        distances = network.distances(network.embed(GOLDEN["in.e2e.test"])).sqrt().T.reshape(2, 16, 16)
    close(distances, GOLDEN["out.e2e.distance64"], 1e-2)
    close(maps, GOLDEN["out.e2e.map64"], 5e-3)
    close(scores, GOLDEN["out.e2e.score64"], 2e-3)


@pytest.mark.parametrize(("layers", "wanted"), [((64, 128, 256), 100), ((256, 512, 1024), 550)])
def test_seed_0_draws_the_channels_of_the_released_code(layers, wanted):
    selected = select_channels(list(layers), wanted, seed=0)
    starts = np.cumsum([0, *layers])
    drawn = [c + int(start) for start, index in zip(starts, selected) for c in index]
    assert drawn == sorted(GOLDEN[f"out.index.{sum(layers)}_{wanted}"].tolist())


def test_all_channels_leave_nothing_to_chance():
    assert select_channels([2, 3], None, seed=1) == select_channels([2, 3], None, seed=2) == [[0, 1], [0, 1, 2]]


def distances_to(train, test, epsilon):
    """(P, m) squared Mahalanobis distances of test (P, m, d) to the Gaussians of train (P, n, d), the long way."""
    centred = train - train.mean(1, keepdim=True)
    covariance = centred.mT @ centred / (train.shape[1] - 1) + epsilon * torch.eye(train.shape[2], dtype=torch.float64)
    u = (test - train.mean(1, keepdim=True)).mT
    return (u * torch.linalg.solve(covariance, u)).sum(1)


@pytest.mark.parametrize("epsilon", [0.01, 1e-4, 1e-6])
@pytest.mark.parametrize("n", [4, 10, 40])  # fewer and more images than channels
def test_leaving_one_out_equals_refitting_without_it(n, epsilon):
    torch.manual_seed(0)
    x = torch.randn(5, n, 12, dtype=torch.float64) @ torch.randn(12, 12, dtype=torch.float64)
    fast = leave_out(x, [[i] for i in range(n)], epsilon)
    for i in range(n):
        others = torch.cat([x[:, :i], x[:, i + 1 :]], 1)
        torch.testing.assert_close(fast[:, [i]].double(), distances_to(others, x[:, [i]], epsilon), rtol=1e-4, atol=0)


def test_a_group_is_left_out_whole():
    torch.manual_seed(0)
    x = torch.randn(5, 12, 20, dtype=torch.float64)
    x[:, 1] = x[:, 0]  # a copy
    groups = [[0, 1], [2], [3, 7, 9], [4], [5, 6], [8, 10, 11]]
    fast = leave_out(x, groups, 0.01)
    for group in groups:
        others = x[:, [i for i in range(12) if i not in group]]
        torch.testing.assert_close(fast[:, group].double(), distances_to(others, x[:, group], 0.01), rtol=1e-5, atol=0)


@pytest.mark.parametrize("apart", [1, 100, 10_000])
def test_float32_sums_are_exact_however_far_the_first_pictures_lie(apart):
    torch.manual_seed(0)
    x = torch.randn(4, 64, 8, dtype=torch.float64)
    x[:, :16] += apart
    sums = GaussianSums(torch.empty(4, 8, 8))
    for part in x.float().split(16, 1):
        sums.add(part)
    centred = x.float().double() - x.float().double().mean(1, keepdim=True)
    expected = centred.mT @ centred / 63
    torch.testing.assert_close(sums.covariance(slice(None)), expected, rtol=1e-6, atol=1e-6 * float(expected.max()))


def test_a_group_that_is_all_but_one_picture_is_named(tmp_path):
    for i in range(5):
        conftest.part(np.random.default_rng(i))[0].save(tmp_path / f"board{i // 4}-{i}.png")
    with pytest.raises(InlierError, match="one group holds all pictures but one"):
        PaDiM("light", backbone="tiny", size=64).fit(tmp_path, group=r"board(\d)")


def test_an_epsilon_that_rounding_swallows_is_named():
    sums = GaussianSums(torch.empty(2, 30, 30))
    sums.add(1000 * torch.randn(2, 5, 30))
    with pytest.raises(InlierError, match=r"setting 'epsilon': 1e-09 is lost in the rounding"):
        list(inverse_factors(sums, 1e-9))


def test_the_map_matrix_equals_interpolate_then_scipy():
    from scipy.ndimage import gaussian_filter

    scores = torch.rand(1, 1, 14, 9)
    upsampled = torch.nn.functional.interpolate(scores, size=(50, 40), mode="bilinear")[0, 0].numpy()
    rows, columns = smooth_upsample_matrix(14, 50, 4.0), smooth_upsample_matrix(9, 40, 4.0)
    close(rows @ scores[0, 0] @ columns.T, torch.from_numpy(gaussian_filter(upsampled, 4.0)), 1e-5)


@pytest.mark.parametrize("rows", [128, 3])
def test_the_file_holds_only_the_lower_triangle_row_by_row(rows, monkeypatch):
    monkeypatch.setattr("inlier.methods.padim.ROWS", rows)
    detector, factors = PaDiM("light", size=64), torch.randn(3, 4, 4).tril()
    state = {"mean": torch.zeros(3, 4), "whitening": pressed(factors)}
    packed = detector.pack(state)
    row, column = torch.tril_indices(4, 4)
    assert torch.equal(packed["whitening"], factors[:, row, column])
    assert torch.equal(detector.unpack(packed)["whitening"], state["whitening"])


def test_python_and_numpy_random_states_are_left_alone():
    random.seed(5)
    before = random.getstate()
    select_channels([64, 128], 10, seed=3)
    assert random.getstate() == before


@pytest.mark.parametrize("kind", ["folds", "split"])
def test_the_odd_one_among_the_good_pictures_is_named(tmp_path, caplog, kind):
    rng = np.random.default_rng(0)
    for i in range(40):
        conftest.part(rng, defect=i == 7)[0].save(tmp_path / f"{i:02}.png")
    caplog.set_level("INFO", "inlier")
    PaDiM("light", size=64, backbone="tiny", seed=1).fit(tmp_path, calibration=kind)
    (named,) = (r.message for r in caplog.records if "look least like the other good pictures: " in r.message)
    names = [Path(name).name for name in named.partition("pictures: ")[2].split(", ")]
    held_out = range(40) if kind == "folds" else calibration.split(range(40), 40 * [""], seed=1)[1]
    assert len(names) == 3 and {int(name[:2]) for name in names} <= set(held_out)
    assert (names[0] == "07.png") is (7 in held_out)
