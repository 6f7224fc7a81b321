"""jobs.train --given propensities=RUN: clicks weighed by a click model that was trained before."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from support import keep_calibration

from data.encode import Encoder
from data.errors import UserError
from data.generate import generate_log
from data.log import open_log
from data.world import GeneratedLog
from distributed.finished_run import load_run
from distributed.training.learner import Learner
from funnel.batch import Batch
from funnel.ranking.calibration import Calibration, Calibrator
from funnel.ranking.calibration_fit import fit_calibration, fit_clicks, gather, inverse_calibrated
from funnel.ranking.click_model import ClickModel
from funnel.ranking.problem import labels_of
from jobs import calibrate, evaluate, train
from jobs.run.directory import read_json

CPU = torch.device("cpu")
SMALL = (
    *("--workers", "0", "--batch-size", "200", "--stream.lanes", "4", "--model.embedding-width", "4"),
    *("--model.backbone.experts", "2", "--model.backbone.expert-hidden", "16", "8"),
)


def arguments(log: Path, out: Path, *words: object) -> train.Arguments:
    return train.arguments_of("--data", str(log), "--out", str(out), *SMALL, *map(str, words))


def weighed_by(run: Path) -> tuple[str, str]:
    return "--given", f"propensities={run}"


def click_model(run: Path) -> ClickModel:
    found = load_run(run)
    return ClickModel(found.given)


@pytest.fixture(scope="module")
def clicks(small_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("two") / "clicks"
    train.run(arguments(small_log, out, "--preset", "clicks", "--epochs", 3))
    return out


@pytest.fixture(scope="module")
def second(small_log: Path, clicks: Path) -> Path:
    out = clicks.parent / "second"
    train.run(arguments(small_log, out, *weighed_by(clicks)))
    return out


def test_the_preset_is_a_click_model(clicks: Path) -> None:
    trained = load_run(clicks)
    assert trained.config.stop_metric == "ctr.log_loss"
    assert trained.config.epochs == 3
    assert trained.settings.objective.name == "naive"


def test_its_propensities_weigh_the_clicks(clicks: Path, second: Path, small_log: Path, tmp_path: Path) -> None:
    train.run(arguments(small_log, tmp_path / "alone"))
    alone, other = (load_file(run / "model" / "model.safetensors") for run in (tmp_path / "alone", second))
    assert any(not torch.equal(alone[name], other[name]) for name in alone)
    assert read_json(second / "run.json")["propensities"]["run"] == str(clicks)
    log = open_log(str(small_log))
    rows = Encoder(log.schema).encode(next(iter(log.read(log.part("valid")))))
    batch = Batch.of(rows)
    with torch.no_grad():
        expected_B = load_run(clicks).network(batch)["ctr"]
    problem = load_run(second).problem
    found = load_run(clicks)
    run = found.given
    weighing = type(problem)(problem.settings, problem.schema, problem.facts, {"propensities": run})
    labels = labels_of(weighing.complete(batch))
    assert torch.equal(labels.click_logit_B, expected_B)
    assert labels.click_B is batch.labels["click"]
    assert labels_of(problem.complete(batch)).click_logit_B is None


def test_a_calibrated_click_model_is_heard_calibrated(clicks: Path, small_log: Path, tmp_path: Path) -> None:
    run = tmp_path / "clicks"
    shutil.copytree(clicks, run)
    keep_calibration(Calibration({"ctr": Calibrator("platt", 0.5, -1.0)}), run)
    log = open_log(str(small_log))
    batch = Batch.of(Encoder(log.schema).encode(next(iter(log.read(log.part("valid"))))))
    raw_B, mapped_B = (click_model(path).logits(batch) for path in (clicks, run))
    torch.testing.assert_close(mapped_B, 0.5 * raw_B - 1)


def test_resumed_to_the_same_bits(
    clicks: Path, second: Path, small_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut at step 20; the click model is read again."""
    given = arguments(small_log, tmp_path / "run", *weighed_by(clicks), "--checkpoint-steps", 10)
    step = Learner.step

    def cut(self: Learner, batch: Batch, number: int) -> dict[str, torch.Tensor]:
        if number == 20:
            raise KeyboardInterrupt
        return step(self, batch, number)

    monkeypatch.setattr(Learner, "step", cut)
    with pytest.raises(KeyboardInterrupt):
        train.run(given)
    monkeypatch.undo()
    train.run(given)
    for name, tensor in load_file(second / "model" / "model.safetensors").items():
        assert torch.equal(load_file(given.out / "model" / "model.safetensors")[name], tensor), name


