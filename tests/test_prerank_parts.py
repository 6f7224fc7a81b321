"""Pre-ranking in use: files for serving, the platform's stage, and tuning."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from data.errors import UserError
from data.log import open_log
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policies
from funnel.platform.world import new_world
from funnel.prerank.exporting import NAMES
from funnel.prerank.index import TopK
from funnel.prerank.settings import PreRankSettings
from funnel.prerank.trained import TrainedPreRanking
from funnel.prerank.tuning import PreRankTuning, PreRankTuningSettings
from funnel.prerank.weights_file import WEIGHTS, load_weights, save_weights
from jobs import export, train
from jobs.command.cli import parse
from jobs.make_data import options_for
from jobs.make_data import run as make
from models.two_tower import TowerConfig
from tests.support_prerank import QUICK, cascade


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cascade(tmp_path_factory.mktemp("cascade") / "stages")


# ---- serving


@pytest.fixture(scope="module")
def served(stages: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(run, what jobs.export made of it)."""
    place = tmp_path_factory.mktemp("served")
    words = ["--data", str(stages), "--out", str(place / "run"), "--problem", "prerank", *QUICK]
    train.run(train.arguments_of(*words))
    export.run(export.Arguments(place / "run", place / "out"))
    return place / "run", place / "out"


@pytest.mark.slow
def test_files_say_what_the_network_says(served: tuple[Path, Path], stages: Path) -> None:
    """Scores of queries and items from the files alone, against the run's own."""
    from distributed.finished_run import load_run

    run, out = served
    assert sorted(path.name for path in out.iterdir()) == sorted([*NAMES.values(), "items.parquet", "serving.json"])
    found, index = load_run(run), TopK.load(out)
    assert len(index) == index.vector_IO.shape[0] > 100
    log = open_log(stages)
    table = next(log.read(log.part("test"), list(found.problem.columns)))
    batch = found.problem.encode(table).batch()
    with torch.inference_mode():
        score_B = found.network(batch)["score"].numpy()
    module = torch.export.load(out / NAMES["pt2"]).module()
    first = batch.begin_L1[:-1]
    numeric = batch.rows.numeric_BN[first][:, list(found.problem.sides.query.numeric)].float()
    query_LO = module(numeric).detach().numpy()
    place = {item: k for k, item in enumerate(index.ids_I.to_pylist())}
    place_B = np.array([place[item] for item in table.column("item_id").to_pylist()])
    product_B = (query_LO[batch.list_B.numpy()] * index.vector_IO[place_B]).sum(1)
    np.testing.assert_allclose(product_B, score_B, atol=2e-4)
    top, scores = index.top(query_LO[:3], 5)
    whole = query_LO[:3] @ index.vector_IO.T
    np.testing.assert_array_equal(top, np.argsort(-whole, 1, kind="stable")[:, :5])
    np.testing.assert_allclose(scores, -np.sort(-whole, 1)[:, :5], rtol=1e-6)


