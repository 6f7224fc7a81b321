"""Re-ranking on the platform: asked after each view, told what was watched, kept to limits; and its numbers tuned."""

import copy
import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data.errors import UserError
from data.log import open_log
from data.schema import Schema
from funnel.platform.behaviour import Walked
from funnel.platform.cascade import Passed
from funnel.platform.logs.columns import platform_schema
from funnel.platform.logs.writer import LogSettings, PlatformLogs
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policies, Step
from funnel.platform.view import Requests, View
from funnel.platform.world import new_world
from funnel.rerank.features import RerankSettings
from funnel.rerank.problem import Rerank, SessionNetwork
from funnel.rerank.stage import ListReRanking, feedback_of
from funnel.rerank.tuning import COST, RerankObjective, RerankTuning, RerankTuningSettings
from funnel.rerank.weights import load, save
from funnel.settings import read
from models.list_scorer import HEADS, ListScorerConfig

WORLD = PlatformSettings(users=36, items=100, uploads=5, providers=10, visits=2.0, ticks=2)
MODEL = ListScorerConfig(width=4, hidden=(8,), output=8, before=6)


def weights_of(path: Path, world: PlatformSettings = WORLD, seed: int = 3, **more: Any) -> Path:
    """A scorer that has learnt nothing, but whose scores differ by item, context and feedback."""
    schema = platform_schema("small", world, "visit_id", 0, truth=True)
    names = (*schema.numeric, "rank_score", "rank_good")
    schema = Schema.from_dict({**schema.to_dict(), "numeric": list(names)}, "small")
    count = len([name for name in names if name not in ("position", "recent_same")])
    facts = {
        "session": "visit_id", "order": "exposure_id", "numeric_mean": [0.0] * count, "numeric_std": [1.0] * count,
        "rates": [0.3, 0.02, 0.85], "leave": [9.0, 1.0],
    }  # fmt: skip
    problem = Rerank(RerankSettings(model=MODEL, **more), schema, facts)
    scorer = problem.scorer(seed=seed)
    with torch.no_grad():
        for parameter in scorer.parameters():
            parameter.mul_(2.0)
    save(path, problem, scorer, {"view": (1.2, 0.1), "like": (0.9, 0.0), "next": (1.0, -0.1)})
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights_of(tmp_path_factory.mktemp("weights") / "list_scorer.npz")


def tree(weights: Path, /, **more: Any) -> dict[str, Any]:
    return {"reranking": {"kind": "list", "weights": str(weights), "k": 2, "candidates": 14} | more}


def lived(policy: dict[str, Any], days: int = 1, watch: Any = None, block: int = 512) -> Any:
    world = new_world(WORLD, 5, [Policies.of(policy, WORLD, 5)], watch)
    world.block = block
    world.run(days)
    return world


def test_blocks_of_any_size_choose_the_same(weights: Path) -> None:
    whole, cut = lived(tree(weights, more=0.5)), lived(tree(weights, more=0.5), block=7)
    np.testing.assert_array_equal(whole.ledger.table(), cut.ledger.table())
    one, other = whole.arms[0].reranking, cut.arms[0].reranking
    assert one.evaluations == other.evaluations > one.decisions == other.decisions > 200


def test_a_copy_of_a_world_goes_on_alike(weights: Path) -> None:
    world = lived(tree(weights))
    twin = copy.deepcopy(world)
    for each in (world, twin):
        each.run(1)
    np.testing.assert_array_equal(world.ledger.table(), twin.ledger.table())


class Noting(ListReRanking):
    """Keeps what its scorer says of every candidate at every place, before anything is planned."""

    said: ClassVar[dict[tuple[int, int, int], dict[int, np.ndarray]]] = {}

    def choose(self, requests: Requests, step: Step, view: View) -> np.ndarray:
        chosen_R = super().choose(requests, step, view)
        page = self.pages[int(requests.key_R[0])]
        row_A = np.flatnonzero(step.active_R)
        chances = self.scorer(page, step, row_A)(np.arange(len(row_A)), np.zeros((len(row_A), 1, 0), np.int64))
        said_AM3 = np.stack([value[:, 0] for value in chances], 2)
        for row, said_M3 in zip(row_A, said_AM3, strict=True):
            key = (int(requests.visit_R[row]), requests.page, step.place)
            self.said[key] = dict(zip(page.item_RM[row].tolist(), said_M3, strict=True))
        return chosen_R


