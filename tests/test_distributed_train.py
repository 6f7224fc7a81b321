"""The loop in this process: it learns, resumes to the same bits, stops early, and says what went wrong."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from support import CPU, Killed, config, events, final_tensors, job_of, same_bits, stream_of, train_here
from torch import nn

from data.log import open_log
from distributed.checkpoint.read import read_checkpoint
from distributed.context import Context
from distributed.finished_run import load_run
from distributed.training.launch import run_training
from distributed.training.learner import Learner
from funnel.ranking.problem import EntireSpace
from funnel.ranking.scoring import score
from funnel.trained_log import for_scoring
from models.objectives.terms import log_product


@pytest.fixture(scope="module")
def unbroken(small_log: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    run = tmp_path_factory.mktemp("runs") / "unbroken"
    return run, train_here(run, small_log, config(checkpoint_steps=7))


def test_training_learns(unbroken: tuple[Path, dict]) -> None:
    run, figures = unbroken
    assert figures["ctr.auc"] > 0.62
    assert figures["cvr.click.auc"] > 0.55
    assert 0.8 < figures["ctr.pcoc"] < 1.25
    steps = events(run, "step")
    rate = figures["ctr.mean_label"]
    assert figures["ctr.log_loss"] < -rate * np.log(rate) - (1 - rate) * np.log(1 - rate) - 0.005  # beats the base rate
    assert steps[-1]["step"] == figures["train.steps"] == 48
    assert [event["epoch"] for event in events(run, "valid")] == [1, 2]


@pytest.mark.parametrize("dies_at", [3, 12, 24, 30, 47])
def test_resume_gives_the_bits_of_the_unbroken_run(
    unbroken: tuple[Path, dict], small_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_at: int
) -> None:
    """Checkpoints at steps 7, 14, 21, 24 (epoch), 28, ...: deaths before, on and after the epoch border."""
    step = Learner.step

    def dying(self: Learner, batch: object, number: int) -> dict:
        if number == dies_at:
            raise Killed
        return step(self, batch, number)  # type: ignore[arg-type]

    monkeypatch.setattr(Learner, "step", dying)
    with pytest.raises(Killed):
        train_here(tmp_path, small_log, config(checkpoint_steps=7))
    monkeypatch.setattr(Learner, "step", step)
    figures = train_here(tmp_path, small_log, config(checkpoint_steps=7))
    whole, resumed = final_tensors(unbroken[0]), final_tensors(tmp_path)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    same = {name for name in figures if not name.startswith("train.")}
    assert {name: figures[name] for name in same} == {name: unbroken[1][name] for name in same}
    logged = [(event["step"], event["loss"]) for event in events(unbroken[0], "step")]
    again = [(event["step"], event["loss"]) for event in events(tmp_path, "step")]
    assert [number for number, _ in again] == sorted({number for number, _ in again})
    assert again[-1] == logged[-1]


@pytest.mark.slow
def test_weights_that_change_are_addressed_by_epoch(
    small_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gamma^t: the first epoch is that of constant weights, the second is not; a run that dies within it and goes on
    ends in the same bits."""
    settings = {"objective__gamma_g": 0.25, "objective__gamma_c": 3.0, "checkpoint_steps": 7}
    seen: list[int] = []
    loss = EntireSpace.loss

    def noting(self: EntireSpace, outputs: Any, batch: Any, totals: Any, step: int, epoch: int = 0) -> Any:
        seen.append(epoch)
        return loss(self, outputs, batch, totals, step, epoch)

    monkeypatch.setattr(EntireSpace, "loss", noting)
    train_here(tmp_path / "whole", small_log, config(**settings))
    half = len(seen) // 2
    assert seen == [0] * half + [1] * half
    monkeypatch.setattr(EntireSpace, "loss", loss)
    train_here(tmp_path / "constant", small_log, config(checkpoint_steps=7))
    one, two = ({e["step"]: e["loss"] for e in events(tmp_path / run, "step")} for run in ("whole", "constant"))
    assert {step for step in one if one[step] == two[step]} == {step for step in one if step <= half}
    step = Learner.step

    def dying(self: Learner, batch: object, number: int) -> dict:
        if number == half + half // 2:
            raise Killed
        return step(self, batch, number)

    monkeypatch.setattr(Learner, "step", dying)
    with pytest.raises(Killed):
        train_here(tmp_path / "resumed", small_log, config(**settings))
    monkeypatch.setattr(Learner, "step", step)
    train_here(tmp_path / "resumed", small_log, config(**settings))
    same_bits(tmp_path / "whole", tmp_path / "resumed")


