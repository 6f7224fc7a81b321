"""Pre-ranking through the loop: samples, figures by hand, any number of workers, resume, and what is refused."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from support import CPU, Killed, events, same_bits, stream_of

from data.log import open_log
from distributed.finished_run import load_run
from distributed.training.launch import run_training
from distributed.training.learner import Learner
from distributed.training.validation import count
from funnel.figures.grouped_auc import auc_by_user
from funnel.panels import Curve, Record
from funnel.prerank.counts import ONE, PreRankCounts, grid, ranks
from funnel.prerank.problem import PreRank
from funnel.prerank.samples import draw_order, packed, unpacked
from jobs import train
from tests.support_prerank import QUICK, by_hand, cascade, job_of, problem_of, row, teacher_run


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cascade(tmp_path_factory.mktemp("cascade") / "stages")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teacher_run(tmp_path_factory.mktemp("teacher"))


# ---- samples


def test_a_sample_is_what_was_shown_and_a_draw_of_the_rest(stages: Path) -> None:
    log = open_log(stages)
    for seed, other in ((0, 0), (0, 1)):
        drawn = []
        for draw_seed in (seed, other):
            problem = problem_of(stages, k=16, shown=5, ranked=5, cut=8, draw_seed=draw_seed)
            table = next(log.read(log.part("valid"), list(problem.columns)))
            batch = problem.encode(table).batch()
            mark = {name: batch.rows.labels[name].numpy() == 1 for name in batch.rows.labels}
            list_B = batch.list_B.numpy()
            for name, most in (("exposed", 5), ("ranked", 5), ("cut", 8)):
                assert np.bincount(list_B[mark["drawn"] & mark[name]]).tolist() == [most] * len(batch), name
            assert not (mark["drawn"] & ~(mark["exposed"] | mark["ranked"] | mark["cut"])).any()
            drawn.append(mark["drawn"])
        assert (drawn[0] == drawn[1]).all() == (seed == other)


def test_a_draw_does_not_depend_on_what_is_read_together(stages: Path) -> None:
    problem, log = problem_of(stages, k=16, shown=5, ranked=5, cut=8), open_log(stages)
    table = pa.concat_tables(list(log.read(log.part("train"), list(problem.columns))))
    whole = problem.encode(table)
    begins = whole.lists.begin_L1
    cut = int(begins[len(whole) // 2])
    halves = [problem.encode(part) for part in (table.slice(0, cut), table.slice(cut))]
    again = np.concatenate([half.lists.rows.labels["drawn"] for half in halves])
    np.testing.assert_array_equal(again, whole.lists.rows.labels["drawn"])


def test_rows_that_the_log_did_not_draw_are_left_out_unless_they_are_kept(stages: Path) -> None:
    log = open_log(stages)
    for keep in (False, True):
        problem = problem_of(stages, k=16, shown=5, ranked=5, cut=8, keep=keep)
        table = pa.concat_tables(list(log.read(log.part("train"), list(problem.columns))))
        labels = problem.encode(table).lists.rows.labels
        not_sampled = table.column("sampled").to_numpy() == 0
        assert not_sampled.any()
        assert bool((labels["drawn"][not_sampled] == 1).any()) is keep


def test_drawing_the_first_of_each_list() -> None:
    list_R = np.array([0, 0, 0, 1, 1, 2])
    share_R = np.array([5, 1, 3, 9, 2, 7], np.uint64)
    among_R = np.array([1, 1, 1, 1, 0, 0], bool)
    place_R = draw_order(list_R, share_R, among_R)
    assert place_R[:4].tolist() == [2, 0, 1, 0]
    assert (place_R[4:] > 1 << 30).all()


def test_one_triple_for_each_user_and_item(tmp_path: Path) -> None:
    """Item 7 is bought elsewhere after requests 0 and 3, both of user 0: it counts for the later one alone."""
    rows = [row(r, i, "shown" if i == 1 else "cut") for r in range(6) for i in range(1, 9)]
    for one in rows:
        bought = one["item_id"] == 7 and one["request_id"] in (0, 3, 4)
        one.update(elsewhere_click=int(bought), elsewhere_purchase=int(bought), click=int(one["item_id"] == 1))
    rows[0]["purchase"] = 1
    problem = problem_of(by_hand(tmp_path / "log", rows), ranked=0)
    log = open_log(tmp_path / "log")
    labels = problem.encode(next(log.read(log.part("test"), list(problem.columns)))).lists.rows.labels
    found = [(one["request_id"], one["item_id"]) for one, label in zip(rows, labels["elsewhere_purchase"], strict=True)
             if label]  # fmt: skip
    assert found == [(3, 7), (4, 7)]
    assert labels["elsewhere_click"].tolist() == labels["elsewhere_purchase"].tolist()


def test_numbers_survive_as_text() -> None:
    numbers = np.array([2**64 - 1, 0, 5], np.uint64)
    assert unpacked(packed(numbers)).tolist() == [0, 5, 2**64 - 1]


# ---- figures


def scored_log(tmp_path: Path) -> tuple[Path, list[float]]:
    """Request 0: items 1 .. 6, of which 1 and 2 are shown, scores 6 .. 1; bought elsewhere: items 2 and 6, and item 9,
    which is no candidate. Request 1: nothing elsewhere; item 2 bought here. Scores of request 1 are all the same."""
    rows, scores = [], []
    for request in (0, 1):
        for item in range(1, 7):
            stage = "shown" if item < 3 else "ranked" if item == 3 else "cut"
            more = {"click": int(item == 2), "purchase": int(item == 2 and request == 1), "rank_score": float(item)}
            more |= dict.fromkeys(("elsewhere_click", "elsewhere_purchase"), int(request == 0 and item in (2, 6)))
            rows.append(row(request, item, stage, **more))
            scores.append(7.0 - item if request == 0 else 1.0)
    rows.insert(6, row(0, 9, "outside", elsewhere_click=1, elsewhere_purchase=1, rank_score=float("nan")))
    scores.insert(6, 99.0)
    return by_hand(tmp_path / "log", rows), scores


def counted(log_dir: Path, scores: list[float], **settings: Any) -> PreRankCounts:
    problem, log = problem_of(log_dir, **settings), open_log(log_dir)
    counts = problem.counts(log, log.part("test"), truth=True)
    table = pa.concat_tables(list(log.read(log.part("test"), list(dict.fromkeys([*problem.columns, *counts.columns])))))
    counts.add({"score": torch.tensor(scores)}, problem.encode(table).batch(), table)
    return counts


def test_hit_rates_by_hand_with_purchases_that_are_no_candidates(tmp_path: Path) -> None:
    log_dir, scores = scored_log(tmp_path)
    figures = counted(log_dir, scores).figures()
    # Of request 0 the first 3 are items 1, 2, 3: one of three targets; item 9 can never be found.
    assert figures["asph"] == pytest.approx(1 / 3, abs=1e-9)
    assert figures["asph.5"] == pytest.approx(1 / 3, abs=1e-9)
    assert figures["requests.asph"] == 1
    # Ties count against: item 2 of request 1 is no better than five others.
    assert figures["isph"] == 0
    assert figures["isph.5"] == 0
    assert figures["requests"] == 2
    # The ranker prefers items 3 and 2 among the first 3, and of these it shows 2: item 2 is still there.
    assert figures["recall"] == pytest.approx(1 / 3, abs=1e-9)
    assert counted(log_dir, scores, shown=1).figures()["recall"] == 0
    assert counted(log_dir, scores, k=5, shown=2).figures()["recall"] == 0  # items 5 and 4 take its place
    curves = counted(log_dir, scores).curves()["hit_rates"]
    assert curves["k"] == [3, 5]
    assert curves["own"] == 3


def test_the_order_of_what_was_shown(tmp_path: Path) -> None:
    log_dir, scores = scored_log(tmp_path)
    figures = counted(log_dir, scores).figures()
    assert figures["pauc"] == pytest.approx(0.5, abs=1e-9)  # request 1, a tie
    assert figures["requests.pauc"] == 1
    # Weighted: request 0 ranks item 1 first. Chances: half of an even row from .1 to .9 over 13 rows.
    p = [0.5 * (0.1 + 0.8 * k / 12) for k in (0, 1)]
    first = p[0] * (1 - p[1]) / (p[0] * (1 - p[1]) + p[1] * (1 - p[0]))
    assert figures["pauc.true"] == pytest.approx((first + 0.5) / 2, abs=1e-6)


def test_figures_are_those_of_slow_references(stages: Path) -> None:
    problem, log = problem_of(stages, k=16, shown=5), open_log(stages)
    part = log.part("test")
    counts = problem.counts(log, part)
    rng = np.random.default_rng(3)
    tables = list(log.read(part, list(dict.fromkeys([*problem.columns, *counts.columns]))))
    rates: dict[int, list[float]] = {k: [] for k in (5, 16)}
    ends, aucs = [], []
    for table in tables:
        batch = problem.encode(table).batch()
        score = torch.from_numpy(rng.normal(size=table.num_rows).astype(np.float32))
        counts.add({"score": score}, batch, table)
        z, mark = score.numpy(), {name: label.numpy() == 1 for name, label in batch.rows.labels.items()}
        later = table.column("rank_score").to_numpy()
        for a, b in itertools.pairwise(batch.begin_L1.tolist()):
            candidates = [i for i in range(a, b) if mark["candidate"][i]]
            targets = {i for i in range(a, b) if mark["elsewhere_purchase"][i]}
            order = sorted(candidates, key=lambda i: -z[i])
            if targets:
                for k, found in rates.items():
                    found.append(len(targets & set(order[:k])) / len(targets))
                page = sorted(order[:16], key=lambda i: -later[i])[:5]
                ends.append(len(targets & set(page)) / len(targets))
            shown = [i for i in range(a, b) if mark["exposed"][i]]
            auc, _ = auc_by_user(np.zeros(len(shown), int), z[shown], mark["conversion"][shown].astype(float))
            aucs += [auc[0]] if np.isfinite(auc[0]) else []
    figures = counts.figures()
    assert figures["asph.5"] == pytest.approx(np.mean(rates[5]), abs=1e-9)
    assert figures["asph"] == pytest.approx(np.mean(rates[16]), abs=1e-9)
    assert figures["recall"] == pytest.approx(np.mean(ends), abs=1e-9)
    assert figures["pauc"] == pytest.approx(np.mean(aucs), abs=1e-9)


def test_the_online_pre_ranker_loses_nothing_that_was_bought(stages: Path) -> None:
    """ISPH is 1 at k = what it hands on: nothing else could be bought."""
    problem, log = problem_of(stages, k=16, shown=5), open_log(stages)
    part = log.part("test")
    counts = problem.counts(log, part)
    for table in log.read(part, [*dict.fromkeys([*problem.columns, *counts.columns]), "prerank_score"]):
        score = torch.from_numpy(np.nan_to_num(table.column("prerank_score").to_numpy()))
        counts.add({"score": score}, problem.encode(table).batch(), table)
    assert counts.figures()["isph"] == 1.0
    assert counts.figures()["asph"] < 1.0


def test_ranks_count_ties_against() -> None:
    score = np.array([[3.0, 1.0, 3.0, -np.inf, 2.0]])
    found = ranks(score)[0]
    assert found[[0, 1, 2, 4]].tolist() == [1, 3, 1, 2]
    assert found[3] > 100
    assert grid(7)[:3] == (5, 7, 10)


# ---- any number of workers, resume


@pytest.mark.parametrize("workers", [2, 3])
def test_gradients_and_counts_of_workers_add_up(stages: Path, teacher: Path, tmp_path: Path, workers: int) -> None:
    job, log = job_of(tmp_path, stages, {"teacher": str(teacher)}), open_log(stages)
    problem = job.open_problem(CPU)
    network = problem.network(seed=0)
    network.train()
    steps = zip(*(stream_of(job, log, rank, workers).epoch(0) for rank in range(workers)), strict=True)
    seen = 0
    for one, shares in zip(stream_of(job, log).epoch(0), steps, strict=True):
        gradients = []
        for batches in ([one], list(shares)):
            network.zero_grad()
            whole = [problem.complete(batch) for batch in batches]
            outputs = [network(batch) for batch in whole]
            totals = sum(problem.totals(o, b) for o, b in zip(outputs, whole, strict=True))
            for output, batch in zip(outputs, whole, strict=True):
                problem.loss(output, batch, totals, 0)["loss"].backward()
            gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
        seen += len(one)
        assert sum(map(len, shares)) == len(one)
        for alone, together in zip(*gradients, strict=True):
            torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-6)
    assert seen == 160
    # Sums of disjoint shares of the row groups are the same whole numbers.
    part = job.parts["test"]
    groups = [problem.counts(log, part, truth=True) for _ in range(workers)]
    whole_counts = count(problem, network, log, part, problem.counts(log, part, truth=True))
    for rank, counts in enumerate(groups):
        for number, table in enumerate(log.read(part, list(dict.fromkeys([*problem.columns, *counts.columns])))):
            if number % workers == rank:
                network.eval()
                with torch.inference_mode():
                    batch = problem.encode(table).batch()
                    counts.add(network(batch), batch, table)
    for number, total in enumerate(whole_counts.sums()):
        assert torch.equal(sum(counts.sums()[number] for counts in groups), total)  # type: ignore[arg-type]
    assert int(whole_counts.sums()[0].max()) > ONE


@pytest.mark.slow
def test_training_learns_and_resumes_to_the_same_bits(
    stages: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"teacher": str(teacher)}
    figures = run_training(job_of(tmp_path / "whole", stages, given, checkpoint_steps=3, epochs=3), workers=0)
    assert figures["asph"] > 1.1 * 16 / 40  # chance
    step = Learner.step

    def dying(self: Learner, batch: object, number: int) -> dict[str, torch.Tensor]:
        if number == 14:
            raise Killed
        return step(self, batch, number)

    monkeypatch.setattr(Learner, "step", dying)
    with pytest.raises(Killed):
        run_training(job_of(tmp_path / "broken", stages, given, checkpoint_steps=3, epochs=3), workers=0)
    monkeypatch.setattr(Learner, "step", step)
    again = run_training(job_of(tmp_path / "broken", stages, given, checkpoint_steps=3, epochs=3), workers=0)
    same_bits(tmp_path / "whole", tmp_path / "broken")
    assert again["asph"] == figures["asph"]
    found = load_run(tmp_path / "whole")
    assert found.problem.name == "prerank"
    assert "loss.distill.purchase" in events(tmp_path / "whole", "step")[-1]
    record = Record({}, events(tmp_path / "whole", "valid"), figures, {"evaluation": figures.get("curves", {})})
    assert PreRank.panels(record)


@pytest.mark.ray
@pytest.mark.slow
def test_ray_workers_train_what_one_process_trains(
    ray_cluster: None, stages: Path, teacher: Path, tmp_path: Path
) -> None:
    """As a user starts it, with a teacher that every worker opens for itself."""
    figures, weights = [], []
    for workers in (0, 2):
        words = ["--problem", "prerank", "--data", str(stages), "--out", str(tmp_path / str(workers)), *QUICK]
        given = train.arguments_of(*words, "--given", f"teacher={teacher}", "--workers", str(workers))
        figures.append(train.run(given))
        weights.append(load_run(given.out).network.state_dict())
    assert figures[1]["train.workers"] == 2
    assert figures[1]["train.steps"] == figures[0]["train.steps"]
    assert figures[1]["requests"] == figures[0]["requests"] == 40
    for name in ("asph", "isph", "recall", "pauc", "pauc.true"):
        assert figures[1][name] == pytest.approx(figures[0][name], abs=0.02), name  # a tie that falls the other way
    losses = [[event["loss"] for event in events(tmp_path / name, "step")] for name in ("0", "2")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert len(weights[0]) >= 8
    for name, expected in weights[0].items():
        torch.testing.assert_close(weights[1][name], expected, rtol=2e-3, atol=2e-5, msg=name)


@pytest.mark.slow
def test_every_variant_trains(stages: Path, teacher: Path, tmp_path: Path) -> None:
    taught = {"teacher": str(teacher)}
    for name, settings, given in (
        ("point", {"loss": "pointwise", "ranked": 0, "cut": 0, "distill": "none", "stop_metric": "pauc"}, {}),
        ("softmax", {"loss": "softmax", "labels": "in", "exposure_weight": 0.0}, taught),
        ("survival", {"loss": "survival", "distill": "all"}, taught),
        ("shown", {"ranked": 0, "cut": 0, "keep": True}, {}),
    ):
        figures = run_training(job_of(tmp_path / name, stages, given, epochs=1, **settings), workers=0)
        assert 0 < figures["asph"] < 1, name
        assert math.isfinite(figures["pauc"]), name
        assert figures["recall"] <= figures["asph"]


def test_the_page_shows_curves_over_k() -> None:
    rates = {"k": [5, 60], "asph": [0.1, 0.5], "isph": [0.2, 0.9], "own": 60}
    panels = PreRank.panels(Record({}, [], {"asph": 0.5}, {"evaluation": {"hit_rates": rates}}))
    curves = [panel for panel in panels if isinstance(panel, Curve)]
    assert [curve.title for curve in curves] == ["ASPH by k", "ISPH by k"]
    assert curves[0].series[0].y == [0.1, 0.5]
