"""The list scorer as a problem over sessions: what it sees, what it learns, any number of workers, what is refused."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score
from support import CPU, Killed, Settings, same_bits, settings_of, stream_of
from support_rerank import schema, write_sessions

from data.errors import UserError
from data.log import open_log
from distributed.finished_run import load_run
from distributed.training.job import TrainJob
from distributed.training.launch import prepare, run_training
from distributed.training.learner import Learner
from funnel.rerank.calibration import platt
from funnel.rerank.counts import BINS, LIMIT, SessionCounts
from funnel.rerank.features import RerankSettings, views
from funnel.rerank.problem import Rerank
from funnel.rerank.scorer import NetworkScorer, Watched
from funnel.rerank.units import HIDDEN_MOST, Sessions, hidden
from funnel.rerank.weights import load, save
from models.list_scorer import HEADS, Before, ListScorerConfig

SMALL = {
    "batch_size": 32,
    "epochs": 3,
    "log_steps": 5,
    "stream.lanes": 4,
    "stream.shuffle_rows": 100,
    "model.width": 4,
    "model.hidden": (16,),
    "model.output": 8,
    "model.before": 6,
    "model.backbone.experts": 2,
    "model.backbone.expert_hidden": (16, 8),
    "optimizer.learning_rate": 0.01,
}


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sessions(tmp_path_factory.mktemp("sessions") / "log")


def small(**more: object) -> Settings:
    return settings_of({**SMALL, **{key.replace("__", "."): value for key, value in more.items()}}, RerankSettings)


def job_of(run: Path, log: Path, given: Settings) -> TrainJob:
    run.mkdir(parents=True, exist_ok=True)
    return prepare(run, open_log(log), *given, started=0.0, problem="rerank")


def units_of(log: Path, part: str = "train") -> tuple[Rerank, Sessions]:
    problem = job_of(log.parent / "facts", log, small()).open_problem(CPU)
    opened = open_log(log)
    return problem, Sessions.join([problem.encode(table) for table in opened.read(opened.part(part), problem.columns)])


# ---- the network


def test_a_row_is_scored_by_what_stands_before_it_in_its_session(log: Path) -> None:
    problem, units = units_of(log, "test")
    network = problem.network(seed=1).eval()
    batch = units.batch()
    whole = network(batch)
    begin = units.lists.begin_L1
    # Alone, or behind other sessions: the same.
    one = network(units.take(slice(7, 8)).batch())
    for head in HEADS:
        torch.testing.assert_close(one[head], whole[head][begin[7] : begin[8]], rtol=1e-5, atol=1e-6)
    # By hand: the latest first, the feedback of all of them known.
    row = int(begin[np.diff(begin).argmax()]) + 4
    query_BO, item_BO = network.scorer.vectors(batch.lists.rows.ids_BK, batch.lists.rows.numeric_BN)
    back = torch.tensor([row - 1, row - 2, row - 3, row - 4])
    true = torch.ones(1, 4, dtype=torch.bool)
    before = Before(item_BO[back][None], true, true, batch.feedback_BF[back][None])
    by_hand = network.scorer.logits(query_BO[row][None], item_BO[row][None, None], before)[0, 0]
    torch.testing.assert_close(by_hand, torch.stack([whole[head][row] for head in HEADS]), rtol=1e-5, atol=1e-6)


def test_what_is_hidden_changes_nothing(log: Path) -> None:
    """In training, feedback of the last `hide` items reaches no score; in evaluation all of it does."""
    problem, units = units_of(log, "test")
    network = problem.network(seed=1)
    begin = units.lists.begin_L1
    row = int(begin[np.diff(begin).argmax()]) + 4
    hide_R = units.hide_R.copy()
    hide_R[row] = 2
    changed_RF = units.feedback_RF.copy()
    changed_RF[row - 2 : row] += 1.0
    one = dataclasses.replace(units, hide_R=hide_R)
    other = dataclasses.replace(one, feedback_RF=changed_RF)
    with torch.no_grad():
        for mode, same in ((True, True), (False, False)):
            network.train(mode)
            first, second = (network(each.batch())["view"][row] for each in (one, other))
            assert bool(first == second) is same
        network.train(True)
        nearer = dataclasses.replace(other, hide_R=np.where(np.arange(len(hide_R)) == row, 1, hide_R))
        assert network(nearer.batch())["view"][row] != first


def test_how_much_is_hidden_follows_from_the_session() -> None:
    session_R = np.repeat(np.arange(2000, dtype=np.uint64), 10)
    begin_L1 = np.arange(0, 20_001, 10)
    hide_R = hidden(session_R, begin_L1)
    assert (hide_R == 0).mean() == pytest.approx(0.5, abs=0.02)
    assert set(hide_R.tolist()) == set(range(HIDDEN_MOST + 1))
    np.testing.assert_array_equal(hidden(session_R[50:80], np.arange(0, 31, 10)), hide_R[50:80])


def test_taking_sessions_takes_all_their_rows(log: Path) -> None:
    _, units = units_of(log)
    index = np.array([3, 0, 3, len(units) - 1])
    begin = units.lists.begin_L1
    rows = np.concatenate([np.arange(begin[i], begin[i + 1]) for i in index])
    taken = units.take(index)
    np.testing.assert_array_equal(taken.label_R3, units.label_R3[rows])
    np.testing.assert_array_equal(taken.feedback_RF, units.feedback_RF[rows])
    again = Sessions.join([units.take(slice(0, 50)), units.take(slice(50, None))])
    np.testing.assert_array_equal(again.hide_R, units.hide_R)
    np.testing.assert_array_equal(again.lists.begin_L1, begin)


def test_a_scorer_of_lists_says_what_the_network_says(log: Path) -> None:
    """Planned items in a session's order, and watched ones before them: as rows whose feedback is hidden."""
    problem, units = units_of(log, "test")
    network = problem.network(seed=1)
    begin = units.lists.begin_L1
    number = int(np.diff(begin).argmax())
    one = units.take(slice(number, number + 1))
    batch, length = one.batch(), len(one.label_R3)
    with torch.no_grad():
        query_BO, item_BO = network.eval().scorer.vectors(batch.lists.rows.ids_BK, batch.lists.rows.numeric_BN)
    watched = Watched(item_BO[[1, 0]][None], torch.ones(1, 2, dtype=torch.bool), batch.feedback_BF[[1, 0]][None])
    scorer = NetworkScorer(network.scorer, dict.fromkeys(HEADS, (1.0, 0.0)), query_BO[4:5], item_BO[None], watched)
    chances = scorer(torch.tensor([0]), torch.tensor([[[2, 3]]]))
    network.train(True)
    hide_R = np.full(length, 2)
    with torch.no_grad():
        expected = network(dataclasses.replace(one, hide_R=hide_R).batch())
    for head, value in zip(HEADS, chances, strict=True):
        assert float(value[0, 0, 4]) == pytest.approx(float(expected[head][4].sigmoid()), rel=1e-5)
    alone = scorer.alone(torch.tensor([0]))
    assert float(alone.view[0, 0]) == pytest.approx(float(expected["view"][0].sigmoid()), rel=1e-5)


