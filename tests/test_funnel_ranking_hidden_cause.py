"""The strength of a hidden cause, estimated from clicks that were drawn with a known one."""

import numpy as np
import pytest
from scipy.special import expit, logit

from funnel.ranking import hidden_cause
from funnel.ranking.hidden_cause import (
    COVERED,
    NEGATIVE,
    PLAUSIBLE,
    WIDEST,
    Z95,
    Clicks,
    Likelihood,
    click_logit_within,
    climbed,
    decide,
    estimate,
    fit,
    grid,
    judge,
    unclaimed,
)


def drawn(seed: int, strength: float, sells: float = 0.0, rows: int = 40_000, instrument: float = 1.5) -> Clicks:
    """Clicks of a log with p(x), u(x) and an instrument s(z), and the logits that a perfect model would give them."""
    rng = np.random.default_rng([7, seed])
    interest_R, fit_R, shift_R = rng.normal(size=rows), rng.normal(size=rows), instrument * rng.normal(size=rows)
    v_R = strength * rng.normal(size=rows)
    a_R, b_R = -1.0 + interest_R + shift_R, -0.5 + 0.8 * interest_R + 0.5 * fit_R
    click_R = rng.random(rows) < expit(a_R + v_R)
    label_R = (rng.random(rows) < expit(b_R + v_R + sells * shift_R)).astype(float)
    node_1K, weight_K = grid()
    m_R = logit(expit(a_R[:, None] + strength * node_1K) @ weight_K)
    chosen = tuple(x[click_R] for x in (m_R, shift_R, b_R, label_R))
    return Clicks(*chosen, np.arange(rows)[click_R] % 3000, np.ones(int(click_R.sum())))


def test_the_click_logit_within_gives_back_the_probability() -> None:
    m_R = np.linspace(-7, 7, 41)
    node_1K, weight_K = grid()
    for theta in (0.0, 0.5, 2.0, 9.0):
        inside_RK = expit(click_logit_within(m_R, theta)[:, None] + np.sqrt(theta) * node_1K)
        np.testing.assert_allclose(logit(inside_RK @ weight_K), m_R, atol=1e-5)


def test_slopes_are_those_of_differences() -> None:
    likelihood = Likelihood(drawn(0, 1.0, rows=2000), with_shift=True)
    point_P = np.array([0.6, -0.2, 0.9, 0.1, 0.05, 0.2])
    slope_P = likelihood.total(point_P)[1]
    for index, slope in enumerate(slope_P):
        step_P = np.zeros(6)
        step_P[index] = 1e-5
        difference = (likelihood.total(point_P + step_P)[0] - likelihood.total(point_P - step_P)[0]) / 2e-5
        assert slope == pytest.approx(difference, abs=1e-6)


@pytest.mark.parametrize(("strength", "claimed"), [(1.0, True), (0.0, False)])
def test_a_known_cause_lies_in_the_interval(strength: float, claimed: bool) -> None:
    figures, reason = judge(drawn(3, strength))
    assert figures["theta.low"] < strength**2 < figures["theta.high"]
    assert figures["theta.high"] - figures["theta.low"] < 1.5
    assert figures["claimed"] is claimed, (figures, reason)
    assert ("covers 0" in reason) is not claimed
    assert figures["exclusion.low"] < 0 < figures["exclusion.high"]


def test_a_claim_needs_a_narrow_interval_or_three_errors() -> None:
    assert unclaimed(Z95 * WIDEST + 1e-9, WIDEST) == ""
    assert unclaimed(Z95 * WIDEST - 1e-9, WIDEST) == COVERED == unclaimed(-0.1, 0.2)
    assert unclaimed(-1.0, 0.2) == NEGATIVE
    assert "known to ±0.65 only" in unclaimed(0.95, 0.33)
    assert "known to" in unclaimed(3 * 0.26 - 1e-9, 0.26)
    assert unclaimed(3 * 0.26 + 1e-9, 0.26) == ""


def test_near_0_the_likelihood_has_one_slope() -> None:
    """From the left and from the right: so that a standard error means something where there is no cause."""
    likelihood = Likelihood(drawn(4, 0.0, rows=6000), with_shift=False)
    beta_P = climbed(likelihood, 5)[1:]

    def curvature(step: float) -> float:
        below, at, above = (likelihood.total(np.append(theta, beta_P))[0] for theta in (-step, 0.0, step))
        return float((above - 2 * at + below) / step**2)

    assert curvature(0.2) > 0
    assert curvature(0.02) == pytest.approx(curvature(0.2), rel=0.3)  # a kink's would grow tenfold


@pytest.mark.slow
def test_instruments_must_hold_on_rows_not_learnt_from() -> None:
    seen, other = drawn(3, 1.0), drawn(1, 1.0, sells=0.5)
    assert decide(seen, drawn(6, 1.0, rows=8000))[1] == ""
    figures, reason = decide(seen, other)
    assert not figures["claimed"]
    assert figures["exclusion.low"] > 0
    assert "not learnt from" in reason


@pytest.mark.slow
def test_a_theta_below_0_is_not_claimed() -> None:
    """Clicks of instruments that sell, too few for their test: theta is far below 0, and nothing is claimed of it."""
    figures, reason = estimate(drawn(2, 0.0, sells=0.25, rows=9000))
    assert figures["theta.high"] < 0
    assert figures["theta"] > -PLAUSIBLE
    assert reason == NEGATIVE
    assert decide(drawn(2, 0.0, sells=0.25, rows=9000), drawn(3, 0.0, rows=2000))[0]["claimed"] is False


@pytest.mark.slow
def test_instruments_that_sell_are_found_out() -> None:
    figures, reason = judge(drawn(1, 1.0, sells=0.5))
    assert figures["exclusion.low"] > 0
    assert not figures["claimed"]
    assert "not valid" in reason


def test_nothing_is_claimed_of_weak_instruments_or_few_clicks() -> None:
    figures, reason = judge(drawn(2, 1.0, instrument=0.01, rows=20_000))
    assert "theta" not in figures
    assert "hardly move clicks" in reason
    figures, reason = judge(drawn(2, 1.0, rows=500))
    assert "theta" not in figures
    assert "fewer than" in reason


def test_a_theta_at_its_bound_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hidden_cause, "PLAUSIBLE", 0.5)
    figures, reason = judge(drawn(3, 1.0, rows=8000))
    assert not figures["claimed"]
    assert "exclusion" not in figures
    assert "theta is beyond 0.5" in reason


def test_errors_are_by_user() -> None:
    """Each click twice, as two rows of its user, has the errors of once."""
    once = drawn(5, 0.7, rows=20_000)
    numbered = Clicks(*(getattr(once, n) for n in ("click_R", "shift_R", "conversion_R", "label_R")),
                      np.arange(len(once.label_R)), once.weight_R)  # fmt: skip
    twice = Clicks(*(np.tile(getattr(numbered, n), 2) for n in ("click_R", "shift_R", "conversion_R", "label_R",
                                                                 "user_R", "weight_R")))  # fmt: skip
    (one_P, error_P), (two_P, errors_P) = fit(numbered), fit(twice)
    np.testing.assert_allclose(one_P, two_P, atol=2e-3)
    np.testing.assert_allclose(error_P, errors_P, rtol=2e-2)
