"""Logs and states that an operation cannot go on with are one line, and nothing that was decided is lost; the gate on a
log is judged by days that taught nothing; bounds hold for users who keep their strategy."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from data.errors import UserError
from funnel.incentives.fitted import cost_facts, costs_of
from funnel.incentives.source import LoggedDays
from jobs import make_data, operate
from jobs.command.cli import parse

DAYS = 8
WORDS = ("--refit", "2", "--window", "6", "--gate.days", "2", "--warmup", "3")


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log in which rewards do nothing."""
    out = tmp_path_factory.mktemp("faults") / "days"
    words = ["--world", "incentives", "--days", str(DAYS), "--users", "500", "--response", "0", "--out", str(out)]
    make_data.run(parse(make_data.options_for, [*words, "--logging.randomised", "0.5"]))
    return out


@pytest.fixture(scope="module")
def lively(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One in which they do much."""
    out = tmp_path_factory.mktemp("faults") / "days"
    words = ["--world", "incentives", "--days", "6", "--users", "500", "--response", "3", "--out", str(out)]
    make_data.run(parse(make_data.options_for, [*words, "--logging.randomised", "0.5"]))
    return out


@pytest.fixture(scope="module")
def run(days: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("faults") / "run"
    operate.run(operate.arguments_of("--data", days, "--days", "6", "--out", out, *WORDS))
    return out


def changed(days: Path, place: Path, change: Callable[[pa.Table], pa.Table], only: int | None = None) -> Path:
    out = Path(shutil.copytree(days, place))
    parts = sorted(path for path in out.iterdir() if path.is_dir())
    for part in parts if only is None else parts[only : only + 1]:
        file = next(part.glob("*.parquet"))
        pq.write_table(change(pq.read_table(file)), file)
    return out


def with_value(column: str, value: object, kept: slice | np.ndarray = slice(0, 1)) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        own = table[column].to_numpy(zero_copy_only=False).copy()
        own[kept] = value
        return table.set_column(table.column_names.index(column), column, pa.array(own, from_pandas=False))

    return change


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("sensitive", np.nan, r"2026-01-02: row 0: 'sensitive' is missing; cadence and caps need it"),
        ("tenure", np.nan, r"2026-01-02: row 0: 'tenure' is missing"),
        ("amount", 7.0, r"2026-01-02: row \d+: arm \d has two vectors"),
    ],
)
def test_rows_that_cannot_be_decided_for_are_named(
    days: Path, tmp_path: Path, column: str, value: object, message: str
) -> None:
    log = LoggedDays(changed(days, tmp_path / "log", with_value(column, value), only=1))
    log.morning(0)
    with pytest.raises(UserError, match=message) as found:
        log.morning(1)
    assert "\n" not in str(found.value)


def test_random_rows_that_were_not_drawn_evenly_are_refused(days: Path, tmp_path: Path) -> None:
    log = LoggedDays(changed(days, tmp_path / "log", with_value("propensity", 0.37, slice(None)), only=0))
    with pytest.raises(UserError, match=r"is randomised with a propensity of 0.37; drawn evenly among 6 arms it would"):
        log.morning(0)


def test_an_arm_keeps_its_vector(days: Path, tmp_path: Path) -> None:
    def dearer(table: pa.Table) -> pa.Table:
        return with_value("amount", 2.0, table["arm"].to_numpy() == 3)(table)

    log = changed(days, tmp_path / "log", dearer, only=3)
    with pytest.raises(UserError, match=r"2026-01-04: arm 3 is \[2.0, 2.0, 3.5\], but was \[1.0, 2.0, 3.5\] before"):
        operate.run(operate.arguments_of("--data", log, "--days", "5", "--warmup", "9", "--out", tmp_path / "run"))


def test_days_are_not_jumped_over(days: Path, tmp_path: Path) -> None:
    """A day that is not whole while a later one is ends the command; once it is whole, the same command goes on."""
    log = Path(shutil.copytree(days, tmp_path / "log"))
    (log / "2026-01-03" / "_SUCCESS").unlink()
    words = ("--data", log, "--days", "4", "--out", tmp_path / "run")
    with pytest.raises(UserError, match=r"2026-01-04 is there, but 2026-01-03 is not .*; the same command goes on"):
        operate.run(operate.arguments_of(*words))
    assert len(list((tmp_path / "run" / "days").glob("0*/day.json"))) == 2
    (log / "2026-01-03" / "_SUCCESS").touch()
    operate.run(operate.arguments_of(*words))
    dates = [json.loads(line)["date"] for line in (tmp_path / "run" / "days.jsonl").read_text().splitlines()]
    assert dates == [f"2026-01-0{day}" for day in range(1, 5)]


def test_a_log_without_random_rows_says_that_nothing_is_decided(days: Path, tmp_path: Path) -> None:
    log = changed(days, tmp_path / "log", with_value("randomised", False, slice(None)))
    words = ("--data", log, "--days", "3", "--warmup", "1", "--out", tmp_path / "run")
    summary = operate.run(operate.arguments_of(*words))
    assert summary["days.decided"] == 0
    assert summary["alerts"] == 2
    assert "no row so far is randomised" in (tmp_path / "run" / "report.html").read_text()


def test_what_a_log_lacks_is_said_before_anything_is_written(days: Path, tmp_path: Path) -> None:
    log = Path(shutil.copytree(days, tmp_path / "log"))
    schema = json.loads((log / "schema.json").read_text())
    del schema["treatment"]["cost"]
    (log / "schema.json").write_text(json.dumps(schema))
    for words, message in (
        (("--data", log), "an operation needs .* 'randomised' and 'cost'"),
        (("--data", days, "--effects.floors", "clicks=1"), "floors and ceilings: no outcome 'clicks'"),
        (("--data", days, "--effects.outcomes", "clicks=1"), "outcomes: no outcome 'clicks'"),
        (("--effects.floors", "clicks=1"), "floors and ceilings: no outcome 'clicks'"),
        (("--strategies", "grid", "--cadence.cap", "0.1"), "cadence.cap is 0.1, below the cheapest strategy's bill"),
    ):
        with pytest.raises(UserError, match=message):
            operate.run(operate.arguments_of("--out", tmp_path / "run", *words))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("what", ["version", "arrays", "day"])
def test_a_state_that_cannot_be_gone_on_from_leaves_the_run_as_it_is(
    days: Path, run: Path, tmp_path: Path, what: str
) -> None:
    out = Path(shutil.copytree(run, tmp_path / "run"))
    state = out / "days" / "00005" / "state"
    if what == "version":
        facts = json.loads((state / "facts.json").read_text())
        (state / "facts.json").write_text(json.dumps({key: facts[key] for key in facts if key != "version"}))
        message = r"00005: a state of version None, this goes on from \d: .*operate on in another --out"
    elif what == "arrays":
        (state / "arrays.safetensors").write_bytes((state / "arrays.safetensors").read_bytes()[:100])
        message = r"00005/state/arrays.safetensors: not readable"
    else:
        shutil.rmtree(out / "days" / "00003")
        message = r"00002/state/arrays.safetensors: no such file"
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and "process" not in path.name}
    with pytest.raises(UserError, match=message):
        operate.run(operate.arguments_of("--data", days, "--days", "8", "--out", out, *WORDS))
    assert {path: path.read_bytes() for path in before} == before


def test_a_snapshot_that_does_not_fit_together_is_one_line(run: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(run / "days" / "00005", tmp_path / "day"))
    facts, file = place / "snapshot" / "facts.json", place / "snapshot" / "arrays.safetensors"
    whole, arrays = json.loads(facts.read_text()), load_file(file)
    facts.write_text(json.dumps({key: whole[key] for key in whole if key != "budget"}))
    with pytest.raises(UserError, match="budget is None, must be a number"):
        operate.run(operate.arguments_of("--replay", place))
    facts.write_text(json.dumps(whole))
    save_file({**arrays, "cost_NA": arrays["cost_NA"][:-1].copy()}, file)
    with pytest.raises(UserError, match=r"cost_NA is .*, but value_NA"):
        operate.run(operate.arguments_of("--replay", place))
    save_file({**arrays, "cost_NA": arrays["cost_NA"] * np.nan}, file)
    with pytest.raises(UserError, match=r"day: user 0, option 0: cost nan of limit 0"):
        operate.run(operate.arguments_of("--replay", place))
    save_file({**arrays, "group_N": np.full(len(arrays["arm_N"]), -1)}, file)
    with pytest.raises(UserError, match=r"group_N is .*, must be a number from 0 for each"):
        operate.run(operate.arguments_of("--replay", place))


def test_the_gate_on_a_log_is_not_judged_by_what_taught_the_candidate(days: Path, tmp_path: Path) -> None:
    """Rewards do nothing: boosted models of single arms, which know the rows that they learnt from by heart, must not
    seem to bring anything. On the rows that they learnt from they would bring .4, of an outcome of .6."""
    out = tmp_path / "run"
    operate.run(operate.arguments_of("--data", days, "--out", out, "--effects.learner", "x",
                                      "--effects.nuisances.trees", "20", "--days", "6", *WORDS))  # fmt: skip
    lines = [json.loads(line) for line in (out / "days.jsonl").read_text().splitlines()]
    looks = [line for line in lines if line.get("gate.difference") is not None]
    assert len(looks) == 1
    for line in looks:
        assert line["gate.difference.low"] < 0 < line["gate.difference.high"]
        assert abs(line["gate.difference"]) < 0.2
        net = line["gate.outcome"] - line["gate.price"] * line["gate.cost"]
        assert line["gate.difference"] == pytest.approx(net, abs=1e-9)


def test_costs_in_another_unit_than_amounts_are_what_the_log_says() -> None:
    """Costs of a hundred times the share of the bill: spent is what they are, not the bill at most."""
    draws = np.random.default_rng(0)
    arm_R, activity_R = draws.integers(0, 3, 3000), draws.random(3000).astype(np.float32)
    vectors_A3 = np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 1.0], [1.0, 2.0, 4.0]])
    bill_A = vectors_A3[:, 0] * vectors_A3[:, 2]
    rows = {"x": activity_R[:, None], "arm": arm_R, "treatment": vectors_A3[arm_R],
            "cost": 100 * bill_A[arm_R] * (0.3 + 0.6 * activity_R)}  # fmt: skip
    costs_RA = costs_of(cost_facts(rows), rows["x"])
    np.testing.assert_allclose(costs_RA, 100 * bill_A[None] * (0.3 + 0.6 * activity_R[:, None]), rtol=1e-3)
    with pytest.raises(UserError, match=r"row \d+: costs 1, but its bill, amount times number, is 0"):
        cost_facts({**rows, "cost": rows["cost"] + 1})


def test_what_goes_over_the_budget_is_told(lively: Path, tmp_path: Path) -> None:
    """All users take nearly all of their bills on the last day: they keep what was decided when they took less."""
    log = changed(lively, tmp_path / "log", with_value("activity", np.float32(1), slice(None)), only=5)
    words = ("--data", log, "--days", "6", "--budget", "0.5", "--refit", "9", "--warmup", "2")
    seldom = ("--cadence.every", "30", "--cadence.frequent", "0", "--cadence.new-days", "0")
    operate.run(operate.arguments_of("--out", tmp_path / "run", *words, *seldom))
    last = [json.loads(line) for line in (tmp_path / "run" / "days.jsonl").read_text().splitlines()][-1]
    assert any("cost" in text and "above the budget of 0.5" in text for text in last["alerts"])


def test_who_became_sensitive_is_decided_for_at_once(lively: Path, tmp_path: Path) -> None:
    """All users are sensitive on the last day: nobody keeps a bill above the cap until his turn comes."""
    log = changed(lively, tmp_path / "log", with_value("sensitive", True, slice(None)), only=5)
    words = ("--data", log, "--days", "6", "--refit", "9", "--warmup", "2", "--cadence.cap", "1", "--budget", "1")
    arms = []
    for number in (4, 5):
        operate.run(operate.arguments_of("--out", tmp_path / "run", *words[:2], "--days", number + 1, *words[4:]))
        state = load_file(tmp_path / "run" / "days" / f"{number:05d}" / "state" / "arrays.safetensors")
        arms.append(dict(zip(state["arms:user"].tolist(), state["arms:arm"].tolist(), strict=True)))
    seen = LoggedDays(log).morning(5).user_N.tolist()
    assert max(arms[0].get(user, -1) for user in seen) > 1  # of the ladder 0 and 1 are within the cap
    assert max(arms[1][user] for user in seen) == 1
    line = json.loads((tmp_path / "run" / "days.jsonl").read_text().splitlines()[-1])
    assert line["due"] < len(seen)
