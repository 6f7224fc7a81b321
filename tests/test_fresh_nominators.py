"""The two nominators as problems: what reaches them, what they learn, and by which formulas."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from data.errors import UserError
from data.log import open_log
from data.schema import Schema
from distributed.finished_run import load_run
from funnel.fresh.counts import RecallCounts, ranks
from funnel.fresh.features import NominatorSettings, SequenceSettings, importance, inverse_frequency, views
from funnel.fresh.problem import FreshSequence, FreshTwoTower
from funnel.fresh.taken_log import Histories, TakenLog
from jobs import make_data, train
from jobs.command.cli import parse
from models.objectives.sampled_softmax import sampled_softmax
from models.pooling import BagTensors
from models.sequence_nominator import History, SequenceNominator
from models.two_tower import Side, TowerConfig, averaged
from tests.support_fresh import ITEMS, KINDS, WIDTH, made, written

SMALL = ("--workers", "0", "--epochs", "2", "--batch-size", "128", "--stream.lanes", "2", "--model.width", "8",
         "--model.hidden", "16", "--model.output", "8", "--optimizer.learning-rate", "0.01")  # fmt: skip


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("taken") / "log")


def trained(log: Path, out: Path, problem: str, *words: str) -> dict:
    return train.run(train.arguments_of("--data", str(log), "--out", str(out), "--problem", problem, *SMALL, *words))


@pytest.mark.slow
def test_both_nominators_learn(log: Path, tmp_path: Path) -> None:
    """Recall@10 among some 80 items is far above the 1 in 8 of chance, in every age that occurs."""
    for problem in ("fresh_two_tower", "fresh_sequence"):
        summary = trained(log, tmp_path / problem, problem, "--age", "age_days")
        assert summary["candidates"] <= ITEMS
        assert summary["recall.10"] > 2 * 10 / summary["candidates"], problem
        ages = [key for key in summary if key.startswith("recall.10.")]
        assert len(ages) >= 3
        assert min(summary[key] for key in ages) > 10 / summary["candidates"]


def test_no_id_reaches_the_two_tower(log: Path, tmp_path: Path) -> None:
    """Items under other names: its vectors stay the same bits; those of a network that has ids change."""
    order = np.random.default_rng(5).permutation(ITEMS)
    other = written(tmp_path / "renamed", ids=order)
    for kind, same in ((FreshTwoTower, True), (type("Ids", (FreshTwoTower,), {}), False)):
        settings = NominatorSettings(ids=not same)
        found = []
        for place in (log, other):
            opened = open_log(place)
            parts = {name: opened.part(name) for name in ("train", "valid")}
            problem = kind(settings, opened.schema, kind.prepare(settings, opened, parts), {})
            if same:
                assert "item_id" not in problem.views.schema.features
                assert "item_popularity" not in problem.views.schema.features
            network = problem.network(seed=1).eval()
            (table,) = list(opened.read(parts["train"], problem.columns))
            with torch.inference_mode():
                found.append(network(problem.encode(table).batch()))
        equal = torch.equal(found[0]["item"], found[1]["item"]) and torch.equal(found[0]["query"], found[1]["query"])
        assert equal is same


@pytest.mark.ray
@pytest.mark.slow
def test_rows_do_not_depend_on_the_number_of_workers(log: Path, tmp_path: Path, ray_cluster: object) -> None:
    trained(log, tmp_path / "one", "fresh_sequence", "--epochs", "1")
    trained(log, tmp_path / "two", "fresh_sequence", "--epochs", "1", "--workers", "2")
    one, two = (load_run(tmp_path / name).network.state_dict() for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_round_goes_on_from_the_last(log: Path, tmp_path: Path) -> None:
    """Warm start: the next round's first loss lies below that of a network that begins afresh."""
    trained(log, tmp_path / "first", "fresh_sequence")
    next_log = written(tmp_path / "next", seed=0, events=3400)
    short = ("--epochs", "1", "--optimizer.learning-rate", "1e-5", "--optimizer.embedding-learning-rate", "1e-5")
    warm = trained(next_log, tmp_path / "warm", "fresh_sequence", "--start-from", str(tmp_path / "first"), *short)
    cold = trained(next_log, tmp_path / "cold", "fresh_sequence", *short)
    assert warm["recall.10"] > 1.5 * cold["recall.10"]


