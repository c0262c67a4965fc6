"""The loop: exact resuming, refusal of what is not finite, nothing written without a run folder."""

import itertools
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image

from inlier import InlierError, artifact, processes, training
from inlier.lock import alone
from inlier.progress import progress
from inlier.training import Check, Run, batches, train


def fit(run, steps, explode_at=None):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)

    def loss(network, step):
        x = torch.randn(8, 3, generator=run.generator(step))
        return network(x).square().mean() * (float("nan") if step == explode_at else 1.0)

    optimizers = [torch.optim.AdamW(model.parameters(), lr=0.01)]
    return train(model, optimizers, loss, steps, run)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 0.0)
    run = Run(folder=tmp_path / "run")
    with pytest.raises(InlierError, match="became nan at step 6 of 20: lower the setting lr; the last good"):
        fit(run, 20, explode_at=5)
    resumed = fit(Run(folder=tmp_path / "run", resume=True), 20)
    unbroken = fit(Run(), 20)
    assert torch.equal(resumed.weight, unbroken.weight)


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 0.0)
    monkeypatch.chdir(tmp_path)
    fit(Run(), 3)
    assert not list(tmp_path.iterdir())


def test_noise_on_the_cpu_is_what_the_generator_draws():
    run = Run(seed=3)
    assert torch.equal(run.noise((2, 5), 7), torch.randn(2, 5, generator=run.generator(7)))
    assert not torch.equal(run.noise((2, 5), 7), run.noise((2, 5), 8))


def test_randomness_depends_on_seed_and_step_alone():
    def draw(seed, *key):
        return torch.randn(4, generator=Run(seed=seed).generator(*key)).tolist()

    assert draw(1, 5) == draw(1, 5)
    # among them keys that differ in length, in sign, and by what a sum of products would confuse
    keys = [
        (1,),
        (1, 0),
        (1, 0, 0),
        (1, 5),
        (2, 5),
        (1, 6),
        (1, 5, 0),
        (1, 0, 5),
        (1, -1),
        (1, 1, 2),
        (1, 0, 1_000_005),
    ]
    keys += [(1, 2**31, 0), (1, 2**31), (1, 0, 1), (0, 1), (0, 1_000_004)]
    assert len({tuple(draw(*key)) for key in keys}) == len(keys)


def test_every_picture_is_seen_once_before_any_comes_again_whatever_the_size_of_batches():
    four, two = (batches(10, size, Run(3)) for size in (4, 2))
    for i in range(5):
        assert torch.equal(torch.cat([two(2 * i), two(2 * i + 1)]), four(i))
    epochs = torch.cat([two(i) for i in range(10)]).view(2, 10).tolist()
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10)) and epochs[0] != epochs[1]
    assert torch.equal(batches(10, 10, Run(3), lambda epoch: epoch + 1)(0), torch.tensor(epochs[1]))


def test_one_process_does_the_whole_batch():
    part, weight = processes.share(5, "batch_size")
    assert list(range(5))[part] == [0, 1, 2, 3, 4] and weight == 1.0