# ---- figures


def test_figures_are_those_of_scikit_learn(log: Path) -> None:
    units = units_of(log, "test")[1]
    rng = np.random.default_rng(0)
    logits = {head: torch.from_numpy(rng.normal(0, 2, len(units.label_R3))) for head in HEADS}
    counts = SessionCounts(1.0, 4.0)
    for part in (slice(0, 20), slice(20, None)):
        here = np.arange(len(units.label_R3))[units.lists.begin_L1[part.start] :][
            : None if part.stop is None else units.lists.begin_L1[part.stop] - units.lists.begin_L1[part.start]
        ]
        counts.add({head: value[here] for head, value in logits.items()}, units.take(part).batch(), pa.table({}))
    figures = counts.figures()
    place_R = units.batch().place_B.numpy()
    assert figures["sessions"] == len(units)
    for h, head in enumerate(HEADS):
        label_R, score_R = units.label_R3[:, h], logits[head].sigmoid().numpy()
        assert figures[f"{head}.log_loss"] == pytest.approx(log_loss(label_R, score_R), rel=1e-9)
        assert figures[f"{head}.auc"] == pytest.approx(roc_auc_score(label_R, score_R), abs=1e-3)
        assert figures[f"{head}.pcoc"] == pytest.approx(score_R.mean() / label_R.mean(), rel=1e-6)
        late_R = (place_R >= 2) & (place_R < 5)
        assert figures[f"{head}.log_loss.3-5"] == pytest.approx(log_loss(label_R[late_R], score_R[late_R]), rel=1e-9)
    reward_R = units.label_R3[:, 0] + 4 * units.label_R3[:, 1]
    assert figures["reward.observed"] == pytest.approx(reward_R.mean(), rel=1e-6)