@pytest.mark.slow
def test_weights_go_through_a_file(served: tuple[Path, Path], tmp_path: Path) -> None:
    problem, network = load_weights(served[1] / WEIGHTS)
    assert problem.settings.k == 16
    save_weights(problem, network, tmp_path / "again.npz")
    other = load_weights(tmp_path / "again.npz")[1]
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    with pytest.raises(UserError, match="no such file"):
        load_weights(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(UserError, match=r"bad\.npz: no pre-ranker's weights"):
        load_weights(tmp_path / "bad.npz")
    with torch.no_grad():
        network.rankers[0].log_scale.fill_(float("nan"))
    save_weights(problem, network, tmp_path / "nan.npz")
    with pytest.raises(UserError, match="no finite number"):
        load_weights(tmp_path / "nan.npz")


def test_the_index_is_exact_and_refuses_what_it_cannot_answer() -> None:
    rng = np.random.default_rng(0)
    vector_IO = rng.integers(-2, 3, (50, 3)).astype(np.float32)  # many equal scores
    index = TopK(pa.array([f"item {k}" for k in range(50)]), vector_IO)
    query_QO = rng.integers(-2, 3, (20, 3)).astype(np.float32)
    places, _ = index.top(query_QO, 7)
    np.testing.assert_array_equal(places, np.argsort(-(query_QO @ vector_IO.T), 1, kind="stable")[:, :7])
    with pytest.raises(UserError, match="the top 51 of 50 items: ask for 1 to 50"):
        index.top(query_QO, 51)
    with pytest.raises(UserError, match="no vectors of width 3"):
        index.top(query_QO[:, :2], 1)
    with pytest.raises(UserError, match="a query's vector is no finite number"):
        index.top(np.full((1, 3), np.nan, np.float32), 1)
    vector_IO[4, 1] = np.inf
    with pytest.raises(UserError, match="the vector of item 'item 4' is no finite number"):
        TopK(index.ids_I, vector_IO)


def test_a_point_wise_model_has_no_index(stages: Path, tmp_path: Path) -> None:
    words = ["--data", str(stages), "--out", str(tmp_path / "run"), "--problem", "prerank", *QUICK, "--epochs", "1"]
    train.run(train.arguments_of(*words, "--preset", "point_wise", "--stop-metric", "pauc"))
    with pytest.raises(UserError, match="no inner product"):
        export.run(export.Arguments(tmp_path / "run", tmp_path / "out"))


# ---- the platform's stage

SMALL = PlatformSettings(users=120, items=150, providers=20, uploads=5.0, categories=8, kept=20)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-ranker trained on a small platform's stage log, with users' histories."""
    place = tmp_path_factory.mktemp("platform")
    words = ["--world", "platform", "--log", "stages", "--rows", "9000", "--history", "4", "--users", "120", "--items",
             "150", "--providers", "20", "--uploads", "5", "--categories", "8", "--kept", "20", "--warmup", "1",
             "--rows-per-group", "1000", "--rows-per-file", "4000"]  # fmt: skip
    make(parse(options_for, [*words, "--out", str(place / "log")]))
    run = ["--data", str(place / "log"), "--out", str(place / "run"), "--problem", "prerank", *QUICK, "--k", "20"]
    train.run(train.arguments_of(*run, "--shown", "10", "--model.width", "4", "--epochs", "1"))
    export.run(export.Arguments(place / "run", place / "out", formats=("pt2",)))
    return place / "out" / WEIGHTS


@pytest.mark.slow
def test_the_platform_runs_a_trained_pre_ranker(weights: Path) -> None:
    """The same bits however blocks are cut, and another set than the plain stage's."""
    tree = {"preranking": {"kind": "trained", "weights": str(weights)}}
    ledgers = []
    for policy, block in ((tree, 512), (tree, 37), ({}, 512)):
        world = new_world(SMALL, 3, [Policies.of(policy, SMALL, 3)])
        world.block = block
        world.run(2)
        ledgers.append(world.ledger.table())
    np.testing.assert_array_equal(ledgers[0], ledgers[1])
    assert not np.array_equal(ledgers[0], ledgers[2])
    twin = world.copy([Policies.of(tree, SMALL, 3)])
    twin.copy().run(1)


@pytest.mark.slow
def test_its_score_is_the_network_s(weights: Path) -> None:
    """Up to the grid, in the order of the cosines."""
    world = new_world(SMALL, 3, [Policies.of({}, SMALL, 3)])
    seen: list[Any] = []
    world.watch = lambda arm, view, requests, passed, walked: seen.append((view, requests, passed.matched_RC))
    world.run(1)
    view, requests, item_RC = seen[-1]
    policy = Policies.of({"preranking": {"kind": "trained", "weights": str(weights)}}, SMALL, 3).preranking
    assert isinstance(policy, TrainedPreRanking)
    policy.tick(view)
    score_RC = policy.score(requests, item_RC, view)
    batch = policy.batch(np.arange(len(view)), None, view)
    ((_, item_IO),) = policy.vectors(batch, torch.tensor([0, len(view)]))
    rows = policy.batch(np.zeros(len(requests), np.int64), requests, view)
    ((query_RO, _),) = policy.vectors(rows, torch.arange(len(requests) + 1))
    expected = np.einsum("ro,rco->rc", query_RO, item_IO[np.maximum(item_RC, 0)])
    np.testing.assert_allclose(score_RC / 16, expected, atol=0.01)


@pytest.mark.slow
def test_weights_of_another_world_are_refused(served: tuple[Path, Path]) -> None:
    tree = {"preranking": {"kind": "trained", "weights": str(served[1] / WEIGHTS)}}
    with pytest.raises(UserError, match="was trained on the feature 'user_taste_0', which the platform has not"):
        Policies.of(tree, SMALL, 0)
    with pytest.raises(UserError, match="preranking: weights is needed"):
        Policies.of({"preranking": {"kind": "trained"}}, SMALL, 0)


# ---- tuning


def test_tuning_trains_counts_rows_and_keeps_to_the_limit(stages: Path) -> None:
    start = PreRankSettings(k=16, shown=5, ranked=5, cut=8, model=TowerConfig(hidden=(8,), output=4))
    settings = PreRankTuningSettings(stages, start, requests=100, judged=30, steps=6, batch=20, limit=12, trainings=2)
    tuning = PreRankTuning.open(settings, seed=1)
    objective = tuning.objective
    theta = objective.initial()
    assert objective.chosen(theta) == {"exposure_weight": pytest.approx(0.1), "click_weight": pytest.approx(0.5),
                                       "ranked": 5, "cut": 8}  # fmt: skip
    one, again = (objective.evaluate_batch(theta[None], np.array([7])) for _ in range(2))
    assert one.tolist() == again.tolist()
    figures = objective.figures(objective.chosen(theta), 7, "tune")
    assert figures["rows"] == 5 + 5 + 8
    assert figures["return"] == pytest.approx(figures["asph"] - 6.0)
    fewer = objective.figures({"ranked": 2, "cut": 3, "exposure_weight": 0.1, "click_weight": 0.5}, 7, "tune")
    assert fewer["rows"] == 10
    assert fewer["return"] == fewer["asph"]
    found = tuning.judge(theta, 10, 0)
    assert found["prerank.gain.return"] == 0
    assert not found["prerank.significant"]
    assert tuning.policy(theta)["settings"]["cut"] == 8
    assert tuning.facts()["requests"] == {"train": 100, "tune": 30, "valid": 30, "test": 30}
    with pytest.raises(UserError, match="neither task weights nor stages"):
        PreRankTuningSettings(stages, PreRankSettings(loss="pointwise"))
    with pytest.raises(UserError, match="--data is needed"):
        PreRankTuning.open(PreRankTuningSettings(), 0)
