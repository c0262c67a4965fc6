"""The choice within a budget: what is seen, what is tried, what wins and why; the test set has no say in it."""

import json
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

import inlier
from conftest import part, write_dataset
from inlier import InlierError, load, methods, progress
from inlier.bench import auto as bench
from inlier.bench import trial
from inlier.bench.choice import NO_BETTER, Row, decide, difference, is_chance, with_unchanged
from inlier.bench.plan import parse_grid
from inlier.bench.seen import look
from inlier.bench.trial import Trial
from inlier.data import datasets, images
from inlier.data.datasets import open_dataset
from inlier.errors import OutOfTime
from inlier.progress import Pace
from inlier.training import Run, train

QUICK = {"backbone": "tiny", "taps": (4, 8), "grid": 1, "channels": None}


def padim(**settings):
    return inlier.PaDiM(**(QUICK | {"size": 64} | settings))


@pytest.fixture(scope="module")
def forty(tmp_path_factory):
    """Root of a data set with 40 good plates: 20 unseen, 10 to fit on, 10 to plant defects in."""
    return write_dataset(tmp_path_factory.mktemp("forty"), train=40, good=2, defects=2)


@pytest.fixture(scope="module")
def chosen(forty):
    return bench.auto(forty, 60, candidates=[padim(), padim(size=32)], with_examples=True)


# -- deadlines --------------------------------------------------------------------------------------------------------