def test_what_is_asked_of_the_network_is_what_the_log_would_train_on(weights: Path, tmp_path: Path) -> None:
    """The log of a world under the stage, scored row by row in evaluation, is what the stage was told when it chose:
    its vectors of candidates, what was watched on this page and on pages before, and the feedback."""
    Noting.said.clear()
    asked = LogSettings(log="sessions", rows=300, seed=5, warmup=0, rows_per_group=10_000)
    policy = tree(weights, kind="test_rerank_stage:Noting")
    PlatformLogs.write(WORLD, asked, policy, "policy", tmp_path / "log")
    from test_rerank_stage import Noting as Imported  # the module may be known by two names

    table = pa.concat_tables([pq.read_table(path) for path in sorted((tmp_path / "log" / "train").glob("*.parquet"))])
    known = load(weights)
    with torch.no_grad():
        logits = SessionNetwork(known.scorer).eval()(known.problem.encode(table).batch())
    expected_B3 = np.stack([(logits[h] * known.maps[h][0] + known.maps[h][1]).sigmoid().numpy() for h in HEADS], 1)
    later = 0
    columns = [table.column(name).to_pylist() for name in ("request_id", "position", "item_id")]
    for (request, place, item), expected_3 in zip(zip(*columns, strict=True), expected_B3, strict=True):
        key = (request // WORLD.pages, request % WORLD.pages, place)
        np.testing.assert_allclose(Imported.said[key][item], expected_3, rtol=2e-4, err_msg=str(key))
        later += key[1] > 0
    assert later > 20  # some are of later pages: what was watched on earlier ones is known


@pytest.mark.slow
@pytest.mark.parametrize("method", ["pointwise", "greedy", "beam", "adaptive"])
def test_limits_hold_on_every_page_and_session(weights: Path, method: str) -> None:
    for scope in ("page", "session"):
        pages: dict[int, list[np.ndarray]] = {}

        def watch(arm: int, view: View, requests: Requests, passed: Passed, done: Walked, into: Any = pages) -> None:
            category_RS = view.items.category_I[done.feedback.item_RS]
            for row, visit in enumerate(requests.visit_R.tolist()):
                into.setdefault(visit, []).append(category_RS[row][done.feedback.seen_RS[row]])

        lived(tree(weights, method=method, candidates=40, horizon=4, limits=["*:0:0.3"], scope=scope), watch=watch)
        assert len(pages) > 25
        assert max(len(each) for each in pages.values()) > 1
        for visit in pages.values():
            counted = [np.bincount(page, minlength=WORLD.categories) for page in visit]
            if scope == "page":
                assert max(each.max() for each in counted) <= 3
            for n in range(1, len(counted) + 1):
                assert sum(counted[:n]).max() <= 3 * n
    free: dict[int, list[np.ndarray]] = {}

    def watch_free(arm: int, view: View, requests: Requests, passed: Passed, done: Walked) -> None:
        category_RS = view.items.category_I[done.feedback.item_RS]
        free.update({row: [category_RS[row][done.feedback.seen_RS[row]]] for row in range(len(requests))})

    lived(tree(weights, method=method), watch=watch_free)
    assert max(np.bincount(page[0], minlength=1).max(initial=0) for page in free.values()) > 3


def test_a_page_ends_where_no_item_may_be_shown(weights: Path) -> None:
    """Of 14 candidates from few categories not enough may be shown: pages end early, and nothing is broken."""
    seen: list[int] = []

    def watch(arm: int, view: View, requests: Requests, passed: Passed, done: Walked) -> None:
        category_RS = view.items.category_I[done.feedback.item_RS]
        for row in range(len(requests)):
            shown = category_RS[row][done.feedback.seen_RS[row]]
            seen.append(len(shown))
            assert np.bincount(shown, minlength=1).max(initial=0) <= 1

    lived(tree(weights, limits=["*:0:0.1"], candidates=10), watch=watch)
    assert max(seen) < 10


def test_shuffled_pages_are_other_orders_of_the_same_items() -> None:
    pages: list[tuple[np.ndarray, np.ndarray]] = []

    def watch(arm: int, view: View, requests: Requests, passed: Passed, done: Walked) -> None:
        pages.append((passed.page.item_RM, done.feedback.item_RS))

    lived({"reranking": {"kind": "shuffled", "candidates": 20}}, watch=watch)
    for item_RM, item_RS in pages:
        assert (np.sort(item_RS, 1)[:, 1:] != np.sort(item_RS, 1)[:, :-1]).all()
        assert all(set(shown) <= set(ranked) for shown, ranked in zip(item_RS, item_RM, strict=True))
    assert np.mean([(item_RM[:, :10] != item_RS).mean() for item_RM, item_RS in pages]) > 0.5


def test_feedback_is_as_in_the_log() -> None:
    given = {"click": np.array([[True, False]]), "dwell": np.array([[7.0, 0.0]]), "like": np.array([[False, False]])}
    told = feedback_of(("click", "dwell", "effective_view"), given, np.array([[20.0, 5.0]]))
    np.testing.assert_allclose(told[0, 0], [np.log(2), np.log(8), np.log(2)], rtol=1e-6)
    assert told[0, 1].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": ""}, "weights is not given"),
        ({"weights": "none.npz"}, "no such file"),
        ({"k": 20}, "k is 20, but there are 14 candidates"),
        ({"limits": ["3-0.2"]}, r"limits: '3-0\.2' is not \"CATEGORY:LEAST:MOST\""),
        ({"limits": ["0:0.6:1", "1:0.6:1"]}, "the least shares need 12 places"),
        ({"limits": ["99:0:0.5"]}, "category 99, but there are 46"),
        ({"more": 1.0}, r"more is 1\.0, must lie in 0..1"),
        ({"beta": -1.0}, r"beta is -1\.0"),
    ],
)
def test_what_cannot_be_is_one_line(weights: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        Policies.of(tree(weights, **change), WORLD, 0)
    assert "\n" not in str(raised.value)


def test_weights_of_another_schema_are_refused(tmp_path: Path) -> None:
    other = PlatformSettings(**{**vars(WORLD), "categories": 12})
    path = weights_of(tmp_path / "twelve.npz", other)
    with pytest.raises(UserError, match=r"was trained on a 'intent' of 14 rows .* this platform has 48 rows"):
        Policies.of(tree(path), WORLD, 0)
    told = weights_of(tmp_path / "told.npz", feedback=("click", "follow"))
    with pytest.raises(UserError, match="was trained with the feedback 'follow'; this platform tells click"):
        Policies.of(tree(told), WORLD, 0)


# ---- moods


def test_moods_change_what_users_do_and_no_mood_changes_nothing() -> None:
    plain, same = lived({}), new_world(PlatformSettings(**{**vars(WORLD), "mood": 0.0}), 5, [Policies.of({}, WORLD, 5)])
    same.run(1)
    np.testing.assert_array_equal(plain.ledger.table(), same.ledger.table())
    moody = new_world(PlatformSettings(**{**vars(WORLD), "mood": 2.0}), 5, [Policies.of({}, WORLD, 5)])
    moody.run(1)
    assert (plain.ledger.table() != moody.ledger.table()).any()


# ---- tuning


@pytest.mark.slow
def test_the_numbers_are_tuned_under_a_limit(weights: Path) -> None:
    settings = read(
        RerankTuningSettings,
        {"world": vars(WORLD), "episode": {"first": 1, "days": 1, "settle": 0}, "held_out": 2,
         "start": {"weights": str(weights), "candidates": 14, "k": 2}, "limit": 60.0},
    )  # fmt: skip
    objective = RerankObjective(settings)
    start = objective.tree(np.zeros(4, np.float32))["reranking"]
    assert (start["alpha"], start["beta"]) == (1.0, 4.0)
    assert start["k"] + start["more"] == pytest.approx(2.0)
    assert start["stability"] == pytest.approx(0.95)
    wide = objective.tree(np.array([0, 0, 3, 3], np.float32))["reranking"]
    assert wide["k"] > start["k"]
    change = objective.episodes.changes({"reranking": start}, 1)
    dear = objective.episodes.changes({"reranking": wide}, 1)
    assert dear[COST] > change[COST] > 14
    assert objective.worth({**change, COST: 60.0}) - objective.worth({**change, COST: 90.0}) == pytest.approx(5.0)
    assert objective.worth({**change, COST: 10.0}) == objective.worth({**change, COST: 60.0})
    again = copy.deepcopy(objective).evaluate_batch(np.zeros((1, 4), np.float32), np.array([17], np.uint64))
    assert again[0] == pytest.approx(objective.worth(change))  # world 1 of 16
    judged = RerankTuning.open(settings, 0).judge(np.zeros(4, np.float32), 0, 0)
    assert judged["rerank.gain.return"] == pytest.approx(0.0, abs=1e-9)
    assert json.dumps(RerankTuning.open(settings, 0).policy(np.zeros(4, np.float32)))
    with pytest.raises(UserError, match="start: reranking: weights is not given"):
        RerankTuning.open(read(RerankTuningSettings, {}), 0)


def test_sessions_of_a_world_train_the_problem(tmp_path: Path) -> None:
    asked = LogSettings(log="sessions", rows=400, seed=5, warmup=0)
    PlatformLogs.write(WORLD, asked, {"reranking": {"kind": "shuffled"}}, "policy", tmp_path / "log")
    log = open_log(tmp_path / "log")
    table = next(log.read(log.part("train"), [*log.schema.features, "effective_view", "dwell"]))
    score = table.column("rank_score").to_numpy()
    assert np.isfinite(score).all()
    assert score.std() > 0
    view = table.column("dwell").to_numpy() >= np.float32(0.3) * table.column("item_length").to_numpy()
    np.testing.assert_array_equal(view, table.column("effective_view").to_numpy() == 1)