def test_sampled_softmax_by_hand() -> None:
    """Two groups; row 2 is the item of row 0 again (no negative), row 3 does not count (nobody's negative)."""
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    item = torch.tensor([[1.0, 0.0], [0.5, 0.5], [1.0, 0.0], [9.0, 9.0], [1.0, 0.0], [0.0, 1.0]])
    number = torch.tensor([7, 8, 7, 9, 7, 8])
    share = torch.tensor([0.5, 0.25, 0.5, 0.25, 0.5, 0.25])
    counted = torch.tensor([True, True, True, False, True, True])
    term = sampled_softmax(query, item, number, share.log(), counted, (4, 2), temperature=0.5)

    def loss(own: float, others: list[float]) -> float:
        return math.log(sum(map(math.exp, [own, *others]))) - own

    def logit(product: float, q: float) -> float:
        return product / 0.5 - math.log(q)

    expected = [
        loss(logit(1, 0.5), [logit(0.5, 0.25)]),
        loss(logit(0.5, 0.25), [logit(0, 0.5)] * 2),
        loss(logit(1, 0.5), [logit(0.5, 0.25)]),
        0.0,
        loss(logit(1, 0.5), [logit(0, 0.25)]),
        loss(logit(1, 0.25), [logit(0, 0.5)]),
    ]
    np.testing.assert_allclose(term.numpy(), expected, rtol=1e-5)


def test_idf_by_hand(log: Path) -> None:
    np.testing.assert_allclose(inverse_frequency(np.array([10, 1, 0]), 10), [0, math.log(10), math.log(10)])
    opened, settings = open_log(log), NominatorSettings()
    parts = {name: opened.part(name) for name in ("train", "valid")}
    facts = FreshTwoTower.prepare(settings, opened, parts)
    table = next(iter(opened.read(parts["train"], ["item_id", "item_category"])))
    pairs = {(i, c) for i, c in zip(*(table[name].to_pylist() for name in table.column_names), strict=True)}
    assert facts["items"] == len({i for i, _ in pairs})
    for category in range(KINDS):
        count = sum(c == category for _, c in pairs)
        assert facts["idf"]["item_category"][2 + category] == pytest.approx(math.log(facts["items"] / count))
    seen = views(settings, opened.schema)
    weight = importance(seen, facts["idf"], 1.0)
    assert weight.mean() == pytest.approx(1, abs=0.2)
    assert len(set(weight[2:].tolist())) > 1
    np.testing.assert_array_equal(importance(seen, facts["idf"], 0.0), 1)


def test_weights_of_a_history_by_hand() -> None:
    """w is a softmax of f within each row; an empty history gives U = 0."""
    config = TowerConfig(width=3, hidden=(), output=4, positions=2, weight_hidden=5)
    network = SequenceNominator(config, 30, 0, Side((), (), ()), Side((0,), (), ()), History(0, 1, 2, 3), seed=0).eval()
    offset = torch.tensor([0, 3, 3, 5])
    bags = [
        BagTensors(torch.tensor(ids), offset) for ids in ([1, 2, 3, 4, 5], [6] * 5, [7, 8, 7, 8, 7], [9, 9, 10, 9, 9])
    ]
    vectors = [network.table(bag.ids_S) for bag in bags]
    state = network.state(vectors, bags)
    row = torch.tensor([0, 0, 0, 2, 2])
    weight = network.weights(vectors[2], vectors[3], offset, row)
    place = [1, 1, 0, 1, 0]  # counted from the end, two told apart
    inputs = torch.cat([vectors[2], vectors[3], network.place.weight[place]], 1)
    score = network.weigh(inputs).squeeze(1)
    expected = torch.cat([score[:3].softmax(0), score[3:].softmax(0)])
    torch.testing.assert_close(weight, expected)
    both = vectors[0] + vectors[1]
    torch.testing.assert_close(state[0], (expected[:3, None] * both[:3]).sum(0))
    torch.testing.assert_close(state[1], torch.zeros(3))
    torch.testing.assert_close(averaged(both, offset)[2], both[3:].mean(0))


def test_recall_by_hand() -> None:
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    items = torch.tensor([[1.0, 0.0], [0.5, 0.9], [0.9, 0.2]])
    assert ranks(query, items, torch.tensor([0, 2])).tolist() == [0, 1]
    assert ranks(query, torch.ones(3, 2), torch.tensor([0, 2])).tolist() == [2, 2]  # ties find nothing
    assert RecallCounts().figures()["absent"]["recall.10"] == "nothing was taken"


