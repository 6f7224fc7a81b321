"""Fusion and its metrics against a slow reference, request by request in plain Python; the split; the bootstrap."""

import dataclasses
import math

import numpy as np
import pytest

from es.config import ESConfig
from es.engine import run
from funnel.fusion.evaluation import best_single, compare, split_users
from funnel.fusion.objective import Fusion, ScoredLog, ScoreFusion
from funnel.lists import request_blocks
from funnel.lists.request_blocks import Requests, padded_length, ranks_within

NAMES = ("pctr", "pcvr", "pctcvr")


def make_log(requests=60, longest=40, seed=0, click=0.15, ties=False):
    """Requests of 1..longest candidates, rows of a request scattered over the file; some requests have no click."""
    generator = np.random.default_rng(seed)
    request = generator.permutation(np.repeat(np.arange(requests), generator.integers(1, longest + 1, requests)))
    request = np.unique(request, return_inverse=True)[1]
    rows = len(request)
    relevance = generator.standard_normal(rows)
    scores = np.exp(generator.standard_normal((2, rows)) * 0.7 + 0.5 * relevance - 3)
    scores = np.stack([*scores, scores[0] * scores[1]]).astype(np.float32)
    if ties:
        scores = np.round(scores, 1)
    clicks = generator.random(rows) < click * np.exp(relevance - 0.5)
    reward = clicks * (1 + 10 * (generator.random(rows) < 0.3))
    users = generator.integers(0, requests // 3, requests)
    return ScoredLog(
        NAMES, scores, reward.astype(np.float32), request, np.unique(users[request], return_inverse=True)[1]
    )


def slow_metric(log, fused, metric, k):
    """One policy's metric of each request, by sorting Python lists; requests without reward: 0 (value), None (NDCG)."""
    result = []
    for request in range(int(log.request_C.max()) + 1):
        rows = np.flatnonzero(log.request_C == request).tolist()
        order = sorted(rows, key=lambda row: -fused[row])  # stable: ties by their order in the file
        rewards = [float(log.reward_C[row]) for row in order]
        if metric == "value":
            result.append(sum(rewards[:k]))
            continue
        dcg = sum(reward / math.log2(rank + 2) for rank, reward in enumerate(rewards[:k]))
        ideal = sum(reward / math.log2(rank + 2) for rank, reward in enumerate(sorted(rewards, reverse=True)[:k]))
        result.append(dcg / ideal if ideal else None)
    return result


def slow_fuse(kind, log, values, names):
    """The formulas of the module, candidate by candidate, in float64."""
    value = dict(zip(names, values, strict=True))
    fused = []
    for row in range(len(log.request_C)):
        scores = {name: float(log.scores_MC[i, row]) for i, name in enumerate(log.names)}
        if kind == "product":
            parts = [(p + value[f"bias.{n}"]) ** value[f"exponent.{n}"] for n, p in scores.items()]
            fused.append(math.prod(parts))
        elif kind == "sum":
            deviation = {name: log.scores_MC[i].astype(np.float64).std() for i, name in enumerate(log.names)}
            fused.append(sum(value[f"weight.{n}"] * p / deviation[n] for n, p in scores.items()))
        else:
            same = log.request_C == log.request_C[row]
            total = 0.0
            for i, name in enumerate(log.names):
                higher = int((log.scores_MC[i][same] > log.scores_MC[i, row]).sum())
                equal = int((log.scores_MC[i][same] == log.scores_MC[i, row]).sum())
                total += value[f"weight.{name}"] / (higher + (equal + 1) / 2 + value["offset"])
            fused.append(total)
    return fused


def fused_by_us(fusion, log, values):
    """Scores of each row, taken from the vectorised function with every candidate a slot of one request."""
    features = fusion.features(log)
    return fusion.score(np.atleast_2d(values))(features[:, :, None, None])[:, 0, 0]


@pytest.mark.parametrize("kind", ["product", "sum", "rank"])
@pytest.mark.parametrize("metric", ["value", "ndcg"])
def test_equals_the_slow_reference(kind, metric):
    log, k = make_log(), 5
    fusion = Fusion.fit(kind, log)
    objective = ScoreFusion(log, fusion, metric, k)
    theta = 0.5 * np.random.default_rng(1).standard_normal((4, fusion.policy.dimension)).astype(np.float32)
    values = fusion.policy.decode(theta)
    result = objective.evaluate_batch(theta, np.zeros(4, np.uint64))
    for row in range(4):
        slow = slow_fuse(kind, log, values[row], fusion.policy.names)
        ours = fused_by_us(fusion, log, values[row])
        np.testing.assert_allclose(
            np.log(ours) if kind == "rank" else ours, np.log(slow) if kind != "sum" else slow, rtol=2e-5, atol=2e-5
        )
        expected = [value for value in slow_metric(log, ours, metric, k) if value is not None]
        np.testing.assert_allclose(result[row], np.mean(expected), rtol=1e-6)


@pytest.mark.parametrize("sorts", [False, True])
@pytest.mark.parametrize("metric", ["value", "ndcg"])
@pytest.mark.parametrize("k", [1, 3, 10, 100])
def test_ties_are_broken_by_the_order_in_the_file(sorts, metric, k, monkeypatch):
    monkeypatch.setattr(request_blocks, "SORT_ABOVE", -1 if sorts else 10**9)
    log = make_log(ties=True, seed=2)
    requests = Requests.build(log.request_C, log.scores_MC, log.reward_C, k)
    assert all(block.sorts == sorts for block in requests.blocks)
    per = requests.per_request(lambda part: lambda features: features[part, :, 0].transpose(1, 0, 2).copy(), 3, metric)
    for score in range(3):
        expected = [value or 0.0 for value in slow_metric(log, log.scores_MC[score], metric, k)]
        np.testing.assert_allclose(per[score], expected, rtol=1e-6)


def test_bits_do_not_depend_on_the_batch(monkeypatch):
    log = make_log(seed=3, ties=True)
    for kind in ("product", "sum", "rank"):
        objective = ScoreFusion(log, Fusion.fit(kind, log), "ndcg", 10)
        theta = 0.3 * np.random.default_rng(0).standard_normal((13, len(objective.initial()))).astype(np.float32)
        seeds = np.zeros(13, np.uint64)
        monkeypatch.setattr(request_blocks, "CHUNK_FLOATS", 2**18)
        together = objective.evaluate_batch(theta, seeds)
        apart = np.concatenate([objective.evaluate_batch(theta[i : i + 1], seeds[:1]) for i in range(13)])
        np.testing.assert_array_equal(together, apart)
        monkeypatch.setattr(request_blocks, "CHUNK_FLOATS", 500)
        np.testing.assert_array_equal(together, objective.evaluate_batch(theta, seeds))


def test_perfect_and_opposite_orders():
    reward = np.array([0, 3, 1, 0, 0, 2.0], np.float32)
    request = np.array([0, 0, 0, 1, 1, 1])
    for sign, ndcg, value in ((1, 1.0, (3 + 2) / 2), (-1, None, 0.0)):
        requests = Requests.build(request, sign * reward[None], reward, 1)
        score = lambda part: lambda features: features[0]  # noqa: E731
        assert requests.mean(score, 1, "value")[0] == pytest.approx(value)
        if ndcg is not None:
            assert requests.mean(score, 1, "ndcg")[0] == pytest.approx(ndcg)


def test_ranks_within_a_request():
    request = np.array([1, 0, 1, 1, 0, 1])
    scores = np.array([5.0, 2.0, 7.0, 5.0, 3.0, 1.0])
    np.testing.assert_array_equal(ranks_within(request, scores), [2.5, 2, 1, 2.5, 1, 4])


def test_padding_is_bounded():
    lengths = np.arange(1, 5000)
    padded = padded_length(lengths)
    assert (padded >= lengths).all()
    assert (padded <= lengths * 1.125 + 1e-9).all()
    np.testing.assert_array_equal(padded[:16], lengths[:16])
    assert len(np.unique(padded)) < 16 + 8 * 9 + 1


def test_untuned_orders_as_documented():
    log = make_log()
    zero = np.zeros(6, np.float32)
    product = Fusion.fit("product", log)
    assert [*product.policy.values(zero).values()][:3] == [1.0, 1.0, 1.0]
    assert [*Fusion.fit("sum", log).policy.values(zero[:3]).values()] == [1.0] * 3
    assert [*Fusion.fit("rank", log).policy.values(zero[:4]).values()] == [1.0, 1.0, 1.0, 10.0]


def test_what_cannot_be_tuned_is_said():
    log = make_log(longest=5)
    fusion = Fusion.fit("sum", log)
    with pytest.raises(ValueError, match="no request with a click has more than 5 candidates"):
        ScoreFusion(log, fusion, "value", 5)
    ScoreFusion(log, fusion, "ndcg", 5)
    with pytest.raises(ValueError, match="no click or conversion"):
        ScoreFusion(dataclasses.replace(log, reward_C=log.reward_C * 0), fusion, "value", 2)
    single = log.part(np.unique(log.request_C, return_index=True)[1])
    with pytest.raises(ValueError, match="single candidate"):
        ScoreFusion(single, fusion, "ndcg", 5)
    with pytest.raises(ValueError, match="'pcvr' has negative values"):
        Fusion.fit(
            "product", dataclasses.replace(log, scores_MC=log.scores_MC * np.array([[1], [-1], [1]], np.float32))
        )


def test_the_split_follows_the_user_and_not_the_file():
    keys = np.random.default_rng(0).permutation(10_000).astype(np.uint64)
    tune = split_users(keys, seed=1)
    assert tune.sum() == 5000
    shuffled = np.random.default_rng(1).permutation(len(keys))
    np.testing.assert_array_equal(split_users(keys[shuffled], seed=1), tune[shuffled])
    agreement = (split_users(keys, seed=2) == tune).mean()
    assert abs(agreement - 0.5) < 5 * 0.5 / np.sqrt(len(keys))
    assert sorted(split_users(keys[:2], seed=1)) == [False, True]
    with pytest.raises(ValueError, match="1 user in all"):
        split_users(keys[:1], seed=1)


def test_comparison_is_of_the_test_half_and_says_its_verdict():
    log = make_log(requests=600, seed=5)
    tune, test = (log.part(mask) for mask in (log.user_C % 2 == 0, log.user_C % 2 == 1))
    fusion, k = Fusion.fit("sum", tune), 3
    single = best_single(tune, "value", k)
    on_tune = [np.mean(slow_metric(tune, tune.scores_MC[i], "value", k)) for i in range(3)]
    assert (single.index, single.on_tune) == (int(np.argmax(on_tune)), pytest.approx(max(on_tune)))
    theta = np.array([0.3, -0.2, -1.0], np.float32)
    figures = compare(test, fusion, theta, single, "value", k)
    tuned = fused_by_us(fusion, test, fusion.policy.decode(theta[None])[0])
    assert figures["fusion.value_at_3.tuned"] == pytest.approx(np.mean(slow_metric(test, tuned, "value", k)))
    ndcg = [value for value in slow_metric(test, test.scores_MC[single.index], "ndcg", k) if value is not None]
    assert figures["fusion.ndcg_at_3.best_single"] == pytest.approx(np.mean(ndcg))
    for key in ("tuned", "untuned", "best_single", "gain_over_untuned", "gain_over_best_single"):
        for metric in ("value", "ndcg"):
            name = f"fusion.{metric}_at_3.{key}"
            assert figures[f"{name}.low"] <= figures[name] <= figures[f"{name}.high"]
    gain = figures["fusion.value_at_3.tuned"] - figures["fusion.value_at_3.untuned"]
    assert figures["fusion.value_at_3.gain_over_untuned"] == pytest.approx(gain)
    same = compare(test, fusion, np.zeros(3, np.float32), single, "value", k)
    assert same["fusion.value_at_3.gain_over_untuned"] == same["fusion.value_at_3.gain_over_untuned.high"] == 0
    assert not same["fusion.significant"]
    assert "not significant" in same["message"]


def test_tuning_finds_the_score_that_carries_the_reward():
    """Only the first score says anything: tuning beats the untuned mixture on the half it has not seen."""
    generator = np.random.default_rng(0)
    request = np.repeat(np.arange(800), 20)
    good, noise = generator.standard_normal(request.size), generator.standard_normal((2, request.size))
    reward = generator.random(request.size) < 0.2 / (1 + np.exp(-2 * good))
    scores = np.stack([good, *noise]).astype(np.float32)
    log = ScoredLog(NAMES, scores, reward.astype(np.float32), request, request // 2)
    tune, test = (log.part(mask) for mask in (log.user_C % 2 == 0, log.user_C % 2 == 1))
    fusion = Fusion.fit("sum", tune)
    result = run(ScoreFusion(tune, fusion, "value", 5), ESConfig(generations=40, pairs=16))
    figures = compare(test, fusion, result.theta, best_single(tune, "value", 5), "value", 5)
    assert figures["fusion.best_single_name"] == "pctr"
    assert figures["fusion.value_at_5.gain_over_untuned.low"] > 0
    assert abs(figures["fusion.value_at_5.gain_over_best_single"]) < 0.05 * figures["fusion.value_at_5.tuned"]
