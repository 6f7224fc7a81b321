"""Incentives from day to day by command: within budget and caps, replayed, gone on with, on the days of a log."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file, save_file

from data.errors import UserError
from data.log import open_log
from jobs import fit, make_data, operate
from jobs.command.cli import parse

SMALL = ("--effects.nuisances.trees", "10", "--effects.dml.folds", "2", "--effects.dml.richest", "linear")
WORLD = ("--world.users", "1500", "--warmup", "3", "--refit", "3", "--gate.days", "2", "--gate.share", "0.2", *SMALL)


@pytest.fixture(scope="module")
def daily(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("operation") / "daily"
    operate.run(operate.arguments_of("--out", out, "--days", "9", *WORLD))
    return out


def test_days_are_decided_within_budget_and_caps(daily: Path) -> None:
    lines = [json.loads(line) for line in (daily / "days.jsonl").read_text().splitlines()]
    assert [line["phase"] for line in lines] == ["random"] * 3 + ["decided"] * 6
    for line in lines[3:]:
        assert line["cost"] <= 1.02  # the estimated share that users take is a hair off
        place = daily / "days" / f"{line['day']:05d}" / "snapshot"
        arrays = load_file(place / "arrays.safetensors")
        facts = json.loads((place / "facts.json").read_text())
        rows = np.arange(len(arrays["arm_N"]))
        assert arrays["allowed_NA"][rows, arrays["arm_N"]].all()
        assert arrays["cost_NA"][rows, arrays["arm_N"]].sum() <= facts["budget"]
    assert lines[4]["due"] < lines[4]["users"]
    assert any("gate" in line for line in lines)
    summary = json.loads((daily / "summary.json").read_text())
    assert 0.3 < summary["true.share"] <= 1
    assert "Users with another strategy" in (daily / "report.html").read_text()


def test_a_day_is_replayed_from_its_snapshot(daily: Path, tmp_path: Path) -> None:
    place = daily / "days" / "00005"
    found = operate.run(operate.arguments_of("--replay", place))
    assert "the same strategies for all" in found["message"]
    copy = Path(shutil.copytree(place, tmp_path / "day"))
    arrays = load_file(copy / "snapshot" / "arrays.safetensors")
    arrays["arm_N"][:3] = (arrays["arm_N"][:3] + 1) % 6
    save_file(arrays, copy / "snapshot" / "arrays.safetensors")
    with pytest.raises(UserError, match=r"3 of .* users get another strategy than the snapshot says"):
        operate.run(operate.arguments_of("--replay", copy))
    facts = copy / "snapshot" / "facts.json"
    facts.write_text(json.dumps({**json.loads(facts.read_text()), "version": 9}))
    with pytest.raises(UserError, match=r"version 9; this reads 'counterpoint.incentives' versions 1 and 2"):
        operate.run(operate.arguments_of("--replay", copy))
    with pytest.raises(UserError, match="on that day nothing was decided"):
        operate.run(operate.arguments_of("--replay", daily / "days" / "00001"))


def test_an_operation_that_was_stopped_goes_on_to_the_same_days(daily: Path, tmp_path: Path) -> None:
    """Five days, then nine with the same command: every decision is the one of nine days at once."""
    out = tmp_path / "daily"
    for days in ("5", "9"):
        operate.run(operate.arguments_of("--out", out, "--days", days, *WORLD))
    assert (out / "days.jsonl").read_text() == (daily / "days.jsonl").read_text()
    names = [f"days/{day:05d}/snapshot/arrays.safetensors" for day in range(3, 9)]
    assert all((out / name).read_bytes() == (daily / name).read_bytes() for name in names)


@pytest.fixture(scope="module")
def reward_days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("days") / "log"
    words = ["--world", "incentives", "--days", "3", "--users", "2500", "--logging.randomised", "0.5"]
    parsed = parse(make_data.options_for, [*words, "--out", str(out)])
    make_data.run(parsed)
    assert make_data.following(parsed)[:3] == ("operate", "--system", "incentives")
    return out


def test_a_log_of_days_has_everybody_who_came(reward_days: Path) -> None:
    """The rows of a day are those of the world, and a user who is retained is there on the next one."""
    log = open_log(reward_days)
    assert log.part_names() == ["2026-01-01", "2026-01-02", "2026-01-03"]
    first, second = (pa.concat_tables(log.read(log.part(name), [*log.schema.all_columns]))
                     for name in log.part_names()[:2])  # fmt: skip
    assert len(first) == len(set(first["user_id"].to_pylist())) > 1000
    retained = np.asarray(first["user_id"])[np.asarray(first["retained"]) == 1]
    assert np.isin(retained, np.asarray(second["user_id"])).all()
    with pytest.raises(UserError, match="rows has no effect with days"):
        parse(make_data.options_for, ["--world", "incentives", "--days", "3", "--rows", "500", "--out", "x"])


def test_days_of_a_log_are_decided_until_they_end(reward_days: Path, tmp_path: Path) -> None:
    """Strategies for the users of each day, and a wait for the next one, which the same command goes on with."""
    days = Path(shutil.copytree(reward_days, tmp_path / "days"))
    late = days / "2026-01-03"
    late.rename(tmp_path / "late")
    words = ("--data", days, "--out", tmp_path / "run", "--days", "3", "--warmup", "1", *SMALL)
    assert operate.run(operate.arguments_of(*words))["days.decided"] == 1
    arrays = load_file(tmp_path / "run" / "days" / "00001" / "snapshot" / "arrays.safetensors")
    users = set(arrays["user_N"].tolist())
    assert len(users) == len(arrays["user_N"]) > 300
    (tmp_path / "late").rename(late)
    (late / "_SUCCESS").rename(tmp_path / "whole")  # without it the day is still being written
    assert operate.run(operate.arguments_of(*words, "--until-idle", "0.1"))["days.decided"] == 1
    (tmp_path / "whole").rename(late / "_SUCCESS")
    assert operate.run(operate.arguments_of(*words))["days.decided"] == 2
    line = json.loads((tmp_path / "run" / "days.jsonl").read_text().splitlines()[2])
    assert line["date"] == "2026-01-03"
    shutil.copytree(late, days / "2025-12-31")
    with pytest.raises(UserError, match="day 2025-12-31 stands where 20260101 was operated"):
        operate.run(operate.arguments_of(*words[:5], "4", *words[6:]))
    schema = json.loads((days / "schema.json").read_text())
    named = {key: value for key, value in schema["treatment"].items() if key != "vector"}
    (days / "schema.json").write_text(json.dumps({**schema, "treatment": named}))
    with pytest.raises(UserError, match=r"proposals.by grid: new strategies are made of .*which the log's do not have"):
        operate.run(operate.arguments_of("--data", days, "--out", tmp_path / "o", "--proposals.by", "grid", *SMALL))
    (days / "schema.json").write_text(json.dumps({**schema, "numeric": schema["numeric"][:5]}))
    with pytest.raises(UserError, match="no numeric feature 'activity'; cadence and caps need"):
        operate.run(operate.arguments_of("--data", days, "--out", tmp_path / "other"))


def test_on_a_log_weak_strategies_are_told_and_what_could_be_tried_instead(reward_days: Path, tmp_path: Path) -> None:
    """The log hands out its random traffic itself: nothing is replaced, and the gate's answer has costs beside it."""
    words = ("--data", reward_days, "--out", tmp_path / "run", "--days", "3", "--warmup", "1", "--refit", "1",
             "--proposals.by", "grid", "--proposals.level", "0.01", "--proposals.every", "1", *SMALL)  # fmt: skip
    operate.run(operate.arguments_of(*words))
    lines = [json.loads(line) for line in (tmp_path / "run" / "days.jsonl").read_text().splitlines()]
    for line in lines[1:]:
        weak = [str(one["strategy"]) for one in line["strategies"] if one["weak"]]
        told = [text for text in line["alerts"] if "weak, another one beats it for no more money" in text]
        assert bool(weak) == bool(told)
        if weak:
            assert f" {', '.join(weak)}: weak" in told[0]
            assert "to be tried instead (amount x interval x number): " in told[0]
        assert not any("new" in one or one.get("dropped") for one in line["strategies"])
    assert any(line["alerts"] for line in lines[1:])
    last = lines[2]
    assert last["gate.difference"] == pytest.approx(last["gate.outcome"] - last["gate.price"] * last["gate.cost"])
    assert last["gate.cost.low"] <= last["gate.cost"] <= last["gate.cost.high"]
    assert "Strategies" in (tmp_path / "run" / "report.html").read_text()


