"""jobs.evolve --objective off_policy on a Parquet file of logged actions: what it learns, tells and refuses."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_jobs_report import report

from data.errors import UserError
from es.config import ESConfig
from es.engine import run as evolve
from funnel.off_policy.evaluation import compare_policies
from funnel.off_policy.tuning import FileSettings, OffPolicyTuning
from funnel.settings import read
from jobs.evolve import Arguments, run
from jobs.evolve.options import fill

MAILS = ["none", "sports", "fashion"]


def logged(rounds, seed=0):
    """Who got which mail, by a policy that favours none; sports pays for those with x > 0, fashion in town."""
    generator = np.random.default_rng(seed)
    x, town = generator.normal(3, 2, rounds), generator.random(rounds) < 0.4
    propensities = np.array([0.5, 0.3, 0.2])
    action = generator.choice(3, size=rounds, p=propensities)
    worth = 1.0 + 0.5 * np.where(action == 1, np.sign(x - 3), 0) + np.where(action == 2, town - 0.6, 0)
    return pa.table(
        {
            "segment": pa.array([MAILS[each] for each in action]),
            "p": propensities[action],
            "spend": worth + 0.3 * generator.standard_normal(rounds),
            "recency": x,
            "town": pa.array(np.where(town, "yes", "no")),
        }
    )


ROLES = {"action": "segment", "propensity": "p", "reward": "spend"}
SET = {**ROLES, "features": ["recency", "town"]}


def arguments(out, path, **settings):
    engine = {"workers": 0, "generations": 40, "pairs": 16, "learning_rate": 0.2}
    config, own = fill(FileSettings, {**engine, "data": str(path), **SET, **settings}, "")
    return Arguments(out=out, objective="off_policy", resamples=100, config=config, settings=own)


def opened(path, searching=False, **settings):
    return OffPolicyTuning.open(read(FileSettings, {"data": str(path), **ROLES, **settings}), 3, searching)


def test_a_policy_is_learnt_told_and_judged_on_rounds_held_out(tmp_path, capsys):
    path = tmp_path / "log.parquet"
    pq.write_table(logged(3000), path)
    out = tmp_path / "run"
    summary = run(arguments(out, path, estimator="dr"))
    assert summary["off_policy.significant"] is True
    # The best policy earns .5 * 1.5 (sports) + .5 * (.4 * 1.4 (fashion) + .6 * 1 (none)) = 1.33.
    assert 1.25 < summary["off_policy.learnt"] < 1.37
    assert summary["off_policy.best_constant_action"] in MAILS
    assert summary["off_policy.rounds"] == 1500
    assert "significant" in capsys.readouterr().out
    assert "action" not in summary["message"]  # but its name
    policy = json.loads((out / "policy.json").read_text())
    assert policy["actions"] == sorted(MAILS)
    assert policy["features"] == ["1", "recency", "town=yes"]
    weights = dict(zip(policy["features"], np.array(policy["weights"]), strict=True))
    fashion, _none, sports = range(3)
    assert weights["recency"].argmax() == sports
    assert weights["town=yes"].argmax() == fashion
    assert policy["moments"][1]["mean"] == pytest.approx(3, abs=0.15)
    record = json.loads((out / "run.json").read_text())
    assert record["data"] == {"location": str(path), "rows": 3000}
    assert run(Arguments(resume=out))["off_policy.learnt"] == summary["off_policy.learnt"]
    page = report(tmp_path, out)
    assert summary["message"] in page.text
    assert path.name in page.text


def test_what_the_numbers_of_the_context_are(tmp_path):
    path = tmp_path / "log.parquet"
    table = logged(40).append_column("vip", pa.array([True, False] * 20)).append_column("size", pa.array([7] * 40))
    pq.write_table(table, path)
    found = opened(path, features=["recency", "town", "vip", "size"])
    assert found.features == ["1", "recency", "town=yes", "vip=True", "size"]
    parts = [found.objective.log, found.stop, found.held_out["test"]]
    assert [len(part.reward_R) for part in parts] == [14, 6, 20]
    joined = np.concatenate([part.context_FR for part in parts], axis=1)
    np.testing.assert_allclose(found.objective.log.context_FR[1].mean(), 0, atol=1e-6)
    np.testing.assert_allclose(found.objective.log.context_FR[1].std(), 1, rtol=1e-5)
    np.testing.assert_array_equal(joined[4], 0)  # constant: no information, and no division by 0
    assert joined[3].sum() == 20
    chosen = opened(path, features=["recency"])
    assert chosen.features == ["1", "recency"]
    constant = opened(path, propensity="0.25", features=["p"])
    assert set(constant.held_out["test"].propensity_R) == {0.25}
    assert constant.features == ["1", "p"]  # then a column like any other


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        (
            {},
            {"action": "mail"},
            r"has no column 'mail' \(--action\): it has segment, p, spend, recency, town$",
        ),
        ({}, {"features": ["spend"]}, "--features spend: 'spend' is what is to be chosen or predicted"),
        ({}, {"features": []}, r"--features A B is needed .* has segment, p, spend, recency, town$"),
        ({}, {"features": ["age"]}, r"has no column 'age' \(--features\)"),
        ({}, {"estimator": "best"}, "estimator is 'best', which is not .*'ips', 'clipped', 'snips' or 'dr'"),
        ({}, {"clip": 0}, "clip is 0.0: it must be above 0"),
        ({}, {"propensity": "0"}, r"log\.parquet: propensity of round 0 cannot be used \(40 rounds in all\)"),
        ({"p": [0.5] * 7 + [1.5] * 33}, {}, r"log\.parquet: propensity of round 7 cannot be used"),
        ({"spend": [1.0, None] * 20}, {}, r"column 'spend', row 1: empty \(20 such rows\)"),
        ({"spend": [1.0] * 5 + [float("nan")] * 35}, {}, "column 'spend', row 5: nan is not a finite number"),
        ({"spend": ["much"] * 40}, {}, "column 'spend' is string: numbers are wanted"),
        ({"segment": ["none"] * 40}, {}, "column 'segment' has 1 distinct values: 2 to 1000 actions are wanted"),
        ({"segment": [0.5, 1.5] * 20}, {}, "column 'segment' is double: whole numbers, text or yes/no are wanted"),
        ({"recency": [f"place {i}" for i in range(60)]}, {}, "column 'recency' has 60 distinct values: 2 to 50 values"),
    ],
)
def test_mistakes_are_named(tmp_path, change, settings, message):
    path = tmp_path / "log.parquet"
    rows = max([40, *(len(values) for values in change.values())])
    table = logged(rows)
    for name, values in change.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    pq.write_table(table, path)
    with pytest.raises(ValueError, match=message) as caught:
        run(arguments(tmp_path / "run", path, **settings))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_none_and_one_too_short(tmp_path):
    path = tmp_path / "log.parquet"
    with pytest.raises(ValueError, match=r"--data .*log\.parquet: no such file"):
        run(arguments(tmp_path / "run", path))
    path.write_text("not parquet")
    with pytest.raises(ValueError, match=r"log\.parquet: not readable as Parquet \(") as caught:
        run(arguments(tmp_path / "run", path))
    assert "\n" not in str(caught.value)
    pq.write_table(logged(9), path)
    with pytest.raises(ValueError, match="9 rounds, half of them to judge by: too few"):
        run(arguments(tmp_path / "run", path))


def test_a_search_never_sees_the_test_rounds(tmp_path):
    path = tmp_path / "log.parquet"
    pq.write_table(logged(400), path)
    plain, search = (opened(path, searching, features=["recency"]) for searching in (False, True))
    np.testing.assert_array_equal(plain.held_out["test"].reward_R, search.held_out["test"].reward_R)
    rounds = [len(log.reward_R) for log in (search.objective.log, search.stop, *search.held_out.values())]
    assert rounds == [67, 33, 200, 100]
    theta = np.zeros(len(search.objective.initial()), np.float32)
    figures = search.measure(theta)
    # The policy of theta 0 draws by the log's own shares, those of the rounds learnt from (each counted once more).
    log, fit = search.held_out["valid"], search.objective.log
    share = (np.bincount(fit.action_R) + 1) / (67 + 3)
    weight = share[log.action_R] / log.propensity_R
    assert figures["value"] == pytest.approx((weight * log.reward_R).sum() / weight.sum())
    assert figures["effective_size"] == pytest.approx(weight.sum() ** 2 / (weight**2).sum())
    with pytest.raises(ValueError, match="no figure 'auc' of off_policy: want one of value, effective_size"):
        OffPolicyTuning.smaller_is_better("auc")


def by_user(users, rounds, seed=0):
    """Three actions that change nothing, drawn once a user, whose rounds pay alike."""
    generator = np.random.default_rng(seed)
    action = generator.integers(0, 3, users)
    rate = 1 / (1 + np.exp(2.2 - generator.normal(0, 1, users)))
    user = np.repeat(np.arange(users), rounds)
    return pa.table(
        {
            "segment": pa.array([MAILS[each] for each in action[user]]),
            "p": np.full(len(user), 1 / 3),
            "spend": (generator.random(len(user)) < rate[user]).astype(np.int8),
            "recency": generator.standard_normal(users)[user],
            "user": user,
        }
    )


def test_rounds_of_one_user_stay_together(tmp_path):
    path = tmp_path / "log.parquet"
    pq.write_table(by_user(200, 10), path)
    found = opened(path, features=["recency"], cluster="user")
    parts = found.parts()
    assert [len(part.reward_R) for part in parts] == [670, 330, 1000]
    assert [int(part.cluster_R.max()) + 1 for part in parts] == [67, 33, 100]
    values = [set(part.context_FR[1].tolist()) for part in parts]  # each user's own
    assert [len(each) for each in values] == [67, 33, 100]
    assert not values[0] & values[1]
    assert not (values[0] | values[1]) & values[2]
    assert found.facts()["data"]["clusters"] == 200
    assert not len(opened(path, features=["recency"]).objective.log.cluster_R)
    texts = pq.read_table(path).set_column(4, "user", pa.array([f"u{each}" for each in np.repeat(np.arange(200), 10)]))
    pq.write_table(texts, path)
    same = opened(path, features=["recency"], cluster="user")
    np.testing.assert_array_equal(same.objective.log.cluster_R, found.objective.log.cluster_R)


def test_what_the_search_maximised_is_no_result(tmp_path, capsys):
    """Rewards of chance: the bound that was maximised is neither printed nor shown, the policy stays the anchor."""
    path = tmp_path / "log.parquet"
    generator = np.random.default_rng(1)
    rows = 3000
    table = {
        "segment": pa.array([f"item {each:02}" for each in generator.integers(0, 30, rows)]),
        "p": np.full(rows, 1 / 30),
        "spend": (generator.random(rows) < 0.01).astype(np.int8),
        "recency": generator.standard_normal(rows),
        "town": pa.array(["yes", "no"] * (rows // 2)),
    }
    pq.write_table(pa.table(table), path)
    out = tmp_path / "run"
    summary = run(arguments(out, path, generations=15, pairs=8))
    printed = capsys.readouterr().out
    assert "90 parameters are learnt from" in printed
    assert "rewarded rounds: expect nothing that holds" in summary["message"]
    assert summary["message"].startswith("Nothing learnt held on the 500 rounds set apart")
    assert "keep the log's own shares of actions" in summary["message"]
    assert summary["off_policy.share_of_learnt"] == 0
    assert not summary["off_policy.significant"]
    assert not [line for line in printed.splitlines() if line.startswith("return ")]
    assert str(summary["es.final_return"]) not in printed
    policy = json.loads((out / "policy.json").read_text())
    weights = np.array(policy["weights"])
    assert not weights[1:].any()
    odds = np.exp(weights[0])
    fit = opened(path, features=["recency", "town"])  # of another split: shares differ by chance alone
    shares = np.bincount(fit.objective.log.action_R, minlength=30) / len(fit.objective.log.action_R)
    np.testing.assert_allclose(odds / odds.sum(), shares, atol=0.03)
    page = report(tmp_path, out)
    assert "only the held-out figures are results" in page.text
    assert f"{summary['es.final_return']:.4g}" not in page.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cluster": "customer"}, r"has no column 'customer' \(--cluster\)"),
        ({"cluster": "spend"}, "column 'spend' is double: whole numbers or text are wanted"),
        ({"features": ["recency", "recency"]}, "--features recency: named twice"),
        ({"anchor": "zero"}, "anchor is 'zero', which is not .*'logging', 'best_constant' or 'uniform'"),
        ({"cluster": "town"}, "2 values of --cluster town, half of them to judge by: too few"),
    ],
)
def test_mistakes_about_clusters(tmp_path, settings, message):
    path = tmp_path / "log.parquet"
    pq.write_table(logged(40), path)
    with pytest.raises(UserError, match=message) as caught:
        run(arguments(tmp_path / "run", path, **{"features": ["recency"], **settings}))
    assert "\n" not in str(caught.value)


def test_two_columns_of_one_name(tmp_path):
    table = logged(40)
    pq.write_table(table.append_column("spend", table["p"]), tmp_path / "log.parquet")
    with pytest.raises(UserError, match=r"has 2 columns named 'spend' \(--reward\): which one is meant\?"):
        run(arguments(tmp_path / "run", tmp_path / "log.parquet"))


@pytest.mark.slow
def test_an_action_drawn_once_a_user_gains_nothing(tmp_path):
    """100 users of 20 rounds: 41% false gains by rounds. By users: no more than 3.5% and an interval that covers."""
    above, covered, told = 0, 0, 0
    for seed in range(100):
        path = tmp_path / "log.parquet"
        pq.write_table(by_user(200, 20, seed), path)
        found = opened(path, features=["recency"], cluster="user")
        theta = evolve(
            found.objective, ESConfig(generations=12, pairs=8, seed=seed, sigma=0.3, learning_rate=0.3)
        ).theta
        figures = compare_policies(found.objective, theta, found.held_out["test"])
        for rival in ("logging", "best_constant"):
            key = f"off_policy.gain_over_{rival}"
            if f"{key}.low" in figures:
                told += 1
                above += figures[f"{key}.low"] > 0
                covered += figures[f"{key}.low"] <= 0 <= figures[f"{key}.high"]
        assert not found.judge(theta, 10, 0)["off_policy.significant"]
    assert told > 100
    assert above <= 0.035 * told
    assert covered >= 0.93 * told
