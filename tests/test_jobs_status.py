"""jobs.status: what it says of runs that are new, at work, ended, killed or gone wrong, from their files alone."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from distributed.checkpoint import read as checkpoint
from distributed.training import loop as train_loop
from es import record
from jobs import evolve, status, train
from jobs.evolve.evolution import Arguments as EvolveArguments
from jobs.run import process as presence
from jobs.run import standing as run_standing
from jobs.run.standing import standing

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("batch_size=400", "stream.lanes=4", "model.embedding_width=4", "model.backbone.expert_hidden=8",
         "model.tower_hidden=4", "log_steps=3")  # fmt: skip


@pytest.fixture(scope="module")
def trained(small_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("status") / "train"
    train.run(train.Arguments(str(small_log), out, workers=0, epochs=2, set=SMALL))
    return out


@pytest.fixture
def unfinished(trained: Path, tmp_path: Path) -> Path:
    """A training that stands in its second epoch."""
    out = tmp_path / "train"
    shutil.copytree(trained, out)
    (out / "summary.json").unlink()
    lines = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    ends = [number for number, line in enumerate(lines) if '"event": "valid"' in line]
    (out / "metrics.jsonl").write_text("".join(lines[: ends[0] + 3]) + lines[-1][:9])
    return out


def at_work(out: Path, **changes: Any) -> None:
    """process.json of this very process, or of one that differs in something."""
    about = {"host": os.uname().nodename, "pid": os.getpid(), "born": presence.birth(os.getpid()), "since": "now"}
    (out / "process.json").write_text(json.dumps({**about, **changes}))


def test_a_finished_training(trained: Path) -> None:
    found = standing(trained)
    assert (found.kind, found.state, found.unit, found.done, found.total) == ("train", "finished", "epochs", 2.0, 2)
    assert found.step == 24
    assert found.rates["rows_per_s"] > 0
    assert found.figures["test ctr.auc"] == json.loads((trained / "summary.json").read_text())["ctr.auc"]
    assert found.checkpoint == "step-00000024"
    assert not (trained / "process.json").exists()


def test_a_training_at_work_says_how_long_it_will_take(unfinished: Path) -> None:
    at_work(unfinished)
    found = standing(unfinished)
    assert found.state == "running"
    assert 1.0 < found.done < 2.0
    assert found.eta_s == pytest.approx((2 - found.done) * 4800 / found.rates["rows_per_s"])
    assert found.process.startswith(f"alive: {os.getpid()}")
    assert found.checkpoint_age_s >= 0


@pytest.mark.parametrize(
    ("changes", "state", "process"),
    [
        ({"born": 1}, "stopped", "gone"),
        ({"pid": 2**22 + 7}, "stopped", "gone"),
        ({"ended": {"kind": "SystemExit", "message": "143"}}, "stopped", "stopped by SIGTERM"),
        (
            {"ended": {"kind": "Diverged", "message": "the loss is nan: training diverged"}},
            "diverged",
            "ended",
        ),
        ({"host": "elsewhere"}, "running", "not known"),
    ],
)
def test_what_became_of_its_process(unfinished: Path, changes: dict[str, Any], state: str, process: str) -> None:
    at_work(unfinished, **changes)
    found = standing(unfinished)
    assert found.state == state
    assert found.process.startswith(process)


def test_without_a_process_to_ask_the_files_ages_tell(unfinished: Path) -> None:
    (unfinished / "process.json").unlink(missing_ok=True)
    assert standing(unfinished).state == "running"
    before = time.time() - 3600
    for path in unfinished.rglob("*"):
        os.utime(path, (before, before))
    assert standing(unfinished).state == "stopped"
    for path in ("metrics.jsonl", "checkpoints"):
        target = unfinished / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    assert standing(unfinished).state == "new"


def test_names_and_imports_are_those_of_the_writers() -> None:
    assert (run_standing.CHECKPOINTS, run_standing.RECORD) == (train_loop.CHECKPOINTS, checkpoint.RECORD)
    assert run_standing.CHECKPOINT_FILE == record.CHECKPOINT_FILE
    program = "import sys, jobs.status; sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_evolutions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sphere"
    evolve.run(EvolveArguments(objective="sphere", out=out, workers=0, generations=8, pairs=4))
    found = standing(out)
    assert (found.kind, found.state, found.done, found.total) == ("evolve_objective", "finished", 8, 8)
    (out / "summary.json").unlink()
    found = standing(out)
    assert found.eta_s == 0
    assert {"return.centre", "return.best"} <= found.figures.keys()
    capsys.readouterr()
    status.run(status.Arguments((out,), json=True))
    assert json.loads(capsys.readouterr().out)[0]["unit"] == "generations"
    status.run(status.Arguments((out,)))
    assert "8 of 8" in capsys.readouterr().out


def test_an_exception_leaves_its_reason_behind_and_a_good_end_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with presence.present(tmp_path):
            assert presence.whereabouts(tmp_path)[0] == presence.ALIVE
            raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        fail()
    where, about = presence.whereabouts(tmp_path)
    assert where == presence.GONE
    assert about["ended"]["message"] == "no such thing"
    with presence.present(tmp_path):
        pass
    assert presence.whereabouts(tmp_path) == (presence.UNKNOWN, {})


def test_what_is_no_run_is_exit_code_2_and_a_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jobs.status", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}: is no run (it holds no run.json)\n"
    with pytest.raises(ValueError, match="no such run directory"):
        standing(tmp_path / "nowhere")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match="not readable as JSON"):
        standing(tmp_path)
