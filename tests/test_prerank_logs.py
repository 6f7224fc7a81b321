"""Logs for pre-ranking: what was done elsewhere, the small cascade, and RecFlow's files."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather as paf
import pyarrow.parquet as pq
import pytest

from data.errors import UserError
from data.loaders.recflow import FEATURES, FLAGS, OTHERS, load_recflow
from data.log import open_log
from funnel.prerank.binding import Events, bind, one_each
from funnel.prerank.problem import PreRank
from funnel.prerank.settings import PreRankSettings
from funnel.prerank.world import Cascade
from jobs.command.cli import parse
from jobs.make_data import options_for
from jobs.make_data import run as make
from tests.support_prerank import ASKED, TINY, cascade


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cascade(tmp_path_factory.mktemp("cascade") / "stages")


# ---- what was done elsewhere


def test_events_are_bound_to_the_latest_relevant_request() -> None:
    """User 1 asks at 0, 10 and 20, user 2 at 5. Items above 50 belong to the requests at 0 and 5 alone."""
    user_L, time_L = np.array([1, 2, 1, 1]), np.array([0, 5, 10, 20])

    def relevant(request_B: np.ndarray, item_B: np.ndarray) -> np.ndarray:
        return (item_B <= 50) | (request_B < 2)

    cases = [
        # user, item, time, request
        (1, 7, 15, 2),
        (1, 7, 12, None),  # the same user and item, earlier: one triple, the latest
        (1, 60, 25, 0),  # not relevant to the requests at 20 and 10
        (2, 7, 4, None),  # before the user's first request
        (2, 8, 5, 1),  # at the very moment
        (3, 8, 99, None),  # asks for nothing
        (1, 8, 21, 3),
    ]
    events = Events(*(np.array([case[k] for case in cases]) for k in range(3)))
    event_B, request_B = bind(user_L, time_L, events, relevant)
    found = dict(zip(event_B.tolist(), request_B.tolist(), strict=True))
    assert found == {number: case[3] for number, case in enumerate(cases) if case[3] is not None}
    assert one_each(events).tolist() == [0, 2, 3, 4, 5, 6]


def test_binding_is_that_of_a_slow_search() -> None:
    rng = np.random.default_rng(5)
    user_L, time_L = rng.integers(0, 6, 60), rng.permutation(60)
    events = Events(rng.integers(0, 7, 200), rng.integers(0, 9, 200), rng.integers(0, 70, 200))
    fits = rng.random((60, 9)) < 0.4

    def relevant(request_B: np.ndarray, item_B: np.ndarray) -> np.ndarray:
        found: np.ndarray = fits[request_B, item_B]
        return found

    latest: dict[tuple[int, int], int] = {}
    for e in range(200):
        pair = (int(events.user_E[e]), int(events.item_E[e]))
        if pair not in latest or events.time_E[e] >= events.time_E[latest[pair]]:
            latest[pair] = e
    slow = {}
    for (user, item), e in latest.items():
        before = [r for r in range(60) if user_L[r] == user and time_L[r] <= events.time_E[e] and fits[r, item]]
        if before:
            slow[e] = max(before, key=lambda r: time_L[r])
    event_B, request_B = bind(user_L, time_L, events, relevant)
    assert dict(zip(event_B.tolist(), request_B.tolist(), strict=True)) == slow


# ---- the small cascade


def test_the_cascade_is_what_its_settings_say(stages: Path) -> None:
    """Stages of the right sizes, rates near what is asked for, and the same bits again."""
    log = open_log(stages)
    table = pa.concat_tables(list(log.read(log.part("valid"), ["request_id", "realshow", "rank_pos", "rank_neg",
                                                               "prerank_neg", "click"])))  # fmt: skip
    sums = {name: int(np.sum(table.column(name).to_numpy())) for name in table.column_names[1:]}
    requests = ASKED["valid"]
    assert sums["realshow"] == sums["rank_pos"] == requests * TINY.page
    assert sums["rank_pos"] + sums["rank_neg"] == requests * TINY.kept
    assert sums["prerank_neg"] == requests * (TINY.candidates - TINY.kept)
    assert sums["click"] / sums["realshow"] == pytest.approx(TINY.click_rate, abs=0.1)
    worlds = [Cascade(TINY, 4), Cascade(TINY, 4)]
    one, two = (world.live(1, 30, 1.0) for world in worlds)
    for name in ("item_LC", "rank_LC", "shown_LP", "click_LP"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert one.bought[0].tolist() == two.bought[0].tolist()


def test_both_logs_of_a_seed_are_of_the_same_exposures(stages: Path, tmp_path: Path) -> None:
    cascade(tmp_path / "shown", log="exposures")
    logs = [open_log(place) for place in (stages, tmp_path / "shown")]
    columns = ["exposure_id", "click", "purchase", "match_taste", "match_private", "realshow"]
    tables = [pa.concat_tables(list(log.read(log.part("train"), columns))) for log in logs]
    tables[0] = tables[0].filter(pa.array(tables[0].column("realshow").to_numpy() == 1))
    ordered = [table.take(np.argsort(table.column("exposure_id").to_numpy())) for table in tables]
    assert ordered[0].num_rows == ASKED["requests"] * TINY.page
    assert ordered[0].equals(ordered[1].cast(ordered[0].schema))
    assert logs[0].schema.features == logs[1].schema.features


def test_make_data_writes_it(tmp_path: Path) -> None:
    words = ["--world", "cascade", "--requests", "20", "--valid", "5", "--test", "5", "--users", "50", "--items", "60",
             "--candidates", "40", "--kept", "16", "--page", "5", "--looked-at", "20"]  # fmt: skip
    out = make(parse(options_for, [*words, "--out", str(tmp_path / "log")]))
    assert open_log(out).part_names() == ["test", "train", "valid"]
    with pytest.raises(UserError, match="each stage takes from what the one before it found"):
        make(parse(options_for, [*words, "--kept", "60", "--out", str(tmp_path / "none")]))


# ---- RecFlow


def recflow_day(path: Path, day: int, requests: int = 12) -> None:
    """A file in RecFlow's form: rows of a request are apart, one request without anything shown, one item twice."""
    rng, rows = np.random.default_rng(day), []
    for request in range(requests):
        for item in range(12):
            stage = ("realshow", "rerank_pos", "rerank_neg", "rank_neg", "coarse_neg", "prerank_neg")[item // 2]
            if request == 0 and item < 2:
                continue  # nothing was shown
            flags = {name: int(name == stage) for name in FLAGS}
            view = int(stage == "realshow" and rng.random() < 0.6)
            values = dict.fromkeys((*FEATURES.values(), *OTHERS), 0) | flags
            values |= {"request_id": 1000 * day + request, "user_id": request % 4, "duration": 9000,
                       "video_id": item + 20 * (request % 3), "request_timestamp": day * 86_400_000,
                       "upload_timestamp": (day - 2) * 86_400_000, "effective_view": view,
                       "long_view": view * int(rng.random() < 0.5)}  # fmt: skip
            rows.append(values)
            if request == 1 and item == 0:
                rows.append(values | {"realshow": 0, "rank_pos": 1, "effective_view": 0, "long_view": 0})
    rng.shuffle(rows)  # type: ignore[arg-type]
    paf.write_feather(pa.Table.from_pylist(rows), path)


def test_recflow_becomes_a_stage_log(tmp_path: Path) -> None:
    source = tmp_path / "all_stage"
    source.mkdir()
    for day in range(1, 5):
        recflow_day(source / f"2024-01-1{day}.feather", day)
    facts = load_recflow(source, tmp_path / "log")
    # Eleven of twelve requests of a day, 12 items each; the ten rows of the other one and the double are left out.
    assert [facts[name].rows for name in ("train", "valid", "test")] == [2 * 11 * 12, 11 * 12, 11 * 12]
    assert facts["test"].dropped == 11
    log = open_log(tmp_path / "log")
    settings = PreRankSettings(k=6, shown=2, ranked=2, cut=2, labels="in")
    parts = {name: log.part(name) for name in ("train", "valid", "test")}
    found = PreRank.prepare(settings, log, parts)
    assert found["parts"]["test"] == {
        "requests": 11, "rows": 132, "exposed": 22, "ranked": 66, "cut": 44, "candidates": 12,
        "effective_view": found["parts"]["test"]["effective_view"], "long_view": found["parts"]["test"]["long_view"],
    }  # fmt: skip
    table = next(log.read(parts["test"], ["request_timestamp", "item_age"]))
    assert set(table.column("request_timestamp").to_pylist()) == {4 * 86_400_000}
    assert set(table.column("item_age").to_pylist()) == {2.0}
    problem = PreRank(settings, log.schema, found)
    labels = problem.encode(next(log.read(parts["test"], list(problem.columns)))).lists.rows.labels
    assert labels["drawn"].sum() == 11 * (2 + 2 + 2)
    assert labels["click"].sum() == found["parts"]["test"]["effective_view"] > 0
    with pytest.raises(UserError, match="stop_metric asph: the log has no purchases in other scenarios"):
        problem.smaller_is_better("asph")
    assert problem.smaller_is_better("isph") is False


def test_recflow_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no \.feather, \.parquet, \.csv files"):
        load_recflow(tmp_path, tmp_path / "log")
    pq.write_table(pa.table({"request_id": [1]}), tmp_path / "day.parquet")
    with pytest.raises(UserError, match=r"day\.parquet: no column 'user_id'"):
        load_recflow(tmp_path, tmp_path / "log")