def test_another_click_model_is_refused_half_way(
    clicks: Path, small_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "clicks"
    shutil.copytree(clicks, mine)
    given = arguments(small_log, tmp_path / "run", *weighed_by(mine))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Learner, "step", stop)
    with pytest.raises(KeyboardInterrupt):
        train.run(given)
    monkeypatch.undo()
    keep_calibration(Calibration({"ctr": Calibrator("platt", 0.5, -1.0)}), mine)
    with pytest.raises(ValueError, match="holds another model now than when"):
        train.run(given)


@pytest.mark.parametrize(
    ("objective", "run", "message"),
    [
        ("naive", "clicks", "objective naive uses no propensities"),
        ("escm2_ips", "nowhere", "holds no trained model; name a finished run of jobs.train"),
    ],
)
def test_mistakes(objective: str, run: str, message: str, clicks: Path, small_log: Path, tmp_path: Path) -> None:
    given = arguments(small_log, tmp_path / "run", "--objective.name", objective, *weighed_by(clicks.parent / run))
    with pytest.raises(ValueError, match=message):
        train.run(given)
    assert not given.out.exists()


def test_an_own_objective_that_weighs_nothing_is_refused(
    clicks: Path, small_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would train, and the propensities would be ignored."""
    plain = "from models.objectives.naive import Naive\n\n\nclass Plain(Naive):\n    pass\n"
    (tmp_path / "my_plain.py").write_text(plain)
    monkeypatch.syspath_prepend(tmp_path)
    given = arguments(small_log, tmp_path / "run", "--objective.name", "my_plain:Plain", *weighed_by(clicks))
    with pytest.raises(ValueError, match="objective my_plain:Plain uses no propensities; leave it out"):
        train.run(given)
    assert not given.out.exists()


def test_other_features_are_refused(clicks: Path, tmp_path: Path) -> None:
    generate_log(
        GeneratedLog(world="aligned", rows=3000, users=50, items=30, history=3, click_rate=0.2), tmp_path / "log"
    )
    with pytest.raises(ValueError, match=r"--given propensities=.*: the categorical feature .* is not the same there"):
        train.run(arguments(tmp_path / "log", tmp_path / "run", *weighed_by(clicks)))


def test_entire_space_calibration_takes_the_same_weights(clicks: Path, second: Path, small_log: Path) -> None:
    """A shift by the click model's weights: the weighted mean of pCVR becomes that of the conversions."""
    log, trained = open_log(str(small_log)), load_run(second)
    evidence = gather(trained.network, log, log.part("valid"), CPU, click_model(clicks))
    calibration = fit_calibration(evidence, "platt", "entire", trained.problem.clip)
    by_command = calibrate.run(calibrate.arguments_of("--run", str(second), "--space", "entire"))
    assert by_command["calibration.space"] == "entire"
    kept = Calibration.load(second / "model", load_run(second).checksum)
    assert kept is not None
    assert dataclasses.asdict(kept.tasks["cvr"]) == dataclasses.asdict(calibration.tasks["cvr"])
    rows = pa.concat_tables(log.read(log.part("valid")))
    encoded = Encoder(log.schema).encode(rows)
    batch = Batch.of(encoded)
    given = evidence.given
    assert given is not None
    with torch.no_grad():
        cvr_B = calibration.tasks["cvr"].apply_logit(trained.network(batch)["cvr"]).sigmoid()
    logit_B = click_model(clicks).logits(batch).numpy()
    weight_B = encoded.labels["click"] * inverse_calibrated(fit_clicks(given, "platt"), logit_B, trained.problem.clip)
    predicted, seen = np.average(cvr_B, weights=weight_B), np.average(encoded.labels["conversion"], weights=weight_B)
    assert predicted == pytest.approx(seen, rel=0.02)  # Platt's targets are not quite 0 and 1


def test_propensity_health_is_of_the_propensities_that_weigh_the_clicks(
    clicks: Path, second: Path, small_log: Path, tmp_path: Path
) -> None:
    """In the summary of the training, after a calibration, and in an evaluation: of the click model, not of the run's
    own CTR tower. Where its run is gone there is a reason, and no figure."""
    log = open_log(str(small_log))
    table = pa.concat_tables(list(log.read(log.part("test"))))
    with torch.no_grad():
        own, given = (
            load_run(run).network(Batch.of(Encoder(log.schema).encode(table)))["ctr"] for run in (second, clicks)
        )
    clip, clicked = load_run(second).problem.clip, table["click"].to_numpy() == 1

    def share(logit: torch.Tensor) -> float:
        weight = 1 / np.maximum(logit.double().sigmoid().numpy()[clicked], clip)
        return float(weight.sum() ** 2 / (weight**2).sum() / len(weight))

    run = tmp_path / "run"
    shutil.copytree(second, run)
    summary = read_json(run / "summary.json")
    assert abs(share(own) - share(given)) > 1e-3
    assert summary["propensity.effective_share"] == pytest.approx(share(given), rel=1e-6)
    assert summary["propensity.ece"] != summary["ctr.ece"]
    after = calibrate.run(calibrate.arguments_of("--run", str(run)))
    assert after["calibrated.propensity.effective_share"] == pytest.approx(share(given), rel=1e-6)
    evaluated = evaluate.run(evaluate.Arguments(run=run, data=str(small_log), part="test", out=tmp_path / "found"))
    assert evaluated["propensity.effective_share"] == pytest.approx(share(given), rel=1e-5)
    record = read_json(run / "run.json")
    record["config"]["propensities"] = str(tmp_path / "gone")
    (run / "run.json").write_text(json.dumps(record))
    evaluated = evaluate.run(evaluate.Arguments(run=run, data=str(small_log), part="test", out=tmp_path / "other"))
    assert "propensity.effective_share" not in evaluated
    assert "cannot be had" in evaluated["absent"]["propensity.effective_sample_size"]


def test_an_epoch_may_be_chosen_by_weighed_clicks(small_log: Path, clicks: Path, tmp_path: Path) -> None:
    """The figure is the loss of the clicks weighed by the click model; an objective that weighs none has no such."""
    out = tmp_path / "run"
    chosen = ("--stop-metric", "cvr.weighted.log_loss", "--objective.name", "escm2_ips")
    summary = train.run(arguments(small_log, out, *weighed_by(clicks), *chosen))
    log, found = open_log(small_log), load_run(out)
    rows = Encoder(log.schema).encode(pa.concat_tables(list(log.read(log.part("test")))))
    clicked = rows.labels["click"] > 0.5
    clip = found.problem.clip
    q = click_model(clicks).logits_of(rows, CPU).double().sigmoid().clamp(min=clip)[clicked]
    with torch.no_grad():
        logit = found.network(Batch.of(rows))["cvr"].double()[clicked]
    label = torch.tensor(rows.labels["conversion"][clicked]).double()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, label, reduction="none")
    assert summary["cvr.weighted.log_loss"] == pytest.approx(((loss / q).sum() / (1 / q).sum()).item(), rel=1e-5)
    with pytest.raises(UserError, match="objective naive weighs no clicks"):
        train.run(arguments(small_log, tmp_path / "other", "--objective.name", "naive", *chosen[:2]))
