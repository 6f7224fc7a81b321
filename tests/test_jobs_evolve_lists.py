"""jobs.evolve on lists as teams have them: short ones, people without an id, weights that follow the moment."""

import json

import numpy as np
import pyarrow as pa
import pytest
from test_jobs_evolve import arguments, run, scored_table, write

from funnel.fusion.scored_log import read_scored


def test_people_who_are_not_logged_in_are_one_a_request(tmp_path):
    """And a row without a request is one by itself; all others are what they were."""
    table = scored_table(requests=12, candidates=3)  # of 4 users, 3 requests each
    whole = read_scored(write(tmp_path / "whole.parquet", table), 10.0)
    table["user"] = [
        None if request in (1, 2) else user for user, request in zip(table["user"], table["request"], strict=True)
    ]
    table["request"] = pa.array(table["request"], mask=np.arange(36) == 35)
    found = read_scored(write(tmp_path / "some.parquet", table), 10.0)
    assert (found.log.users, found.log.request_C.max() + 1) == (4 + 2, 13)
    for request in range(12):
        rows = np.arange(3 * request, 3 * request + (2 if request == 11 else 3))
        assert len(set(found.log.request_C[rows])) == len(set(found.log.user_C[rows])) == 1
    kept = found.user_keys_U[found.log.user_C[~np.isin(np.arange(36) // 3, (1, 2))]]
    np.testing.assert_array_equal(kept, whole.user_keys_U[whole.log.user_C[~np.isin(np.arange(36) // 3, (1, 2))]])
    order = np.random.default_rng(0).permutation(36)  # who they are does not hang on where they stand
    moved = {name: pa.array(column).take(pa.array(order)) for name, column in table.items()}
    again = read_scored(write(tmp_path / "moved.parquet", moved), 10.0)
    assert set(again.user_keys_U) == set(found.user_keys_U)


def test_weights_may_follow_the_moment_of_the_request(tmp_path):
    table = scored_table()
    table["hour"] = np.repeat(np.arange(120) % 5, 15).astype(np.float32)  # a user's requests differ, their rows do not
    run(arguments(write(tmp_path / "scored.parquet", table), tmp_path / "run", by=("hour",)))
    assert json.loads((tmp_path / "run" / "policy.json").read_text())["by"]["hour"]["mean"] == pytest.approx(2, abs=0.5)


@pytest.mark.parametrize(
    ("candidates", "metric", "k"),
    [(10, "value", 5), (3, "value", 1), (15, "value", 10), (10, "ndcg", 10)],
)
def test_without_k_it_is_ten_or_half_of_a_list(tmp_path, capsys, candidates, metric, k):
    """The first 10 of 10 candidates are the same in any order; NDCG tells the orders apart."""
    path = write(tmp_path / "scored.parquet", scored_table(candidates=candidates))
    run(arguments(path, tmp_path / "run", metric=metric, k=None))
    said = " ".join(capsys.readouterr().out.split())
    assert ("few lists are longer than 10, so k is" in said) == (k < 10)
    assert json.loads((tmp_path / "run" / "policy.json").read_text())["k"] == k
    if metric == "value" and candidates <= 10:
        with pytest.raises(ValueError, match=r"no request with a click has more than 10 candidates"):
            run(arguments(path, tmp_path / "other", k=10))


def test_lists_of_one_cannot_be_ordered(tmp_path):
    path = write(tmp_path / "scored.parquet", scored_table(candidates=1))
    for metric in ("value", "ndcg"):
        with pytest.raises(ValueError, match="every request with a click has a single candidate"):
            run(arguments(path, tmp_path / "run", metric=metric, k=None))
