"""From a training to files for a device: commands, equality with scoring, size; and evolution's command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support_rerank import write_sessions

from data.errors import UserError
from data.log import open_log
from distributed.finished_run import load_run
from funnel.graph_files import load as load_graph
from funnel.rerank.export import scored
from funnel.rerank.graph import INPUTS
from funnel.rerank.units import Sessions
from funnel.rerank.weights import load
from jobs import calibrate, evolve, export, train

SMALL = ("--workers", "0", "--epochs", "4", "--batch-size", "16", "--stream.lanes", "2", "--model.output", "8",
         "--model.hidden", "8", "--model.before", "6", "--optimizer.learning-rate", "0.01")  # fmt: skip


@pytest.mark.slow
def test_a_trained_scorer_becomes_files_that_say_the_same(tmp_path: Path) -> None:
    log, run, out = (tmp_path / name for name in ("log", "run", "phone"))
    write_sessions(log, train=300, other=80)
    train.run(train.arguments_of("--problem", "rerank", "--data", str(log), "--out", str(run), *SMALL))
    summary = calibrate.run(calibrate.arguments_of("--run", str(run)))
    assert summary["calibrated.reward.ratio"] == pytest.approx(1.0, abs=0.2)
    assert summary["calibrated.view.log_loss"] < summary["view.log_loss"] + 0.01
    export.run(export.Arguments(run=run, out=out, rows=200))
    served = json.loads((out / "serving.json").read_text())
    assert set(served["files"]) == {"list_scorer.pt2", "list_scorer.onnx", "list_scorer.npz"}
    assert max(one["bytes"] for one in served["files"].values()) < 6 * 2**20
    for kind, found in served["check"]["largest_difference"].items():
        assert max(found.values()) < 1e-5, kind
    # By hand, through the file: 2 contexts of 3 items, the calibration in it.
    finished, weights = load_run(run), load(out / "list_scorer.npz")
    opened = open_log(log)
    tables = opened.read(opened.part("test"), list(finished.problem.columns))
    sessions = Sessions.join([finished.problem.encode(table) for table in tables])
    begin = int(sessions.lists.begin_L1[np.diff(sessions.lists.begin_L1).argmax()])
    rows, expected_B3 = (
        sessions.lists.rows.take(slice(begin, begin + 3)),
        scored(finished.network, sessions, weights.maps),
    )  # type: ignore[arg-type]
    before_CN = np.full((2, 6), -1)
    before_CN[1, :2] = [1, 0]
    told_CNF = np.zeros((2, 6, 4), np.float32)
    told_CNF[1, :2] = sessions.feedback_RF[[begin + 1, begin]]
    inputs = [
        rows.ids_RK,
        rows.numeric_RN.astype(np.float32),
        np.array([0, 2]),
        before_CN,
        (before_CN >= 0) * 1.0,
        told_CNF,
    ]
    inputs[4] = inputs[4].astype(np.float32)
    for kind in ("onnx", "pt2"):
        outputs = load_graph(kind, out / f"list_scorer.{kind}", INPUTS)(inputs)
        for h, value_CI in enumerate(outputs):
            assert value_CI.shape == (2, 3)
            assert value_CI[0, 0] == pytest.approx(expected_B3[begin, h], abs=1e-6)
            assert value_CI[1, 2] == pytest.approx(expected_B3[begin + 2, h], abs=1e-6)
    # A calibration of another model is refused.
    path = run / "model" / "calibration.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model": "another"}))
    with pytest.raises(UserError, match=r"was fitted on another model .*: run jobs\.calibrate again"):
        export.run(export.Arguments(run=run, out=tmp_path / "again", rows=50))


@pytest.mark.slow
def test_evolution_tunes_the_search(tmp_path: Path) -> None:
    from test_rerank_stage import weights_of

    from funnel.platform.settings import PlatformSettings

    world = PlatformSettings(users=40, items=80, providers=8, uploads=4, categories=6)
    path = weights_of(tmp_path / "list_scorer.npz", world)
    words = [
        f"--world.{name}={getattr(world, name):g}" for name in ("users", "items", "providers", "uploads", "categories")
    ]
    out = tmp_path / "tuned"
    found = evolve.run(
        evolve.arguments_of(
            "--objective", "rerank", "--out", str(out), "--start.weights", str(path), "--start.k", "2",
            "--start.candidates", "12", *words, "--episode.first", "1", "--episode.days", "1", "--episode.settle", "0",
            "--worlds", "2", "--held-out", "2", "--generations", "1", "--pairs", "1", "--workers", "0",
        )
    )  # fmt: skip
    assert "rerank.gain.return" in found
    policy = json.loads((out / "policy.json").read_text())
    assert policy["reranking"]["kind"] == "list"
    assert torch.isfinite(torch.tensor(policy["reranking"]["stability"]))