@pytest.mark.parametrize("n, world", [(5, 2), (8, 3), (3, 3), (7, 4)])
def test_parts_of_a_batch_make_the_whole_and_weigh_what_they_hold(n, world, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", str(world))
    parts, weights = [], []
    for rank in range(world):
        monkeypatch.setenv("RANK", str(rank))
        part, weight = processes.share(n, "batch_size")
        parts.append(list(range(n))[part])
        weights.append(weight)
    assert [i for part in parts for i in part] == list(range(n))
    assert weights == [pytest.approx(len(part) * world / n) for part in parts]


def test_a_fold_keeps_all_but_the_folder(tmp_path):
    run = Run(3, torch.device("cpu"), tmp_path, True, {"method": "x"}, 5, "tensorboard")
    assert run.fold(1) == replace(run, folder=tmp_path / "fold1")
    assert Run(workers=7).fold(1) == Run(workers=7)


def test_a_finished_run_leaves_no_folder(tmp_path):
    run = Run(folder=tmp_path / "run")
    (tmp_path / "run").mkdir()
    run.close()
    assert not (tmp_path / "run").exists()


def test_a_polite_kill_keeps_a_checkpoint(tmp_path):
    folder = tmp_path / "run"

    def kill_at_step_4(network, step):
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return network(torch.ones(2, 3)).square().mean()

    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        train(model, [torch.optim.SGD(model.parameters(), lr=0.1)], kill_at_step_4, 10, Run(folder=folder))
    assert artifact.read(folder / "checkpoint.safetensors")[1]["step"] == 5
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_signal_stops_at_once(tmp_path, caplog):
    seen = []

    def killed_twice(network, step):
        seen.append("step")
        os.kill(os.getpid(), signal.SIGINT)
        seen.append("still there")
        os.kill(os.getpid(), signal.SIGINT)
        seen.append("too late")
        return network(torch.ones(2, 3)).mean()

    model = torch.nn.Linear(3, 1)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(model, [torch.optim.SGD(model.parameters(), lr=0.1)], killed_twice, 10, Run(folder=tmp_path))
    assert seen == ["step", "still there"] and "a second signal stops at once" in caplog.text
    assert signal.getsignal(signal.SIGINT) == before


def test_a_damaged_checkpoint_says_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 0.0)
    fit(Run(folder=tmp_path), 3)
    checkpoint = tmp_path / "checkpoint.safetensors"
    checkpoint.write_bytes(checkpoint.read_bytes()[:-9])
    with pytest.raises(InlierError, match="train without --resume to start again"):
        fit(Run(folder=tmp_path, resume=True), 3)


def test_replacing_the_checkpoint_of_a_stopped_run_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 0.0)
    fit(Run(folder=tmp_path), 3)
    fit(Run(folder=tmp_path), 3)
    assert "left by a stopped run, replaced by this one" in caplog.text


def test_closing_a_run_takes_its_own_checkpoints_and_nothing_else(tmp_path):
    for name in ("mine.safetensors", "look-000100.png", "fold7/checkpoint.safetensors", "empty/of mine/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty/of mine/x").unlink()
    before = sorted(tmp_path.rglob("*"))
    run = Run(folder=tmp_path)
    fit(run, 2)
    fit(run.fold(0), 2)
    assert (tmp_path / "checkpoint.safetensors").exists() and (tmp_path / "fold0/checkpoint.safetensors").exists()
    run.close()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_checkpoint_that_another_run_put_there_stays(tmp_path):
    first, second = Run(folder=tmp_path), Run(folder=tmp_path)
    fit(first, 2)
    fit(second, 2)
    first.close()
    assert (tmp_path / "checkpoint.safetensors").exists()
    second.close()
    assert not tmp_path.exists()


def test_a_fresh_start_clears_pictures_and_logs_of_the_run_before_and_no_others(tmp_path):
    old = Run(folder=tmp_path).fold(0)
    old.show(Image.new("RGB", (4, 4)), "look", 100)
    Image.new("RGB", (4, 4)).save(tmp_path / "camera-000100.png")  # of the user, in a folder that is not empty
    for name in ("broken-000100.png", "events.out.tfevents.1", "fold0/events.out.tfevents.1.inlier"):
        (tmp_path / name).touch()
    Run(folder=tmp_path, resume=True).clear()
    assert (tmp_path / "fold0/look-000100.png").exists()
    Run(folder=tmp_path).clear()
    left = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["broken-000100.png", "camera-000100.png", "events.out.tfevents.1"]


def test_a_run_folder_holds_one_fit_at_a_time(tmp_path):
    folder = tmp_path / "new" / "run"
    with alone(folder):
        with pytest.raises(InlierError, match="run: belongs to a training that runs now"), alone(folder):
            pass
        with alone(tmp_path / "other"):
            pass
    assert not os.listdir(tmp_path), "what was made for the lock alone goes with it"
    with alone(folder):
        (folder / "kept").touch()
    assert os.listdir(folder) == ["kept"]


