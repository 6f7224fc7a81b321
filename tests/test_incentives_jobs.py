"""Incentives from the command line: a log, effects fitted and judged, bad input."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import UserError
from data.log import open_log
from data.schema import Schema
from funnel.effects.dml import DMLSettings
from funnel.effects.nuisances import NuisanceSettings
from funnel.incentives.effect_settings import EffectSettings
from funnel.incentives.fitted import IncentiveEffects
from jobs import check, fit, make_data
from jobs.command.cli import parse

TREES = ("--nuisances.trees", "10")


@pytest.fixture(scope="module")
def reward_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rewards") / "log"
    words = ["--world", "incentives", "--rows", "6000", "--users", "2500", "--logging.randomised", "0.5"]
    make_data.run(parse(make_data.options_for, [*words, "--out", str(out)]))
    return out


@pytest.fixture(scope="module")
def effects_run(reward_log: Path) -> Path:
    out = reward_log.parent / "effects"
    fit.run(fit.arguments_of("--data", reward_log, "--out", out, "--resamples", "20", *TREES, "--dml.folds", "2"))
    return out


def test_a_log_of_rewards_says_who_got_what(reward_log: Path) -> None:
    log = open_log(reward_log)
    schema = log.schema
    assert Schema.from_dict(schema.to_dict()) == schema
    assert schema.treatment is not None
    assert schema.treatment.vector == ("amount", "interval", "number")
    parts = [pa.concat_tables(log.read(log.part(name), [*schema.all_columns])) for name in ("train", "valid", "test")]
    assert sum(map(len, parts)) == 6000
    users = [set(part["user_id"].to_pylist()) for part in parts]
    assert not users[0] & users[2]
    assert not users[0] & users[1]
    train = parts[0]
    assert set(train["arm"].to_pylist()) == set(range(6))
    np.testing.assert_allclose(np.asarray(train["propensity"])[np.asarray(train["randomised"])], 1 / 6)
    again = {"name": "x", "treatment": {"propensity": "p"}}
    with pytest.raises(UserError, match="'treatment' names neither an 'arm' nor a 'vector'"):
        Schema.from_dict({**schema.to_dict(), **again})
    with pytest.raises(UserError, match="column 'arm' is a treatment or an outcome and cannot be a feature"):
        Schema.from_dict({**schema.to_dict(), "numeric": [*schema.numeric, "arm"]})


def test_effects_are_fitted_judged_and_read_again(reward_log: Path, effects_run: Path) -> None:
    summary = json.loads((effects_run / "summary.json").read_text())
    for key in ("user.dr", "cluster.snips", "user.over.mix.dr", "auuc", "qini", "aucc"):
        assert summary[f"{key}.low"] <= summary[key] <= summary[f"{key}.high"], key
    # A fifth of the test part's rows decides: what is spent is near the budget of 1.
    assert summary["user.cost.low"] < 1.0 < summary["user.cost.high"] + 0.2
    assert summary["overlap.worst_after"] < summary["overlap.worst_before"]
    model = fit.read_model(effects_run)
    x_RF = model.read(model.settings, open_log(reward_log), "test")["x"]
    effect_RA = model.effects(x_RF)
    assert (effect_RA[:, 0] == 0).all()
    assert effect_RA[:, 1:].mean() > 0.02
    assert model.cost(x_RF).min() >= 0
    assert model.cost(x_RF)[:, 0].max() == 0
    assert "Uplift curve" in (effects_run / "report.html").read_text()


def test_the_same_command_again_shows_what_is_there(reward_log: Path, effects_run: Path) -> None:
    words = ("--data", reward_log, "--out", effects_run, *TREES, "--dml.folds", "2")
    before = (effects_run / "model" / "arrays.safetensors").stat().st_mtime_ns
    fit.run(fit.arguments_of(*words, "--resamples", "20"))
    assert (effects_run / "model" / "arrays.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="resamples"):
        fit.run(fit.arguments_of(*words, "--resamples", "21"))


@pytest.mark.parametrize("learner", ["s", "x"])
def test_learners_of_arms_from_the_command_line(reward_log: Path, tmp_path: Path, learner: str) -> None:
    words = ("--learner", learner, "--resamples", "0", "--nuisances.learner", "linear", "--arms.final", "linear")
    summary = fit.run(fit.arguments_of("--data", reward_log, "--out", tmp_path / "run", *words))
    assert np.isfinite(summary["user.dr"])
    model = fit.read_model(tmp_path / "run")
    assert model.effects(np.zeros((3, 10), np.float32)).shape == (3, 6)


def test_features_of_effects_that_are_not_there_are_refused_before_any_worker_starts(
    reward_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "map_of", lambda workers: pytest.fail("workers were started"))
    words = ("--data", reward_log, "--out", tmp_path / "run", "--workers", "1", "--dml.features", "2", "44")
    with pytest.raises(UserError, match=r"^dml\.features: column 44, but there are 10 numeric features, from 0$"):
        fit.run(fit.arguments_of(*words))
    assert not (tmp_path / "run").exists()


def broken(log: Path, place: Path, column: str, row: int, value: object) -> Path:
    """A copy of the log with one value of its train part replaced."""
    copy = Path(shutil.copytree(log, place))
    path = next((copy / "train").iterdir())
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[row] = value
    at = table.column_names.index(column)
    pq.write_table(table.set_column(at, column, pa.array(values, table[column].type)), path)
    return copy


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("minutes", float("inf"), "row 5: column 'minutes' is infinite"),
        ("retained_next_day", None, "row 5: column 'retained_next_day' is missing"),
        ("cost", -1.0, "row 5: column 'cost' is -1; a cost is at least 0"),
        ("cost", None, "row 5: column 'cost' is missing"),
        ("propensity", 0.0, "row 5: column 'propensity' is 0; a propensity lies between 0 and 1"),
        ("propensity", 1.0, r"row 5: column 'propensity' is 1; .*nothing else could happen"),
        ("arm", -2, "row 5: column 'arm' is -2; arms are numbered from 0"),
        ("arm", 8, "arm [67]: nobody got it, so its effect cannot be learnt"),
        ("loyalty", float("inf"), "row 5: column 'loyalty' is infinite"),
    ],
)
def test_bad_rows_are_one_line(reward_log: Path, tmp_path: Path, column: str, value: object, message: str) -> None:
    log = broken(reward_log, tmp_path / "log", column, 5, value)
    with pytest.raises(UserError, match=message) as caught:
        fit.run(fit.arguments_of("--data", log, "--out", tmp_path / "run"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_asked_is_one_line(reward_log: Path, tmp_path: Path) -> None:
    def asked(*words: str) -> None:
        fit.run(fit.arguments_of("--data", reward_log, "--out", tmp_path / "run", *words))

    with pytest.raises(UserError, match="no outcome 'joy'; the log has retained, minutes"):
        asked("--outcomes", "joy=1")
    with pytest.raises(UserError, match="goes with fit_on randomised"):
        asked("--propensities", "logged")
    with pytest.raises(UserError, match="budget is -1"):
        asked("--budget", "-1")
    with pytest.raises(UserError, match="no system 'incentive': did you mean incentives"):
        asked("--system", "incentive")
    schema = json.loads((reward_log / "schema.json").read_text())
    log = Path(shutil.copytree(reward_log, tmp_path / "bare"))
    (log / "schema.json").write_text(json.dumps({k: v for k, v in schema.items() if k != "treatment"}))
    with pytest.raises(UserError, match=r"schema.json: names no 'treatment' columns"):
        fit.run(fit.arguments_of("--data", log, "--out", tmp_path / "run"))


def test_a_budget_below_the_cheapest_plan_is_refused(tmp_path: Path) -> None:
    words = ["--world", "incentives", "--rows", "3000", "--users", "2500", "--strategies", "grid"]
    make_data.run(parse(make_data.options_for, [*words, "--out", str(tmp_path / "log")]))
    with pytest.raises(UserError, match=r"budget is 0.05 a user, but the cheapest strategy of each comes to 0\.2"):
        fit.run(fit.arguments_of("--data", tmp_path / "log", "--out", tmp_path / "run", "--budget", "0.05"))


def test_the_sensitive_get_effects_of_their_own_from_their_rows_alone() -> None:
    """With few rows the common model serves them; with enough, theirs is what their rows alone give."""
    draws = np.random.default_rng(0)
    rows = 4000
    x_RF = np.column_stack([draws.normal(size=rows), draws.random(rows) < 0.4]).astype(np.float32)
    arm_R = draws.integers(0, 3, rows)
    effect_R = np.where(x_RF[:, 1] > 0.5, -0.5, 1.0) * arm_R
    arrays = {"x": x_RF, "arm": arm_R, "treatment": np.array([[0.0], [1.0], [2.0]])[arm_R], "cost": arm_R * 1.0,
              "randomised": np.ones(rows, bool), "propensity": np.full(rows, 1 / 3),
              "outcome.y": effect_R + draws.normal(0, 0.1, rows)}  # fmt: skip
    plain = {
        "outcomes": ("y=1",),
        "fit_on": "randomised",
        "propensities": "logged",
        "own": 1,
        "dml": DMLSettings(degree=1, basis="constant", penalty=0.0),
        "nuisances": NuisanceSettings("linear"),
    }
    found = {least: IncentiveEffects.fit(EffectSettings(**plain, own_rows=least), arrays, 0) for least in (1000, 5000)}  # type: ignore[arg-type]
    ask_RF = np.array([[0, 0], [0, 1]], np.float32)
    assert found[1000].effects(ask_RF)[1] == pytest.approx([0, -0.5, -1.0], abs=0.03)
    assert not found[5000].facts["own"]
    assert (found[5000].effects(ask_RF)[0] == found[5000].effects(ask_RF)[1]).all()
    again = IncentiveEffects.restore(found[1000].settings, *found[1000].state())
    np.testing.assert_array_equal(again.effects(ask_RF), found[1000].effects(ask_RF))
    with pytest.raises(UserError, match="own is 7, but there are 2 numeric features"):
        IncentiveEffects.fit(EffectSettings(**(plain | {"own": 7})), arrays, 0)  # type: ignore[arg-type]


def test_check_counts_rows_by_arm(tmp_path, capsys) -> None:
    """A part's counts may be a list, one an arm."""
    log = tmp_path / "log"
    make_data.run(parse(make_data.options_for, ["--world", "incentives", "--rows", "600", "--out", str(log)]))
    capsys.readouterr()
    summary = check.run(check.Arguments(data=str(log), problem="dragonnet"))
    arms = next(value for value in summary["parts"]["train"].values() if isinstance(value, list))
    assert " ".join(f"{one:,}" for one in arms) in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arm": lambda table: np.zeros(len(table), int)}, "log/train: arm 0 is the only one"),
        ({"randomised": lambda table: np.zeros(len(table), int)}, "no row of the judging part is randomised"),
        ({"randomised": lambda table: np.full(len(table), 2)}, "row 0: column 'randomised' is 2, must be 0 or 1"),
        ({"cost": lambda table: np.full(len(table), 3.0)}, "budget is 1 a user, but the cheapest"),
        ({"propensity": None}, "schema.json: names no 'propensity'"),
        ({"cost": None}, "schema.json: names no 'cost'"),
    ],
)
def test_what_no_fit_could_use_is_refused_before_any_worker_starts(tmp_path, monkeypatch, change, message) -> None:
    log, random = tmp_path / "log", np.random.default_rng(0)
    keys = {key: key for key in ("arm", "propensity", "randomised", "cost") if change.get(key, key) is not None}
    log.mkdir()
    schema = {"format": "counterpoint.schema", "version": 2, "name": "own", "categorical": [],
              "numeric": ["age"], "labels": {},
              "treatment": keys, "outcome": {"retained": "stayed"}}  # fmt: skip
    (log / "schema.json").write_text(json.dumps(schema))
    for part in ("train", "test"):
        (log / part).mkdir()
        arm_R = random.integers(0, 3, 90)
        table = pa.table({"age": random.normal(size=90), "arm": arm_R, "propensity": np.full(90, 1 / 3),
                          "randomised": np.ones(90, int), "cost": arm_R * 0.5,
                          "stayed": random.integers(0, 2, 90)})  # fmt: skip
        for name, made in change.items():
            if made is not None:
                table = table.set_column(table.column_names.index(name), name, pa.array(made(table)))
        pq.write_table(table, log / part / "a.parquet")
    monkeypatch.setattr(fit, "map_of", lambda workers: pytest.fail("workers were started"))
    out = tmp_path / "run"
    with pytest.raises(UserError, match=message) as raised:
        fit.run(fit.arguments_of("--data", log, "--out", out, "--workers", "1", "--outcomes", "retained=1"))
    assert "\n" not in str(raised.value)
    assert not out.exists()
