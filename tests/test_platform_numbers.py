"""The platform's arithmetic and draws against independent references."""

import math

import numpy as np
import pytest
from scipy.stats import chisquare, norm

from data.errors import UserError
from data.hashing import splitmix64
from funnel.platform.draws import bits, key, keys, sixteen, uniforms, words
from funnel.platform.numbers import (
    LEVELS,
    STEP,
    chance,
    exponential,
    gumbel_table,
    inner,
    normal_table,
    on_grid,
    ranked,
    top,
)  # fmt: skip
from funnel.platform.uploads import poisson


def test_inner_products_are_exact_in_any_order() -> None:
    rng = np.random.default_rng(1)
    vector_ID, other_RD = on_grid(rng.normal(size=(50, 32)) * 2), on_grid(rng.normal(size=(20, 32)) * 2)
    item_RC = rng.integers(0, 50, (20, 30))
    found_RC = inner(vector_ID, item_RC, other_RD)
    # Whole numbers of STEP^2: the sum is known without rounding.
    whole_ID = np.rint(vector_ID / STEP).astype(np.int64)
    whole_RC = np.einsum("rcd,rd->rc", whole_ID[item_RC], np.rint(other_RD / STEP).astype(np.int64))
    assert np.array_equal(found_RC.astype(np.float64), whole_RC * STEP**2)
    backwards = inner(vector_ID[:, ::-1].copy(), item_RC, other_RD[:, ::-1].copy())
    assert np.array_equal(found_RC, backwards)


@pytest.mark.parametrize("k", [1, 3, 9, 10])
def test_top_takes_the_largest_and_of_equals_the_leftmost(k: int) -> None:
    rng = np.random.default_rng(2)
    score_RC = rng.integers(0, 4, (200, 10)).astype(np.float32)
    score_RC[::7, :8] = -np.inf
    for row, found in zip(score_RC, top(score_RC, k), strict=True):
        wanted = sorted(range(10), key=lambda column: (-row[column], column))[:k]
        assert list(found) == sorted(wanted)
    for row, found in zip(score_RC, ranked(score_RC, k), strict=True):
        assert list(found) == sorted(range(10), key=lambda column: (-row[column], column))[:k]


def test_a_score_that_is_no_number_is_refused() -> None:
    score_RC = np.zeros((2, 5), np.float32)
    score_RC[1, 2] = np.nan
    with pytest.raises(UserError, match="NaN"):
        top(score_RC, 2)


def test_chance_is_the_sigmoid_in_65536ths() -> None:
    x = np.linspace(-20, 20, 4001).astype(np.float32)
    step = np.clip(np.floor(x.astype(np.float64) * 256 + 0.5) / 256, -16, 16)
    wanted = [round(LEVELS / (1 + math.exp(-v))) for v in step]
    assert np.array_equal(chance(x), wanted)
    assert np.abs(exponential(np.float32([0.0, 1.0, 3.5])) - np.exp([0, 1, 3.5])).max() < 0.5 / 16 + 1e-6


def test_tables_are_quantiles() -> None:
    middle = (np.arange(LEVELS) + 0.5) / LEVELS
    assert np.abs(normal_table() - norm.ppf(middle)).max() <= 2.0**-11 + 1e-9
    assert abs(gumbel_table().mean() - np.euler_gamma) < 1e-3
    assert abs(gumbel_table().std() - np.pi / np.sqrt(6)) < 1e-2


def test_draws_are_uniform_and_addressed() -> None:
    base = key(5, 1, 2)
    assert base == key(5, 1, 2)
    assert len({int(key(5, a, b)) for a in range(30) for b in range(30)}) == 900
    row = np.arange(40_000)
    drawn = words(base, row, 6)
    assert drawn.shape == (40_000, 6)
    for column in drawn.T:
        assert chisquare(np.bincount(column >> 12, minlength=16)).pvalue > 1e-4
    assert abs(np.corrcoef(drawn.T.astype(float)) - np.eye(6)).max() < 0.02
    # A row's draws do not depend on the others.
    assert np.array_equal(words(base, row[100:103], 6), drawn[100:103])
    assert abs(uniforms(base, row).mean() - 0.5) < 0.01
    key_R, what = keys(base, row[:2]), np.uint64([[7], [7]])
    assert np.array_equal(bits(key_R, what), splitmix64(what + key_R[:, None]))
    assert sixteen(np.uint64([0x0004000300020001])).tolist() == [[1, 2, 3, 4]]


def test_poisson_counts_follow_their_law_and_their_mean() -> None:
    uniform = (np.arange(20_000) + 0.5) / 20_000
    for mean in (0.3, 2.5):
        count = poisson(np.full(20_000, mean), uniform)
        assert abs(count.mean() - mean) < 1e-3
        assert abs((count == 0).mean() - math.exp(-mean)) < 1e-4
    assert (poisson(np.full(20_000, 2.5), uniform) >= poisson(np.full(20_000, 0.3), uniform)).all()