def test_platt_is_a_logistic_regression() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(-1, 1.5, 20_000)
    y = rng.random(20_000) < 1 / (1 + np.exp(-(0.6 * x - 0.4)))
    bins = np.clip(((x + LIMIT) * BINS / (2 * LIMIT)).astype(int), 0, BINS - 1)
    counted = np.stack([np.bincount(bins[~y], minlength=BINS), np.bincount(bins[y], minlength=BINS)])
    slope, intercept = platt(counted, "it")
    reference = LogisticRegression(C=1e9).fit(x[:, None], y)
    assert slope == pytest.approx(float(reference.coef_[0, 0]), abs=2e-3)
    assert intercept == pytest.approx(float(reference.intercept_[0]), abs=2e-3)
    upside_down = platt(counted[:, ::-1], "it")
    assert upside_down[0] == 1.0
    chance = 1 / (1 + np.exp(-(-x + upside_down[1])))
    assert chance.mean() == pytest.approx(y.mean(), abs=1e-3)
    with pytest.raises(UserError, match="is the same in all rows of the part valid"):
        platt(np.zeros((2, BINS)), "a like")


# ---- through the loop


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_see_the_same_sessions_and_gradients_add_up(log: Path, tmp_path: Path, workers: int) -> None:
    job, opened = job_of(tmp_path, log, small()), open_log(log)
    problem = job.open_problem(CPU)
    network = problem.network(seed=0)
    steps = zip(*(stream_of(job, opened, rank, workers).epoch(0) for rank in range(workers)), strict=True)
    rows = 0
    for one, shares in zip(stream_of(job, opened).epoch(0), steps, strict=True):
        gradients = []
        for batches in ([one], list(shares)):
            network.zero_grad()
            outputs = [network(batch) for batch in batches]
            totals = sum(problem.totals(o, b) for o, b in zip(outputs, batches, strict=True))
            for output, batch in zip(outputs, batches, strict=True):
                problem.loss(output, batch, totals, 0)["loss"].backward()
            gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
        assert torch.equal(one.label_B3, torch.cat([batch.label_B3 for batch in shares]))
        rows += len(one.label_B3)
        for whole, parts in zip(*gradients, strict=True):
            torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)
    assert rows == opened.part("train").rows


def test_training_resumes_to_the_same_bits(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = small(epochs=2, checkpoint_steps=3)
    figures = run_training(job_of(tmp_path / "whole", log, given), workers=0)
    step = Learner.step
    dies = iter([*[False] * 9, True])

    def mortal(self: Learner, *arguments: object, **more: object) -> object:
        if next(dies, False):
            raise Killed
        return step(self, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Learner, "step", mortal)
    with pytest.raises(Killed):
        run_training(job_of(tmp_path / "killed", log, given), workers=0)
    monkeypatch.undo()
    run_training(job_of(tmp_path / "killed", log, given), workers=0)
    same_bits(tmp_path / "whole", tmp_path / "killed")
    assert figures["view.auc"] > 0.6
    weights = tmp_path / "list_scorer.npz"
    run = load_run(tmp_path / "whole")
    save(weights, run.problem, run.network.scorer, {"view": (0.9, 0.1), "like": (1.0, 0.0), "next": (1.0, 0.0)})  # type: ignore[arg-type]
    again = load(weights)
    assert again.maps["view"] == (0.9, 0.1)
    for name, tensor in run.network.scorer.state_dict().items():  # type: ignore[union-attr]
        assert torch.equal(tensor, again.scorer.state_dict()[name])
    assert weights.stat().st_size < 6 * 2**20


# ---- what is refused


def rewrite(source: Path, target: Path, change: Callable[[pa.Table], pa.Table]) -> Path:
    shutil.copytree(source, target)
    path = sorted((target / "train").glob("*.parquet"))[0]
    pq.write_table(change(pq.read_table(path)), path)
    return target


def put(table: pa.Table, name: str, row: int, value: object) -> pa.Table:
    values = table.column(name).to_pylist()
    values[row] = value
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values))