def test_histories_are_in_order_and_stay_with_their_rows() -> None:
    history = Histories.of_rings(
        np.array([[3, 2, -1], [-1, -1, -1], [7, -1, -1]]),
        np.array([[30.0, 20.0, 0.0], [0.0, 0.0, 0.0], [70.0, 0.0, 0.0]]),
        np.array([[1.5, 1.0, 0.0], [0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]),
    )
    assert (history.item_S.tolist(), history.offset_R1.tolist()) == ([2, 3, 7], [0, 2, 2, 3])
    turned = Histories.join([history, history]).take(np.array([5, 0]))
    assert turned.item_S.tolist() == [7, 2, 3]
    assert turned.dwell_S.tolist() == [70.0, 20.0, 30.0]
    core_U, items, taken = made(400)
    table = TakenLog(KINDS, WIDTH).table(taken, core_U, items)
    row = 399
    own = [e for e in range(row) if taken.user_R[e] == taken.user_R[row]][-8:]
    assert table["history_item"][row].as_py() == taken.item_R[own].tolist()
    taste = [table[f"user_taste_{d}"][row].as_py() for d in range(WIDTH)]
    np.testing.assert_allclose(taste, items.content_ID[taken.item_R[own]].mean(0), rtol=1e-5)
    assert table["age_days"][row].as_py() == pytest.approx(taken.day_R[row] - items.uploaded_I[taken.item_R[row]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (NominatorSettings(query=("nothing_*",)), "no feature matches --query nothing_*"),
        (NominatorSettings(content=("history_category",)), "matches both --query and --content"),
        (SequenceSettings(lists=("history_item", "absent", "history_dwell", "history_gap")), "no list 'absent'"),
        (SequenceSettings(item="user"), "no feature 'user'"),
    ],
)
def test_what_a_schema_cannot_give_is_one_line(settings: NominatorSettings, message: str) -> None:
    schema: Schema = TakenLog(KINDS, WIDTH).schema()
    with pytest.raises(UserError) as error:
        views(settings, schema)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_column_of_ages_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    log = open_log(written(tmp_path / "log", events=200))
    parts = {name: log.part(name) for name in ("train", "valid")}
    with pytest.raises(UserError, match=r"part-00000\.parquet: no column 'agedays'"):
        FreshTwoTower.prepare(NominatorSettings(age="agedays"), log, parts)
    FreshTwoTower.prepare(NominatorSettings(age="age_days"), log, parts)


def test_a_world_writes_the_log(tmp_path: Path) -> None:
    """jobs.make_data --world fresh: as many rows as asked, in order of time, the same bytes again; both networks and,
    on the platform's own exposures, the two-tower find their columns."""
    small = ("--users", "150", "--items", "60", "--providers", "8", "--uploads", "5", "--warmup", "1")
    for name in ("one", "two"):
        words = ("--world", "fresh", "--rows", "400", "--out", str(tmp_path / name), *small)
        make_data.run(parse(make_data.options_for, words))
    one, two = (open_log(tmp_path / name) for name in ("one", "two"))
    for part, rows in (("train", 320), ("valid", 40), ("test", 40)):
        tables = [pa.concat_tables(log.read(log.part(part), [*log.schema.columns, "age_days"])) for log in (one, two)]
        assert tables[0].num_rows == rows
        assert tables[0].equals(tables[1])
    parts = {name: one.part(name) for name in ("train", "valid")}
    for kind in (FreshTwoTower, FreshSequence):
        kind.prepare(kind.settings_type(), one, parts)
    words = ("--world", "platform", "--rows", "600", "--out", str(tmp_path / "exposures"), *small)
    make_data.run(parse(make_data.options_for, words))
    exposures = open_log(tmp_path / "exposures")
    facts = FreshTwoTower.prepare(
        NominatorSettings(), exposures, {name: exposures.part(name) for name in ("train", "valid")}
    )
    seen = FreshTwoTower(NominatorSettings(), exposures.schema, facts).views.schema.features
    assert {"content_0", "item_category", "item_rating"} <= set(seen)
    assert not {"item_id", "item_popularity"} & set(seen)
    with pytest.raises(UserError, match=r"history is 17, must lie in 1\.\.16"):
        parse(make_data.options_for, ("--world", "fresh", "--out", str(tmp_path / "x"), "--history", "17"))
