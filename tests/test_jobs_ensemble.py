"""Cross-fitting: folds of users, trainings that leave one out, and rows weighed by who has not seen them."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from support import QUICK, as_program, change_column, copy, settings_of

from data.errors import UserError
from data.log import open_log
from distributed.context import CPU
from distributed.finished_run import load_run
from funnel.batch import Batch
from funnel.problem import Given
from funnel.ranking.click_model import ClickModel
from funnel.ranking.counts import PROPENSITIES
from funnel.ranking.folds import FOLD, LeftOut, with_folds
from funnel.ranking.problem import EntireSpace, labels_of
from jobs import ensemble, evaluate, train
from jobs.run.start_from import given_runs

FACTS = {"tasks": ["ctr", "cvr"], "click_rate": 0.2, "conversion_rate": 0.3}


def problem(log: Path, leave_out: str = "", given: dict[str, Any] | None = None) -> EntireSpace:
    settings = settings_of({"leave_out": leave_out, "objective.name": "escm2_ips"}).settings
    return EntireSpace(settings, open_log(log).schema, FACTS, given)


def rows_of(asked: EntireSpace, log: Path) -> Any:
    opened = open_log(log)
    part = opened.part("train")
    table = pa.concat_tables(list(opened.read(part, list(dict.fromkeys([*asked.columns, "user_id"])))))
    return asked.encode(table), table.column("user_id").to_numpy()


def test_a_user_is_in_one_fold_and_folds_are_alike(small_log: Path) -> None:
    units, user_R = rows_of(problem(small_log, "2/3"), small_log)
    fold_R = units.rows.labels[FOLD]
    assert all(len(set(fold_R[user_R == user])) == 1 for user in set(user_R))
    users_in = [len({u for u, f in zip(user_R, fold_R, strict=True) if f == fold}) for fold in range(3)]
    assert sum(users_in) == len(set(user_R))
    assert min(users_in) > 0.2 * sum(users_in)
    cut = with_folds(units.rows.take(slice(0, 50)), pa.table({"user_id": user_R[:50]}), open_log(small_log).schema, 3)
    np.testing.assert_array_equal(cut.labels[FOLD], fold_R[:50])


def test_the_fold_that_is_left_out_teaches_nothing(small_log: Path) -> None:
    """The loss of a batch is that of its other rows alone."""
    asked = problem(small_log, "1/3")
    batch = rows_of(asked, small_log)[0].batch()
    network = asked.network()
    outputs = network(batch)
    kept = batch.labels[FOLD] != 0
    rest = Batch(
        batch.ids_BK[kept], batch.numeric_BN[kept], {name: label_B[kept] for name, label_B in batch.labels.items()}
    )
    whole = asked.loss(outputs, batch, asked.totals(outputs, batch), 0)
    plain = problem(small_log)
    others = {name: output[kept] for name, output in outputs.items()}
    alone = plain.loss(others, rest, plain.totals(others, rest), 0)
    assert 0 < int(kept.sum()) < len(kept)
    for name in alone:
        assert whole[name].item() == pytest.approx(alone[name].item(), rel=1e-5)


class Says(torch.nn.Module):
    """A network with one logit for all rows."""

    tasks = says = ("ctr",)

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = logit

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"ctr": torch.full((len(batch),), self.logit)}


def says(logit: float, leave_out: str, place: Path) -> Given:
    return Given(SimpleNamespace(settings=SimpleNamespace(leave_out=leave_out)), Says(logit), place)


def test_rows_are_weighed_by_the_models_that_have_not_seen_them(tmp_path: Path, small_log: Path) -> None:
    members = [says(value, f"{fold}/3", tmp_path) for fold, value in ((1, 1.0), (2, 2.0), (3, 4.0), (1, 3.0))]
    roles = (PROPENSITIES, *(f"{PROPENSITIES}-{number}" for number in (2, 3, 4)))
    asked = problem(small_log, given=dict(zip(roles, members, strict=True)))
    units, _ = rows_of(asked, small_log)
    batch = asked.complete(units.batch())
    wanted = torch.tensor([2.0, 2.0, 4.0])[batch.labels[FOLD].long()]  # fold 1 by two models: (1 + 3) / 2
    torch.testing.assert_close(batch.given[PROPENSITIES], wanted)
    torch.testing.assert_close(asked.click_model.logits_of(units.rows, CPU), wanted)
    torch.testing.assert_close(labels_of(batch).click_logit_B, wanted)
    plain = ClickModel(says(1.0, "", tmp_path), says(4.0, "", tmp_path))
    assert plain.folds == 0
    assert plain.logits(batch).unique().tolist() == [2.5]
    with pytest.raises(UserError, match="folds of 2 and 3"):
        ClickModel(says(1.0, "1/2", tmp_path), says(1.0, "1/3", tmp_path))


def test_what_is_no_fold_is_refused(small_log: Path) -> None:
    assert LeftOut.of("2/5") == LeftOut(2, 5)
    for wrong in ("0/3", "4/3", "1", "1/1", "a/b", "1/99"):
        with pytest.raises(UserError, match="leave_out must be FOLD/FOLDS"):
            LeftOut.of(wrong)
    log = open_log(small_log)
    nameless = dataclasses.replace(log, schema=dataclasses.replace(log.schema, user=None))
    settings = settings_of({"leave_out": "1/3"}).settings
    parts = {name: log.part(name) for name in ("train", "valid")}
    with pytest.raises(UserError, match="names no user"):
        EntireSpace.prepare(settings, nameless, parts)


def test_a_role_may_be_given_several_times(tmp_path: Path) -> None:
    roles = EntireSpace.roles
    two = given_runs([f"propensities={tmp_path}/a", f"propensities={tmp_path}/b"], roles)
    assert two == {"propensities": tmp_path / "a", "propensities-2": tmp_path / "b"}
    for fold in (10, 2, 1):
        (tmp_path / "all" / f"fold-{fold}").mkdir(parents=True)
    found = given_runs([f"propensities={tmp_path}/all"], roles)
    assert [run.name for run in found.values()] == ["fold-1", "fold-2", "fold-10"]
    with pytest.raises(UserError, match="takes 9 runs at most"):
        given_runs([f"propensities={tmp_path}/{n}" for n in range(10)], roles)
    with pytest.raises(UserError, match=r"with ROLE of propensities$"):
        given_runs(["teacher=x"], roles)


@pytest.mark.ray
def test_an_ensemble_weighs_a_training(
    small_log: Path, tmp_path: Path, ray_cluster: None, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Side by side as Ray tasks it ends in the bits of one after the other; the training, its evaluation and its
    calibration find all of it."""
    words = ("--data", small_log, *QUICK, "--preset", "clicks", "--epochs", "1", "--folds", "2")
    ensemble.run(ensemble.arguments_of(*map(str, ("--out", tmp_path / "here", *words))))
    ensemble.run(ensemble.arguments_of(*map(str, ("--out", tmp_path / "tasks", *words, "--workers", "2"))))
    weights = [load_file(tmp_path / place / "fold-2" / "model" / "model.safetensors") for place in ("here", "tasks")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert load_run(tmp_path / "here" / "fold-2").settings.leave_out == "2/2"
    out = tmp_path / "ips"
    given = (
        "--data",
        small_log,
        "--out",
        out,
        *QUICK,
        "--given",
        f"propensities={tmp_path}/here",
        "--calibrate",
        "platt",
    )
    summary = train.run(train.arguments_of(*map(str, given)))
    assert summary["propensity.effective_share"] > 0
    figures = evaluate.run(evaluate.Arguments(run=out, data=str(small_log), replicates=40))
    for name in ("effective_sample_size", "largest_weight"):
        assert figures[f"propensity.{name}"] == pytest.approx(summary[f"propensity.{name}"], rel=1e-4)
    code, said, _ = as_program("jobs.ensemble", ("--out", tmp_path / "here", *words), monkeypatch, capsys)
    assert (code, said.count("is finished already")) == (0, 2)


def test_what_cannot_be_an_ensemble_is_refused_before_any_cluster(
    small_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*_: Any) -> None:
        raise AssertionError("started")

    monkeypatch.setattr(ensemble, "connect", started)
    words = ["--out", str(tmp_path / "clicks"), "--workers", "1", "--data"]
    with pytest.raises(UserError, match="--folds is 10, but --given takes 9 runs of a role at most"):
        ensemble.run(ensemble.arguments_of(*words, str(small_log), "--folds", "10"))
    with pytest.raises(UserError, match="no such directory"):
        ensemble.run(ensemble.arguments_of(*words, str(tmp_path / "nothing")))
    broken = copy(small_log, tmp_path / "broken")
    change_column(broken, "train", "click", lambda values: [2, *values[1:]])
    with pytest.raises(UserError, match="click"):
        ensemble.run(ensemble.arguments_of(*words, str(broken)))
    own = ("--objective.balance.weight", "1", "--objective.balance.kind", "slices", "--objective.balance.by", "weather")
    with pytest.raises(UserError, match=r"balance\.by names 'weather'"):
        ensemble.run(ensemble.arguments_of(*words, str(small_log), *own))
    (tmp_path / "clicks" / "fold-2").mkdir(parents=True)
    (tmp_path / "clicks" / "fold-2" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="fold-2 is not empty"):
        ensemble.run(ensemble.arguments_of(*words, str(small_log)))
    words = ["--data", str(small_log), "--out", str(tmp_path / "run"), "--objective.name", "naive"]
    with pytest.raises(UserError, match=r"objective\.theta 1\.0: means nothing to objective naive"):
        train.run(train.arguments_of(*words, "--objective.theta", "1"))