def test_dropout_is_addressed_by_step(small_log: Path, tmp_path: Path) -> None:
    settings = config(model__backbone__dropout=0.2, epochs=1)
    runs = []
    for name in ("one", "two"):
        torch.manual_seed(len(runs))
        train_here(tmp_path / name, small_log, settings)
        runs.append(final_tensors(tmp_path / name))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_each_step_worker_and_seed_has_dropout_of_its_own(small_log: Path, tmp_path: Path) -> None:
    """Masks of one batch at other addresses are other draws; at the same address they are the same."""
    job = job_of(tmp_path, small_log, config(model__backbone__dropout=0.5))
    batch = next(iter(stream_of(job, open_log(small_log)).epoch(0)))

    def mask(seed: int = 0, step: int = 0, rank: int = 0) -> torch.Tensor:
        problem, found = job.open_problem(CPU), []
        learner = Learner(problem, job.config, Context(rank, 2), steps=10)
        learner.config = dataclasses.replace(job.config, seed=seed)  # of the same weights
        one = next(module for module in learner.network.modules() if isinstance(module, nn.Dropout))
        one.register_forward_hook(lambda _, given, out: found.append(out[given[0] != 0] == 0))
        torch.manual_seed(1)  # what the process has drawn before is of no account
        learner.step(batch, step)
        return found[0]

    assert torch.equal(mask(step=3), mask(step=3))
    assert mask().double().mean().item() == pytest.approx(0.5, abs=0.05)
    masks = [mask(), mask(step=1), mask(step=2), mask(rank=1), mask(step=1, rank=1), mask(seed=1)]
    for index, one in enumerate(masks):
        for other in masks[:index]:
            assert (one == other).double().mean().item() == pytest.approx(0.5, abs=0.06)


def test_figures_match_scikit_learn_on_the_scored_part(unbroken: tuple[Path, dict], small_log: Path) -> None:
    run, figures = unbroken
    found = load_run(run)
    log = open_log(small_log)
    scoring = for_scoring(log, found.schema)
    tables = [t.to_pandas() for t in score(found.network, scoring, scoring.part("test"), CPU)]
    scored = {name: np.concatenate([t[name] for t in tables]) for name in tables[0]}
    truth = log.truth("test")
    potential = truth.potential_R[truth.lookup(scored["exposure_id"])]
    clicked = scored["click"] == 1
    expected = {
        "ctr": (scored["click"], scored["pctr"]),
        "cvr.click": (scored["conversion"][clicked], scored["pcvr"][clicked]),
        "cvr.entire": (potential, scored["pcvr"]),
        "ctcvr": (scored["conversion"], scored["pctcvr"]),
    }
    for space, (label, probability) in expected.items():
        error = abs(figures[f"{space}.auc"] - roc_auc_score(label, probability))
        assert error <= figures[f"{space}.auc_error"] + 1e-12 < 1e-3, space
        assert figures[f"{space}.log_loss"] == pytest.approx(log_loss(label, probability.astype(float)), rel=1e-5)
        assert figures[f"{space}.pcoc"] == pytest.approx(probability.astype(float).mean() / label.mean(), rel=1e-5)
        assert figures[f"{space}.count"] == len(label)
    np.testing.assert_allclose(scored["pctcvr"], scored["pctr"] * scored["pcvr"], rtol=1e-5)
    assert log_product(torch.zeros(1), torch.zeros(1)).exp().item() == pytest.approx(0.25)


def test_truth_is_never_read_in_training(small_log: Path, tmp_path: Path) -> None:
    """A log whose truth is turned round wherever the log does not show it trains to the same bits; only the
    entire-space figures differ."""
    import shutil

    other = tmp_path / "log"
    shutil.copytree(small_log, other)
    for path in (other / "truth").rglob("*.parquet"):
        table = pq.read_table(path)
        click = pq.read_table(other / path.parent.name / path.name, columns=["click"])["click"].to_numpy()
        potential = table.column("potential_conversion").to_numpy()
        flipped = np.where(click == 1, potential, 1 - potential)
        index = table.schema.get_field_index("potential_conversion")
        pq.write_table(table.set_column(index, "potential_conversion", [flipped]), path)
    settings = config(epochs=1)
    honest = train_here(tmp_path / "a", small_log, settings)
    flipped = train_here(tmp_path / "b", other, settings)
    one, two = final_tensors(tmp_path / "a"), final_tensors(tmp_path / "b")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert abs(flipped["cvr.entire.auc"] - honest["cvr.entire.auc"]) > 0.01
    assert flipped["cvr.click.auc"] == honest["cvr.click.auc"]
    assert flipped["ctr.auc"] == honest["ctr.auc"]


