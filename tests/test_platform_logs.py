"""The logs that a world emits: whole requests, RecFlow's columns, truth, and that what is trained on them learns."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest

from data.errors import UserError
from data.log import open_log
from es.objectives.base import Objective
from funnel.lists.units import request_sizes
from funnel.platform.objective import WorldFusion
from jobs import make_data
from jobs.command.cli import parse

ROWS = 6_000
WORDS = ("--world", "platform", "--users", 300, "--items", 400, "--providers", 40, "--uploads", 20, "--rows", ROWS,
         "--warmup", 1, "--rows-per-group", 1000, "--rows-per-file", 2000)  # fmt: skip
RECFLOW = {
    "request_id", "request_timestamp", "user_id", "video_id", "author_id", "category_level_one", "upload_timestamp",
    "duration", "realshow", "rerank_pos", "rerank_neg", "rank_pos", "rank_neg", "coarse_neg", "prerank_neg",
    "rank_index", "rerank_index", "playing_time", "effective_view", "long_view", "like",
}  # fmt: skip


def made(out: Path, *words: object) -> Path:
    given = [str(word) for word in ("--out", out, *WORDS, *words)]
    arguments = parse(make_data.options_for, given)
    return make_data.run(arguments)


def rows(log: Path, part: str = "train") -> Any:
    table = ds.dataset(log / part).to_table()
    return {name: table.column(name).to_numpy(zero_copy_only=False) for name in table.column_names}


@pytest.fixture(scope="module")
def exposures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("logs") / "exposures", "--history", 4)


def test_exposures_are_a_log_like_any(exposures: Path) -> None:
    log = open_log(exposures)
    total = 0
    for part in ("train", "valid", "test"):
        found = log.part(part)
        total += found.rows
        request_sizes(log, found, "request_id")
    assert ROWS <= total <= ROWS + 30
    train, test = rows(exposures), rows(exposures, "test")
    assert train["day"].max() <= test["day"].min()
    assert len(np.unique(train["exposure_id"])) == len(train["exposure_id"])
    assert (np.diff(train["position"])[np.diff(train["request_id"]) == 0] == 1).all()
    assert ((train["purchase"] == 1) <= (train["click"] == 1)).all()
    assert max(len(one) for one in train["history"] if one is not None) == 4


def test_truth_agrees_with_what_happened(exposures: Path) -> None:
    shown, truth = rows(exposures), rows(exposures / "truth")
    assert np.array_equal(shown["exposure_id"], truth["exposure_id"])
    clicked = shown["click"] == 1
    assert np.array_equal(shown["purchase"][clicked], truth["potential_purchase"][clicked])
    for happened, chance in (
        (shown["click"], truth["propensity"]),
        (truth["potential_purchase"], truth["purchase_probability"]),
    ):
        chance = chance.astype(float)
        assert abs(happened.sum() - chance.sum()) < 4 * np.sqrt((chance * (1 - chance)).sum())
        high = chance > np.median(chance)
        assert happened[high].mean() > happened[~high].mean()


def test_the_same_seed_gives_the_same_log(exposures: Path, tmp_path: Path) -> None:
    again = made(tmp_path / "again", "--history", 4)
    for name in ("train/part-00000.parquet", "truth/test/part-00000.parquet"):
        assert (again / name).read_bytes() == (exposures / name).read_bytes()


def test_stages_of_whole_requests(tmp_path: Path) -> None:
    policy = tmp_path / "slot.json"
    policy.write_text(json.dumps({"slot": {"kind": "random", "rate": 0.5}, "matching": {"lists": 8}}))
    out = made(tmp_path / "log", "--log", "stages", "--policy", policy, "--negatives", 20, "--elsewhere", 2)
    log = open_log(out)
    request_sizes(log, log.part("train"), "request_id")
    found = rows(out)
    assert found.keys() >= RECFLOW
    begin = np.flatnonzero(np.diff(found["request_id"], prepend=-1))
    per = {name: np.add.reduceat(found[name].astype(int), begin) for name in found if found[name].dtype == np.int8}
    assert (per["rerank_pos"] == 10).all()
    assert (per["realshow"] <= 10).all()
    assert per["realshow"].min() >= 1
    # Lists that are not full may leave fewer than 60 to rank.
    ranked = per["rank_pos"] + per["rank_neg"]
    assert ranked.max() == np.median(ranked) == 60
    cut = found["prerank_neg"] & found["sampled"]
    assert np.add.reduceat(cut.astype(int), begin).max() == 20
    # One stage each: an item is on the page, or offered to re-ranking, or not.
    assert ((found["rank_pos"] + found["rank_neg"] + found["prerank_neg"]) <= 1).all()
    assert (found["realshow"] <= found["rerank_pos"]).all()
    assert (found["rank_index"][found["rank_pos"] == 1] < 10).all()
    assert (found["rerank_index"] >= 0).sum() == found["rerank_pos"].sum()
    assert found["fresh_slot"].sum() > 0
    # Elsewhere: two purchases a request, of candidates, and at least as many clicks.
    assert abs(per["elsewhere_purchase"].mean() - 2) < 0.4
    assert ((found["elsewhere_purchase"] == 1) <= (found["elsewhere_click"] == 1)).all()
    pairs = found["request_id"] * 10_000 + found["item_id"]
    assert len(np.unique(pairs)) == len(pairs)


def test_sessions_are_whole_visits_in_order(tmp_path: Path) -> None:
    out = made(tmp_path / "log", "--log", "sessions")
    log = open_log(out)
    request_sizes(log, log.part("train"), "visit_id")
    found = rows(out)
    same = np.diff(found["visit_id"]) == 0
    place = found["page"].astype(int) * 10 + found["position"]
    assert (np.diff(place)[same] == 1).all()
    # Whoever did not look on saw nothing more.
    assert (found["has_next"][:-1][same] == 1).all()
    assert (found["page"] > 0).any()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--rows", 5), "rows is 5"),
        (("--history", 17), "history is 17, must lie in 0..16"),
        (("--policy", "nosuch"), "no such policy"),
        (("--elsewhere", -1), "elsewhere is -1"),
        (("--source", "table"), "unknown option '--source'"),
    ],
)
def test_logs_that_cannot_be_made(tmp_path: Path, words: tuple[object, ...], line: str) -> None:
    with pytest.raises(UserError, match=line):
        made(tmp_path / "log", *words)
    assert not (tmp_path / "log").exists()


def test_an_objective_runs_worlds_of_its_seeds() -> None:
    objective = WorldFusion(users=60, days=2)
    checked: Objective = objective
    theta = np.stack([checked.initial()] * 2 + [checked.initial() * 0])
    found = checked.evaluate_batch(theta, np.array([7, 7, 7], np.uint64))
    assert found[0] == found[1] != found[2]
    assert np.isfinite(found).all()
    assert objective.evaluate_batch(theta[:1], np.array([8], np.uint64))[0] != found[0]
    with pytest.raises(UserError, match="did you mean dwell"):
        WorldFusion(metric="dwel")