def swapped(table: pa.Table) -> pa.Table:
    """The first two rows of the first session of two rows or more change places."""
    visit = table.column("visit_id").to_numpy()
    row = int(np.flatnonzero(visit[1:] == visit[:-1])[0])
    order = np.arange(table.num_rows)
    order[[row, row + 1]] = [row + 1, row]
    return table.take(pa.array(order))


def goes_on(table: pa.Table) -> pa.Table:
    visit = table.column("visit_id").to_numpy()
    return put(table, "has_next", int(np.flatnonzero(visit[1:] == visit[:-1])[0]), 0)


def test_a_pattern_of_left_out_that_matches_nothing_is_refused(log: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no feature matches --left-out nope"):
        job_of(tmp_path / "run", log, small(left_out=["item_id", "nope"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: put(t, "like", 7, 2), "row 7: column 'like' is 2, must be 0 or 1"),
        (lambda t: put(t, "has_next", 7, None), "row 7: column 'has_next' is missing, must be 0 or 1"),
        (lambda t: put(t, "dwell", 9, -1.0), "row 9: column 'dwell' is -1, must be a number of at least 0"),
        (swapped, "must rise within a session: sessions are out of order"),
        (goes_on, "column 'has_next' is 0, in the row before, but the session goes on"),
        (lambda t: t.drop_columns(["effective_view"]), "'effective_view'"),
        (lambda t: t.set_column(t.schema.get_field_index("like"), "like", pc.multiply(t.column("like"), 0)),
         "'like' is the same in all"),
    ],
)  # fmt: skip
def test_a_log_that_is_no_log_of_sessions_is_refused(
    log: Path, tmp_path: Path, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    wrong = rewrite(log, tmp_path / "log", change)
    with pytest.raises(UserError, match=message) as raised:
        job_of(tmp_path / "run", wrong, small())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (RerankSettings(query=("asker_*",)), r"no feature matches --query asker_\*; it has user_group"),
        (RerankSettings(item=("item_*", "user_*")), "'user_group' matches both --query and --item"),
        (RerankSettings(left_out=("item_*", "rank_*", "content_*")), "no feature matches --item"),
        (RerankSettings(like="rank_score"), "'rank_score' is what came of an item"),
    ],
)
def test_what_a_schema_cannot_give_is_one_line(settings: RerankSettings, message: str) -> None:
    with pytest.raises(UserError, match=message):
        views(settings, schema())


def test_weights_that_are_none_are_refused(tmp_path: Path, log: Path) -> None:
    problem, _ = units_of(log)
    with pytest.raises(UserError, match=r"no such file; jobs\.export writes a list_scorer\.npz"):
        load(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no weights")
    with pytest.raises(UserError, match="not the weights of a list scorer"):
        load(tmp_path / "text.npz")
    scorer = problem.scorer()
    scorer.heads[0].bias.data.fill_(float("nan"))  # type: ignore[union-attr,operator]
    save(tmp_path / "nan.npz", problem, scorer, None)
    with pytest.raises(UserError, match=r"heads\.0\.bias holds numbers that are not finite"):
        load(tmp_path / "nan.npz")
    other = Rerank(
        dataclasses.replace(problem.settings, model=ListScorerConfig(output=4)), problem.schema, problem.facts
    )
    save(tmp_path / "other.npz", other, problem.scorer(), None)
    with pytest.raises(UserError, match=r"has the shape .* where its settings and schema say"):
        load(tmp_path / "other.npz")