def test_what_a_killed_fit_leaves_locks_nothing_and_goes(tmp_path):
    code = f"""
import os, pathlib
from inlier import artifact
from inlier.lock import alone
artifact._new_file(pathlib.Path({str(tmp_path)!r}), 0o666)
with alone(pathlib.Path({str(tmp_path)!r})):
    artifact._new_file(pathlib.Path({str(tmp_path)!r}), 0o666)
    os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert len(os.listdir(tmp_path)) == 2  # the lock, and half a file
    with alone(tmp_path):
        assert os.listdir(tmp_path) == [".lock"]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("keep, looks", [("best", [4, 6]), ("last", [4])])
def test_the_best_can_be_the_last_step(keep, looks):
    seen = []
    fit_parts(Run(), 6, check=Check(lambda model, step: seen.append(step) or 0.0, every=4, keep=keep))
    assert seen == looks


def test_the_log_holds_loss_rate_looks_and_pictures(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = Run(folder=tmp_path, log="tensorboard").stage("first")

    def look(model, step):
        run.show(Image.new("RGB", (4, 4)), "look", step)
        return step / 10

    fit_parts(run, 4, check=Check(look, every=2))
    assert run.tracker is None
    logged = EventAccumulator(str(tmp_path / "first/log")).Reload()
    assert set(logged.Tags()["scalars"]) == {"loss", "learning rate", "simulated defects"}
    assert [event.step for event in logged.Scalars("loss")] == [1, 2, 3, 4]
    assert [(event.step, event.value) for event in logged.Scalars("simulated defects")] == [
        (2, pytest.approx(0.2)),
        (4, pytest.approx(0.4)),
    ]
    assert [event.step for event in logged.Images("look")] == [2, 4]


def test_the_log_is_closed_when_a_step_fails(tmp_path):
    pytest.importorskip("tensorboard")
    run = Run(folder=tmp_path, log="tensorboard")
    with pytest.raises(InlierError, match="became nan"):
        fit(run, 3, explode_at=1)
    assert run.tracker is None


def test_a_stopped_bar_says_how_far_it_came(caplog, monkeypatch):
    caplog.set_level("INFO", "inlier")
    clock = itertools.count(step=10)
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    for done in (97, 400):
        with progress("training", 400) as show:
            show(done)
    assert "training: 97 of 400 in" in caplog.text and "training: 400 in" in caplog.text


def fit_parts(run, steps, **options):
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)

    def loss(network, i):
        return (network(torch.randn(8, 3, generator=run.generator(i))) - 1).square().mean()

    return train(model, [torch.optim.AdamW(model.parameters(), lr=0.01)], loss, steps, run, **options)


@pytest.mark.parametrize("options", [{"ema": 0.9}, {"accumulation": 3}, {"precision": "bf16"}, {"precision": "fp16"}])
def test_every_way_of_training_resumes_bit_for_bit(tmp_path, options):
    fit_parts(Run(folder=tmp_path), 3, **options)
    resumed = fit_parts(Run(folder=tmp_path, resume=True), 8, **options)
    whole = fit_parts(Run(), 8, **options)
    assert torch.equal(resumed.weight, whole.weight)


def test_the_moving_average_is_the_model_and_what_looks_see():
    seen = []
    check = Check(lambda model, step: seen.append(model.weight.detach().clone()) or 0.0, every=8)
    averaged = fit_parts(Run(), 8, ema=0.99, check=check)
    assert torch.equal(seen[0], averaged.weight)
    last = fit_parts(Run(), 8)
    torch.manual_seed(0)
    first = torch.nn.Linear(3, 1)
    assert (averaged.weight - first.weight).abs().sum() < (last.weight - first.weight).abs().sum()