def test_without_truth_entire_space_figures_are_absent_with_a_reason(small_log: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(small_log, tmp_path / "log")
    shutil.rmtree(tmp_path / "log" / "truth")
    figures = train_here(tmp_path / "run", tmp_path / "log", config(epochs=1))
    assert not any(name.startswith("cvr.entire") for name in figures)
    assert "not observed" in figures["absent"]["cvr.entire.auc"]


def test_early_stop_keeps_the_best_epoch(small_log: Path, tmp_path: Path) -> None:
    settings = config(epochs=30, patience=2, stop_metric="ctr.log_loss", optimizer__embedding_learning_rate=0.05)
    figures = train_here(tmp_path, small_log, settings)
    valid = events(tmp_path, "valid")
    losses = [event["ctr.log_loss"] for event in valid]
    best = int(np.argmin(losses))
    assert len(valid) == best + 3 < 30
    assert figures["train.best_step"] == valid[best]["step"]
    model = read_checkpoint(tmp_path / "model", with_optimizer=False)
    assert model.progress.best_step == valid[best]["step"]
    kept, last = (
        read_checkpoint(tmp_path / "checkpoints" / f"step-{valid[epoch]['step']:08d}").model for epoch in (best, -1)
    )
    assert all(torch.equal(model.model[name], tensor) for name, tensor in kept.items())
    assert not all(torch.equal(last[name], tensor) for name, tensor in kept.items())


@pytest.mark.parametrize(("schedule", "shares"), [("linear", [1, 0.75, 0.25]), ("constant", [1, 1, 1])])
def test_both_rates_follow_the_schedule(small_log: Path, tmp_path: Path, schedule: str, shares: list[float]) -> None:
    """Linear: from the whole rate before the first of 8 steps towards 0 after the last."""
    given = config(optimizer__schedule=schedule, optimizer__learning_rate=0.4, optimizer__embedding_learning_rate=0.8)
    job = job_of(tmp_path, small_log, given)
    learner = Learner(job.open_problem(CPU), job.config, Context(), steps=8)
    batch = next(iter(stream_of(job, open_log(small_log)).epoch(0)))
    for step, share in zip((0, 2, 6), shares, strict=True):
        learner.step(batch, step)
        assert [group["lr"] for group in learner.optimizer.param_groups] == pytest.approx([0.4 * share])
        assert [optimizer.rate for optimizer in learner.row_optimizers] == pytest.approx([0.8 * share])


def test_of_equal_epochs_the_first_is_kept_and_the_others_count_as_stale(small_log: Path, tmp_path: Path) -> None:
    """A training that does not move: two validations without a better one after the first."""
    still = {"optimizer__learning_rate": 1e-30, "optimizer__embedding_learning_rate": 1e-30}
    figures = train_here(tmp_path, small_log, config(epochs=9, patience=2, **still))
    steps = [event["step"] for event in events(tmp_path, "valid")]
    assert len(steps) == 3
    assert figures["train.best_step"] == steps[0]


def test_divergence_is_one_clear_error(small_log: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the loss is (nan|inf) at step \d+: training diverged"):
        train_here(tmp_path, small_log, config(optimizer__learning_rate=1e30))


def test_a_checkpoint_of_another_model_is_refused(unbroken: tuple[Path, dict], small_log: Path) -> None:
    job = job_of(unbroken[0], small_log, config(model__embedding_width=5))
    with pytest.raises(ValueError, match="of another model"):
        run_training(job, workers=0)


def test_prepare_refuses_parts_without_outcomes(small_log: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(small_log, tmp_path / "log")
    for path in (tmp_path / "log" / "valid").glob("*.parquet"):
        table = pq.read_table(path)
        index = table.schema.get_field_index("conversion")
        none = np.zeros(table.num_rows, np.int8)
        pq.write_table(table.set_column(index, "conversion", [none]), path)
    with pytest.raises(ValueError, match="valid: no conversions in 600 rows"):
        job_of(tmp_path / "run", tmp_path / "log", config())


def test_scoring_needs_a_finished_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no trained model"):
        load_run(tmp_path)


def test_job_is_plain_values(small_log: Path, tmp_path: Path) -> None:
    """What workers receive holds no open files, no tensors, no modules."""
    job = job_of(tmp_path, small_log, config())
    plain = json.loads(json.dumps(dataclasses.asdict(job)))
    assert plain["facts"] == job.facts
    counted = job.facts["parts"]["train"]
    assert counted["rows"] == job.parts["train"].rows == job.units("train") == 4800
    assert job.facts["conversion_rate"] == counted["conversions"] / counted["clicks"]


def test_scoring_holds_few_row_groups_at_a_time(
    unbroken: tuple[Path, dict], small_log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is flat in the rows: however long the part, only the read-ahead is decoded beyond the table in hand."""
    found = load_run(unbroken[0])
    scoring = for_scoring(open_log(small_log), found.schema)
    part = scoring.part("train")
    groups = sum(1 for _ in part.row_groups())
    assert groups > 10
    read = []
    original = type(scoring).read_row_group

    def counted(self: object, file: object, index: int, columns: object = None) -> object:
        read.append(index)
        return original(self, file, index, columns)  # type: ignore[arg-type]

    monkeypatch.setattr(type(scoring), "read_row_group", counted)
    for number, _ in enumerate(score(found.network, scoring, part, CPU)):
        time.sleep(0.05)  # lets the reader run as far ahead as it may
        assert len(read) <= number + 1 + 2 + 2  # in hand, two queued, one being queued, one being read
    assert len(read) == groups
