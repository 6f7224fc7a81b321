"""Balance of weighed clicks against its formula, its expectation and the coverage of its interval."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, logit

from funnel.ranking.balance import balance_of
from funnel.ranking.scored_part import CLICK, ScoredPart


def part_of(place: Path, seed: int, rows: int = 3000, error: float = 0.0, users: bool = True) -> ScoredPart:
    """Clicks drawn with propensity q; the model says logit q, off by `error` times its pCVR's logit."""
    rng = np.random.default_rng(seed)
    found = ScoredPart(place, 1, users, False, bucket_rows=10**6)
    kept = np.zeros(rows, found.dtype)
    cvr_R, q_R = rng.normal(size=rows), expit(rng.normal(-1, 1, rows))
    kept["user"] = rng.integers(0, 200, rows)
    kept["cvr"], kept["ctr"] = cvr_R, logit(q_R) + error * cvr_R
    kept["labels"] = CLICK * (rng.random(rows) < q_R)
    found.add(kept)
    return found


def codes(rows: np.ndarray) -> np.ndarray:
    return (rows["cvr"] > 0).astype(np.int16)


def test_it_is_its_formula(tmp_path: Path) -> None:
    part = part_of(tmp_path, 0)
    rows = next(part.read())
    for slice_, figures in enumerate(balance_of(part, 0.1, codes, 2)):
        own = rows[codes(rows) == slice_]
        weight = (own["labels"] & CLICK > 0) / np.maximum(expit(own["ctr"].astype(float)), 0.1)
        for name, phi in (("rows", np.ones(len(own))), ("pcvr", expit(own["cvr"].astype(float)))):
            ratio = (weight * phi).sum() / phi.sum()
            assert figures[f"balance.{name}"] == pytest.approx(ratio)
            residual = [((weight - ratio) * phi)[own["user"] == user].sum() for user in np.unique(own["user"])]
            half = 1.96 * np.sqrt(np.square(residual).sum()) / phi.sum()
            assert figures[f"balance.{name}.high"] - ratio == pytest.approx(half)


def test_its_interval_covers_1_where_propensities_are_true(tmp_path: Path) -> None:
    covered = 0
    for seed in range(200):
        figures = balance_of(part_of(tmp_path, seed), 0.0, codes, 2)[1]
        covered += figures["balance.pcvr.low"] < 1 < figures["balance.pcvr.high"]
    assert 180 <= covered <= 199
    wrong = balance_of(part_of(tmp_path, 1, error=0.5), 0.0, codes, 2)
    assert wrong[1]["balance.pcvr.high"] < 1 < wrong[0]["balance.pcvr.low"]


def test_a_slice_without_rows_has_none_and_rows_stand_for_users(tmp_path: Path) -> None:
    assert balance_of(part_of(tmp_path, 2), 0.0, codes, 3)[2] == {}
    by_row, by_user = (balance_of(part_of(tmp_path, 2, users=own), 0.0, codes, 2)[0] for own in (False, True))
    assert by_row["balance.rows"] == pytest.approx(by_user["balance.rows"])


def test_a_single_user_has_no_interval(tmp_path: Path) -> None:
    rows = next(part_of(tmp_path / "many", 3).read())
    own = rows[rows["user"] == rows["user"][0]]
    assert len(own) > 1
    one = ScoredPart(tmp_path / "one", 1, True, False, bucket_rows=10**6)
    one.add(own)
    found = balance_of(one, 0.0, lambda rows: np.zeros(len(rows), np.int16), 1)[0]
    assert sorted(found) == ["balance.pcvr", "balance.rows"]