def test_a_pace_projects_from_the_first_steps_and_gives_up_early(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def late(seconds_a_step, deadline, steps=100):
        now[0] = 0.0
        pace = Pace(deadline, steps)
        for done in range(1, steps + 1):
            now[0] += seconds_a_step * (10 if done == 1 else 1)  # the first step warms up
            if pace.is_late(done):
                return done
        return None

    assert late(1.0, None) is None and late(1.0, 120.0) is None
    assert late(1.0, 80.0) == 2  # after a tenth of the time: 12 s are gone, 98 to come
    assert late(0.1, 5.0) == 2 and late(1.0, 5.0) == 1  # too late before there is a pace
    assert late(1.0, 109.5, steps=101) == 2


def test_what_is_late_before_a_pace_is_known_forecasts_nothing(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    pace = Pace(5.0, 10)
    now[0] = 6.0
    with pytest.raises(OutOfTime, match=r"^was not done in the 5\.0 s that were left for it$"):
        pace.check(1)


def test_past_half_of_the_steps_it_is_never_too_late(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    pace = Pace(100.0, 10)
    for done in range(1, 6):
        now[0] += 9.0
        pace.check(done)
    now[0] += 500.0
    pace.check(6)


def slow_training(run, steps, seconds, taken=None):
    model = torch.nn.Linear(1, 1)

    def loss(network, step):
        if taken is not None:
            taken.append(step)
        time.sleep(seconds)
        return network(torch.ones(1, 1)).square().mean()

    return train(model, [torch.optim.SGD(model.parameters(), 0.01)], loss, steps, run)


def test_training_raises_at_once_when_it_would_end_too_late():
    slow_training(Run(deadline=time.monotonic() + 60), steps=3, seconds=0.01)
    taken = []
    with pytest.raises(OutOfTime, match=r"would take \d+\.\d s or more, \d\.\d s are left for it"):
        slow_training(Run(deadline=time.monotonic() + 3), steps=2000, seconds=0.01, taken=taken)
    assert len(taken) < 290  # as many as fit into the time: not after all of it


def test_the_first_of_several_trainings_knows_that_the_others_would_end_too_late():
    taken = []
    with pytest.raises(OutOfTime):  # a second or more for each of eight
        slow_training(Run(deadline=time.monotonic() + 6).member(0, 8), steps=100, seconds=0.01, taken=taken)
    assert len(taken) < 100


def test_a_fit_without_training_has_a_deadline_too(forty, monkeypatch):
    from inlier.data import batches

    read = batches.read_scaled

    def slow(*arguments, **options):
        time.sleep(0.05)
        return read(*arguments, **options)

    monkeypatch.setattr(batches, "read_scaled", slow)
    monkeypatch.setattr("inlier.methods.padim.BATCH", 2)
    with pytest.raises(OutOfTime):
        padim().fit(forty, calibration="none", workers=1, time_limit=0.4)
    assert padim().fit(forty, calibration="none", time_limit=60).runtime_


# -- what is seen -----------------------------------------------------------------------------------------------------


def seen(tmp_path, pictures):
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
    return look(open_dataset(tmp_path).train)


def test_plates_are_grey_aligned_objects(forty):
    found = look(open_dataset(forty).train)
    assert (found.n, found.width, found.height, found.sizes, found.is_grey) == (40, 64, 64, 1, True)
    assert found.size is None and "small pictures: less than 224 pixels a side" in map(": ".join, found.facts())
    assert found.is_aligned and "brighter" in found.part
    told = "; ".join(f"{what}: {measure}" for what, measure in found.facts())
    assert "40 good pictures: 64 x 64 pixels, grey" in told and "aligned" in told and "a part before" in told
    assert json.loads(json.dumps(found.to_dict()))["aligned"] is True


def test_noise_is_a_fine_texture_that_is_not_aligned(tmp_path):
    rng = np.random.default_rng(0)
    found = seen(tmp_path, rng.integers(0, 256, (8, 300, 300, 3), np.uint8))
    assert not found.is_grey and not found.is_aligned and not found.part and found.explained < 0.05
    assert found.size == 256, "the largest that is no larger than the pictures"


@pytest.mark.parametrize(("holds", "native", "size"), [(100, 600, 224), (300, 600, 320), (600, 600, 512)])
def test_the_size_follows_from_what_the_pictures_hold(tmp_path, holds, native, size):
    """Noise of so many pixels a side, enlarged: more pixels than it had show nothing more."""
    noise = np.random.default_rng(0).integers(0, 256, (holds, holds), np.uint8)
    found = seen(tmp_path, [np.asarray(Image.fromarray(noise).resize((native, native), Image.Resampling.LANCZOS))])
    assert found.size == size and found.to_dict()["size"] == size
    what, measure = found.facts()[1]
    assert what == f"{size} x {size} pixels show what they hold"
    assert measure.startswith("of the energy of edges is left: ") and f" % at {size}" in measure


# -- the decision -----------------------------------------------------------------------------------------------------


def made(shift, n=40, seed=0):
    """A trial whose defects score higher by `shift` deviations."""
    rng = np.random.default_rng(seed)
    pictures = np.repeat(np.arange(n), 2)
    good, noise = rng.normal(size=n), np.random.default_rng(1).normal(size=2 * n)
    return Trial(
        good.astype(np.float32),
        (shift + noise).astype(np.float32),
        pictures,
        tuple(["spot", "stain"] * n),
        np.full(2 * n, 0.01),
        None,
    )


def row(name, shift, ms=10.0, seed=0, **more):
    return Row(name, "light", {}, trial=made(shift, seed=seed), ms=ms, fit_seconds=1.0, refit_seconds=1.0, **more)


@pytest.mark.parametrize("n", [40, 51, 7])  # 20 % of them are pictures, or lie between two
@pytest.mark.parametrize("drawn_as", ["once", "twice", "at random"])
def test_what_candidates_are_ranked_by_is_the_area_below_the_roc_curve_and_its_part(n, drawn_as):
    found = made(1.0, n)
    drawn = {"once": np.ones, "twice": lambda *a: 2 * np.ones(*a)}.get(drawn_as)
    counts = drawn((1, n), np.int64) if drawn else np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), 1)
    truth = np.repeat([0, 1], [n, 2 * n])
    scores, weights = np.append(found.good, found.defects), np.append(counts[0], counts[0][found.pictures])
    auroc = roc_auc_score(truth, scores, sample_weight=weights)
    scaled = roc_auc_score(truth, scores, sample_weight=weights, max_fpr=0.2)  # as McClish scales it: guessing is .5
    partial = (0.02 + (2 * scaled - 1) * (0.2 - 0.02)) / 0.2
    assert trial.areas(found, counts)[:, 0] == pytest.approx([auroc, partial], abs=1e-6)
    if drawn_as != "at random":
        assert (found.auroc, found.partial_auroc) == pytest.approx((auroc, partial), abs=1e-6)
        assert found.quality == pytest.approx((auroc + partial) / 2, abs=1e-6)


def test_a_pair_of_trials_is_compared_picture_by_picture():
    assert difference(made(1.0), made(1.0)) == (0.0, 0.0)
    low, high = difference(made(3.0), made(0.5))
    assert 0.2 < low < high < 1
    with pytest.raises(ValueError, match="different defects"):
        difference(made(1.0), made(1.0, n=30))


def test_the_best_wins_and_a_faster_one_within_chance_of_it_is_named():
    winner, why = decide([row("slow", 3.0, ms=90), row("bad", 0.3, ms=1)])
    assert winner == 0 and "more than chance explains" in why
    winner, why = decide([row("slow", 1.51, ms=90), row("fast", 1.5, ms=9)])
    assert winner == 0 and "; fast with" in why and "within chance" in why and "9 against 90 ms" in why
    assert "a latency between the two takes it" in why
    winner, why = decide([row("slow", 1.5, ms=90), row("fast", 1.5, ms=9)])
    assert winner == 1 and "none of those within chance of it is a tenth faster (slow)" in why
    winner, why = decide([row("fast", 1.51, ms=9), row("slow", 1.5, ms=90)])
    assert winner == 0 and "none of those within chance of it is a tenth faster (slow)" in why
    winner, why = decide([row("best", 1.51, ms=33.4), row("equal", 1.5, ms=32.9)])
    assert winner == 0 and "is a tenth faster (equal)" in why
    winner, why = decide([row("a", 3.0, reason="too slow"), row("b", 0.3)])
    assert winner == 1 and "the only candidate" in why
    with pytest.raises(InlierError, match=r"no candidate can be chosen; .*larger budget.*\n  a: too slow"):
        decide([row("a", 3.0, reason="too slow")])


@pytest.mark.parametrize("others", [[], [row("worse", -0.5)]])
def test_a_winner_that_is_no_better_than_chance_says_so(others):
    blind = made(0.0)
    assert is_chance(blind) and not is_chance(made(1.0))
    assert NO_BETTER in decide([row("blind", 0.0), *others])[1]
    assert NO_BETTER not in decide([row("good", 1.5), *others])[1]


def test_what_a_grid_leaves_as_the_preset_has_it_is_told():
    points = [{"hidden": 128, "noise": 0.3}, {"hidden": 128}, {}]
    tried = [replace(row("simplenet", k, ms=9 - k), settings=point) for k, point in enumerate(points)]
    names = [found.name for found in with_unchanged(tried)]
    assert names[0] == "simplenet hidden=128 noise=0.3"
    own = methods.get("simplenet").presets["light"]
    assert names[1] == f"simplenet hidden=128 noise={own.noise} (preset)"
    assert names[2] == f"simplenet hidden={own.hidden} (preset) noise={own.noise} (preset)"
    assert decide(tried)[1].startswith(f"{names[2]} has the highest mean")
    assert with_unchanged([*tried, row("padim", 1.0)])[2].name == "simplenet"  # of several methods, it is the method


def test_durations():
    assert [bench.seconds(text) for text in ("10min", "10 min", "90s", "1.5h", 5, "5")] == [600, 600, 90, 5400, 5, 5]
    assert bench.seconds(50, "ms") == bench.seconds("50ms") == 0.05
    for wrong in ("soon", "-5", "0s", "5 weeks", ""):
        with pytest.raises(InlierError, match="is no duration"):
            bench.seconds(wrong)


# -- the search -------------------------------------------------------------------------------------------------------


def test_methods_declare_candidates_and_the_pictures_their_size(forty):
    def proposed(size):
        of = replace(look(open_dataset(forty).train), edges={} if size is None else {size: 1.0})
        every = {name: bench._declared(name, of) for name in methods.names()}
        return {name: [d.settings.size for d in every[name]] for name in every}, every

    plain, every = proposed(None)
    none = {"diad": [], "joined": []}
    assert plain == none | {"differnet": [448], "memseg": [256], "padim": [256, 256], "simplenet": [256]}
    assert [d.settings.tile for d in every["padim"]] == [None, 512]
    fine, _ = proposed(384)
    assert fine == {k: [*v, 384] if v else [] for k, v in plain.items()}
    assert proposed(256)[0] == plain | {"differnet": [448, 256]}, "a preset of that size is not tried twice"
    in_order = bench.in_order([d for of in every.values() for d in of], look(open_dataset(forty).train))
    assert (in_order[0].name, in_order[-1].name) == ("padim", "memseg")


def test_the_winner_is_fitted_on_all_and_tells_how_it_was_chosen(chosen, tmp_path):
    assert (inlier.auto, inlier.tune) == (bench.auto, bench.tune)
    choice = chosen.choice_
    assert (choice.fitted_on, choice.held_out, choice.unseen, choice.seen.n) == (10, 10, 20, 40)
    assert len(chosen.calibration_.scores) == 40 and chosen.calibration_.kind == "folds"
    winner = choice.rows[choice.winner]
    assert chosen.settings.size == winner.settings["size"] and winner.quality > 0.5
    assert choice.why.startswith("padim ") and choice.seconds < choice.budget == 60
    told = json.loads(json.dumps(choice.to_dict()))
    assert told["winner"] == choice.winner and set(told["candidates"][0]["by_kind"]) >= {"spot", "stain", "scratch"}
    chosen.save(tmp_path / "m.inlier")
    assert load(tmp_path / "m.inlier").header() == chosen.header()


def test_the_search_never_sees_what_calibrates_its_winner(forty, monkeypatch):
    """So the conformal promise owes nothing to the choice."""
    seen, run = set(), trial.run
    fit = inlier.PaDiM.fit

    def spy_run(inspector, samples, *arguments, **options):
        seen.update(s.name for s in samples)
        return run(inspector, samples, *arguments, **options)

    def spy_fit(self, data, **options):
        if options.get("calibration") == "none":
            seen.update(s.name for s in data.train)
        return fit(self, data, **options)

    monkeypatch.setattr(bench, "look", lambda samples: seen.update(s.name for s in samples) or look(samples))
    monkeypatch.setattr(trial, "run", spy_run)
    monkeypatch.setattr(inlier.PaDiM, "fit", spy_fit)
    monkeypatch.setattr(inlier.PaDiM, "default_calibration", "split")
    calibrated = []
    held_out = inlier.PaDiM.held_out
    monkeypatch.setattr(
        inlier.PaDiM,
        "held_out",
        lambda self, sources, *rest: calibrated.append(sources) or held_out(self, sources, *rest),
    )
    detector = bench.auto(forty, 60, candidates=[padim(size=32)], seed=3)
    assert detector.calibration_.kind == "split" and len(calibrated[-1]) == 20 and len(seen) == 20
    assert not seen & {str(path) for path in calibrated[-1]}


def test_no_test_picture_is_ever_opened(tmp_path, monkeypatch):
    root = write_dataset(tmp_path, train=40, good=2, defects=2)
    for path in (*root.glob("plate/test/*/*.png"), *root.glob("plate/ground_truth/*/*.png")):
        path.write_bytes(b"not a picture")
    opened, read = set(), images.read_bytes

    def spy(path):
        assert "test" not in path.parts and "ground_truth" not in path.parts
        opened.add(path)
        return read(path)

    for module in ("inlier.data.images", "inlier.data.check"):
        monkeypatch.setattr(f"{module}.read_bytes", spy)
    assert bench.auto(root, 60, candidates=[padim(size=32)], with_examples=True).calibration_.rule()
    assert {path for path in opened if path.is_relative_to(root)} == set(root.glob("plate/train/good/*.png"))


def test_a_slow_or_impossible_candidate_is_a_row_with_its_reason(forty, monkeypatch):
    times = iter([10.0, 99.0])
    monkeypatch.setattr(trial, "milliseconds", lambda *_: next(times))
    candidates = [padim(size=32), padim(), padim(taps=(64, 8)), padim(tile=48)]
    choice = bench.auto(forty, 60, "50 ms", candidates=candidates).choice_
    reasons = [row.reason for row in choice.rows]
    assert reasons[0] == "" and reasons[1] == "takes 99 ms a picture, 50 ms are allowed"
    assert "no tap point 64" in reasons[2] and "64 x 64 pixels are smaller than 2 x 2 of its tiles" in reasons[3]
    assert choice.winner == 0 and choice.latency == 50 and set(choice.left_out) == set(reasons[1:])


def test_a_candidate_that_does_not_fit_the_budget_is_given_up_at_once(forty):
    endless = inlier.SimpleNet(backbone="tiny", taps=(4, 8), size=64, features=32, hidden=32, steps=10**7)
    detector = bench.auto(forty, 20, candidates=[padim(size=32), endless])
    assert detector.name == "padim"
    assert "s are left for it" in detector.choice_.rows[1].reason


def test_without_time_nothing_is_chosen_and_that_is_said(forty):
    with pytest.raises(InlierError, match=r"no candidate can be chosen; give them a larger budget.*\n  padim"):
        bench.auto(forty, 0.001, candidates=[padim()])


def test_a_winner_that_cannot_be_fitted_again_in_time_stays_as_it_is(forty, monkeypatch):
    tried = bench._Search._tried

    def never_again(self, detector, row):
        row, fitted = tried(self, detector, row)
        perfect = replace(row.trial, defects=row.trial.defects + 1e6)
        best = replace(row, refit_seconds=1e6, trial=perfect)
        return (row if detector.settings.size == 32 else best), fitted

    monkeypatch.setattr(bench._Search, "_tried", never_again)
    detector = bench.auto(forty, 60, candidates=[padim(size=32), padim()])
    choice = detector.choice_
    assert (
        choice.winner == 1 and not choice.fitted_again and "a fit on all pictures would take about 8333" in choice.why
    )
    assert "as fitted on 10, calibrated on 20 unseen by the search" in choice.why
    assert detector.calibration_.kind == "split" and len(detector.calibration_.scores) == 20
    monkeypatch.setattr(bench._Search, "kept", property(lambda self: None, lambda self, value: None), raising=False)
    choice = bench.auto(forty, 60, candidates=[padim(size=32), padim()]).choice_
    assert choice.winner == 0 and choice.fitted_again and "a fit on all pictures would" in choice.rows[1].reason


def test_room_is_kept_for_the_last_fit_of_the_best_so_far(forty, monkeypatch):
    tried, allowed = bench._Search._tried, []
    fit = inlier.PaDiM.fit

    def spy(self, data, **options):
        allowed.append(options["time_limit"])
        return fit(self, data, **options)

    monkeypatch.setattr(inlier.PaDiM, "fit", spy)

    def dear(self, *arguments):
        row, fitted = tried(self, *arguments)
        return replace(row, refit_seconds=45), fitted

    monkeypatch.setattr(bench._Search, "_tried", dear)
    bench.auto(forty, 60, candidates=[padim(size=32), padim()])
    assert 20 < allowed[0] <= 30 and 5 < allowed[1] <= 15 and 45 < allowed[2] <= 60

    def slow(self, *arguments):
        row, fitted = tried(self, *arguments)
        return replace(row, fit_seconds=20), fitted

    monkeypatch.setattr(bench._Search, "_tried", slow)
    rows = bench.auto(forty, 30, candidates=[padim(size=32), padim()]).choice_.rows
    assert [row.reason for row in rows] == ["", "no time was left for it"], "less than the quickest fit took"


def test_the_last_fit_is_forecast_by_what_grows_with_the_pictures():
    """Seconds that were measured: PaDiM `light` on 10, 40, 200 and 320 screws, on one thread."""

    def forecast(detector, fit_seconds, a_picture, n, fitted_on, held_out):
        whole, part = (SimpleNamespace(train=range(k)) for k in (n, fitted_on))
        shares = trial.Shares(part, range(held_out), range(n - fitted_on - held_out))
        search = bench._Search(whole, shares, None, bench.Limits(0.0, None), {}, 0, False)
        return search._last_fit_seconds(detector, fit_seconds, a_picture)

    folds = inlier.PaDiM()
    assert 13.1 / 1.5 < forecast(folds, 4.0, 0.05, n=40, fitted_on=10, held_out=10) < 1.5 * 13.1
    assert 37.9 / 1.5 < forecast(folds, 13.6, 0.05, n=320, fitted_on=200, held_out=56) < 1.5 * 37.9
    # steps take their time however many pictures there are; 10 more to read, 20 to calibrate on
    assert forecast(inlier.SimpleNet(), 40.0, 0.05, n=40, fitted_on=10, held_out=10) == pytest.approx(40 + 0.5 + 1)
    epochs = inlier.SimpleNet(steps=None)  # all that training does comes again for each of 20 pictures
    assert forecast(epochs, 40.0, 0.05, n=40, fitted_on=10, held_out=10) == pytest.approx(80 + 1)


def test_data_that_a_choice_cannot_be_made_from(tmp_path, plates):
    write_dataset(write_dataset(tmp_path / "two", train=6, category="a"), train=6, category="b")
    with pytest.raises(InlierError, match="holds a, b; a choice is made for one kind of part"):
        bench.auto(tmp_path / "two", candidates=[padim()])
    (tmp_path / "one").mkdir()
    part(np.random.default_rng(0))[0].save(tmp_path / "one" / "1.png")
    with pytest.raises(InlierError, match="1 good pictures are too few"):
        bench.auto(tmp_path / "one", candidates=[padim()])
    with pytest.raises(InlierError, match="groups"):
        bench.auto(plates, candidates=[padim()], group="(plate)")


# -- commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def few_candidates(monkeypatch):
    for name in methods.names():
        monkeypatch.setattr(methods.get(name), "candidates", ())
    monkeypatch.setattr(inlier.PaDiM, "candidates", (QUICK | {"size": 32}, QUICK | {"size": 64}, {"tile": 512}))


def test_auto_writes_a_model_a_page_and_numbers(inlier, few_candidates, forty, tmp_path):
    out, page, numbers = tmp_path / "m.inlier", tmp_path / "why.html", tmp_path / "n.json"
    code, stdout, stderr = inlier("auto", forty, "--budget", "1min", "--out", out, "--report", page, "--json", numbers)
    assert code == 0, stderr
    assert "chosen from 3 candidates" in stdout and "why: padim" in stdout and "raise a false alarm" in stdout
    assert "not in the choice: padim tile=512 " in stdout and "size=256 (preset): pictures of 64 x 64" in stdout
    assert "found at" in stdout
    assert "aligned: all show the same" in stderr and "20 unseen by the search" in stderr
    assert "10 pictures judge the candidates: they tell large differences only" in stderr
    found = json.loads(numbers.read_text())
    assert found["schema"] == 1 and found["model"]["method"] == "padim" and found["at_alpha"]["alpha"] > 0
    assert load(out).inspect(forty / "plate/test/dent/000.png").verdict in ("good", "defect")
    text = page.read_text()
    assert "within chance" in text and "What it finds and misses" in text and text.count("data:image") >= 7
    assert "http" not in text.replace("http://www.w3.org", "")
    code, stdout, stderr = inlier("auto", forty, "--budget", "1min", "--out", out, "--json", "-", "--latency", "9s")
    assert code == 0 and json.loads(stdout)["latency_ms"] == 9000 and "chosen from" in stderr


def test_ctrl_c_ends_the_search_without_a_model_and_names_the_best(
    inlier, few_candidates, forty, tmp_path, monkeypatch
):
    run, calls = trial.run, []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return run(*arguments, **options)

    monkeypatch.setattr(trial, "run", interrupted)
    code, _, stderr = inlier("auto", forty, "--out", tmp_path / "m.inlier")
    assert code == 130 and "stopped before a model was written; so far wins: padim" in stderr
    assert not list(tmp_path.iterdir())


def test_tune_tries_the_grid_and_what_the_preset_has(inlier, forty, tmp_path):
    out, numbers = tmp_path / "m.inlier", tmp_path / "n.json"
    fixed = [word for key in ("backbone=tiny", "grid=1", "channels=none") for word in ("--set", key)]
    code, stdout, stderr = inlier(
        *("tune", "padim", forty, "--budget", "1min", "--grid", "size=32,64", "--grid", "taps=(4,8),(8,16)"),
        *(*fixed, "--out", out, "--json", numbers),
    )
    assert code == 0, stderr
    tried = [c["settings"] for c in json.loads(numbers.read_text())["candidates"]]
    assert {(c.get("size"), tuple(c.get("taps", ()))) for c in tried} == {
        (None, ()), (32, (4, 8)), (32, (8, 16)), (64, (4, 8)), (64, (8, 16))
    }  # fmt: skip
    assert load(out).settings.backbone == "tiny" and "chosen from 5" in stdout


def test_a_setting_is_fixed_or_tried_and_not_both(inlier, forty, tmp_path):
    code, _, stderr = inlier("tune", "padim", forty, "--grid", "size=64", "--set", "size=96", "--out", tmp_path / "m")
    assert code == 2 and "padim's size is given twice, by --grid or by --set; leave one out" in stderr


def test_grids_are_shuffled_by_the_seed_and_checked(forty):
    assert parse_grid("padim", "light", ["size=64,128", "taps=(4,8),(8,16)"]) == {
        "size": [64, 128], "taps": [(4, 8), (8, 16)]
    }  # fmt: skip
    assert parse_grid("padim", "light", [" size = 64, 128"]) == {"size": [64, 128]}
    for wrong, message in ((["size"], "is not KEY=VALUE,VALUE"), (["size=1", "size=2"], "given twice")):
        with pytest.raises(InlierError, match=message):
            parse_grid("padim", "light", wrong)
    with pytest.raises(InlierError, match="the grid is empty"):
        bench.tune("padim", forty, {})
    with pytest.raises(InlierError, match="unknown setting 'sice'"):
        bench.tune("padim", forty, {"sice": [1]})


def test_the_demo_compares_and_ends_with_a_choice(inlier, few_candidates, tmp_path, monkeypatch):
    cells = write_dataset(tmp_path / "cells", train=40, good=4, defects=4, category="mono")
    monkeypatch.setattr(datasets, "open_elpv", lambda: open_dataset(cells))
    presets = methods.get("padim").presets
    monkeypatch.setitem(presets, "light", presets["light"].replace(**QUICK, size=64))
    monkeypatch.chdir(tmp_path)
    code, stdout, stderr = inlier("demo", "--out", "demo", "--method", "padim", "--budget", "1min")
    assert code == 0, stderr
    places = [
        stdout.index(words)
        for words in (
            "good cells against defective ones",
            "warning: mono: good test pictures and defects differ in",
            "report of padim: ",
            "mono: 10 good pictures and defects planted in them",
            "why: padim ",
            "chosen from 3 candidates",
            "report: demo/choice.html",
            "done in ",
        )
    ]
    assert places == sorted(places) and stdout.endswith("try: inlier predict demo/chosen.inlier PICTURES\n")
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == [
        "choice.html", "chosen.inlier", "padim", "padim.inlier"
    ]  # fmt: skip
    code, stdout, stderr = inlier("demo", "--out", "slow", "--method", "padim", "--budget", "1ms")
    assert code == 1 and "report of padim" in stdout and "no candidate can be chosen; give them a larger" in stderr
    code, _, stderr = inlier("demo", "--budget", "soon")
    assert code == 2 and "is no duration" in stderr


def test_no_output_replaces_a_picture(inlier, forty):
    picture = forty / "plate/train/good/000.png"
    for option in ("--out", "--report", "--json"):
        code, _, stderr = inlier("auto", forty, option, picture)
        assert code == 2 and "would be overwritten" in stderr