def test_a_log_whose_parts_are_no_days_is_not_operated(tmp_path: Path) -> None:
    words = ["--world", "incentives", "--rows", "600", "--users", "900", "--out", str(tmp_path / "log")]
    make_data.run(parse(make_data.options_for, words))
    with pytest.raises(UserError, match=r"log/test: its name is no day, .*; an operation lives from day to day"):
        operate.run(operate.arguments_of("--data", tmp_path / "log", "--out", tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    for option in (("--world.users", "500"), ("--strategies", "grid"), ("--explore", "0.2")):
        with pytest.raises(UserError, match="has no effect with data"):
            operate.arguments_of("--data", tmp_path / "log", "--out", tmp_path / "run", *option)


def test_a_setting_has_one_option() -> None:
    """What the operation decides itself is no option of the effects, nor is the learner asked for twice."""
    for option in ("--effects.budget", "--effects.fit-on", "--effects.propensities", "--effects.own",
                   "--effects.arms.learner"):  # fmt: skip
        with pytest.raises(UserError, match=f"unknown option '{option}'"):
            operate.arguments_of("--out", "x", option, "1")
    with pytest.raises(UserError, match=r"unknown option '--arms.learner'"):
        fit.arguments_of("--data", "x", "--out", "y", "--arms.learner", "t")
    settings = operate.arguments_of("--out", "x", "--effects.learner", "x", "--effects.arms.final", "linear").settings
    assert (settings.effects.learner, settings.effects.arms.final) == ("x", "linear")


def test_settings_that_leave_nobody_are_refused() -> None:
    for words, message in (
        (("--explore", "0"), "explore is 0"),
        (("--explore", "0.6", "--gate.share", "0.5"), "leave nobody"),
        (("--gate.days", "20"), "gate.days is 20, must lie between 1 and gate.patience, 10"),
        (("--cadence.every", "0"), "cadence.every is 0"),
        (("--cadence.cap", "nan"), "cadence.cap is nan"),
        (("--cadence.frequent", "nan"), "cadence.frequent is nan"),
        (("--cadence.new-days", "-1"), "cadence.new_days is -1, must be at least 0"),
        (("--gate.tolerance", "nan"), "gate.tolerance is nan, must be a finite number of at least 0"),
        (("--monitors.moved", "nan"), "monitors.moved is nan"),
        (("--effects.arms.smallest-arm", "0"), "smallest_arm is 0, must be at least 1"),
    ):
        with pytest.raises(UserError, match=message):
            operate.arguments_of("--out", "x", *words)


def test_fewer_days_than_there_are_are_refused_and_nothing_is_touched(tmp_path) -> None:
    out = tmp_path / "run"
    words = ("--system", "incentives", "--world.users", "400", "--out", str(out))
    operate.run(operate.arguments_of(*words, "--days", "2"))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"--days is 1, but .* has 2 days already"):
        operate.run(operate.arguments_of(*words, "--days", "1"))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
