"""The loop: exact resuming, refusal of what is not finite, nothing written without a run folder."""

import pytest
import torch

from inlier import InlierError, training
from inlier.training import Run, train


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
    with pytest.raises(InlierError, match="became nan at step 6 of 20: lower the learning rates; the last good"):
        fit(run, 20, explode_at=5)
    resumed = fit(Run(folder=tmp_path / "run", resume=True), 20)
    unbroken = fit(Run(), 20)
    assert torch.equal(resumed.weight, unbroken.weight)


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 0.0)
    monkeypatch.chdir(tmp_path)
    fit(Run(), 3)
    assert not list(tmp_path.iterdir())


def test_randomness_depends_on_seed_and_step_alone():
    def draw(seed, *key):
        return torch.randn(4, generator=Run(seed=seed).generator(*key)).tolist()

    assert draw(1, 5) == draw(1, 5)
    assert len({tuple(draw(*key)) for key in ((1, 5), (2, 5), (1, 6), (1, 5, 0), (1, 0, 5))}) == 5


def test_a_finished_run_leaves_no_folder(tmp_path):
    run = Run(folder=tmp_path / "run")
    (tmp_path / "run").mkdir()
    run.close()
    assert not (tmp_path / "run").exists()
