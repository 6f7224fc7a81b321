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
from support import wait_until

from jobs import evolve, status, train
from jobs.command.cli import parse
from jobs.run import process as run_process
from jobs.run.run_status import read_status

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("--batch-size", "400", "--stream.lanes", "4", "--model.embedding-width", "4", "--model.backbone.experts", "2",
         "--model.backbone.expert-hidden", "8", "--model.tower-hidden", "4", "--log-steps", "3")  # fmt: skip


@pytest.fixture(scope="module")
def trained(small_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("status") / "train"
    train.run(train.arguments_of("--data", str(small_log), "--out", str(out), "--workers", "0", *SMALL))
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
    pid = os.getpid()
    about = {"host": os.uname().nodename, "pid": pid, "born": run_process.started_at(pid), "since": "now"}
    about |= {"unit": "epochs", "done": 1.5, "total": 2, "rate": 0.01}
    (out / "process.json").write_text(json.dumps({**about, **changes}))


def test_a_finished_training(trained: Path) -> None:
    found = read_status(trained)
    assert (found.kind, found.state, found.unit, found.done, found.total) == ("train", "finished", "epochs", 2, 2)
    assert found.figures["step"] == 24
    valid = [line for line in map(json.loads, (trained / "metrics.jsonl").open()) if line["event"] == "valid"]
    assert found.figures["valid CTR AUC"] == valid[-1]["ctr.auc"]
    assert found.checkpoint_age_s is not None
    assert json.loads((trained / "process.json").read_text())["ended"]["kind"] == "finished"


def test_a_run_at_work_says_how_long_it_will_take(unfinished: Path) -> None:
    at_work(unfinished)
    found = read_status(unfinished)
    assert found.state == "running"
    assert (found.done, found.total, found.unit) == (1.5, 2, "epochs")
    assert found.eta_s == pytest.approx(0.5 / 0.01)
    assert found.process.startswith(f"alive: {os.getpid()}")
    assert found.checkpoint_age_s is not None
    assert found.checkpoint_age_s >= 0


def test_the_rate_is_what_this_start_has_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moment = [1000.0]
    monkeypatch.setattr(run_process.time, "time", lambda: moment[0])
    written = []
    with run_process.present(tmp_path) as process:
        for done in (40, 41, 43, 50):
            process.update("generations", done, 60, {"return": done * 0.5})
            written.append(json.loads((tmp_path / "process.json").read_text()))
            moment[0] += 0.4
    assert [one["done"] for one in written] == [40, 40, 40, 50]  # once a second at most
    assert written[-1]["rate"] == pytest.approx(10 / 1.2)
    assert written[-1]["figures"] == {"return": 25.0}
    assert json.loads((tmp_path / "process.json").read_text())["ended"]["kind"] == "finished"


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
    found = read_status(unfinished)
    assert found.state == state
    assert found.process.startswith(process)


def test_without_a_process_to_ask_the_files_ages_tell(unfinished: Path) -> None:
    (unfinished / "process.json").unlink(missing_ok=True)
    assert read_status(unfinished).state == "running"
    before = time.time() - 3600
    for path in unfinished.rglob("*"):
        os.utime(path, (before, before))
    assert read_status(unfinished).state == "stopped"
    for name in ("metrics.jsonl", "checkpoints"):
        target = unfinished / name
        shutil.rmtree(target) if target.is_dir() else target.unlink()
    assert read_status(unfinished).state == "new"


def test_it_needs_no_heavy_import() -> None:
    program = "import sys, jobs.status; sys.exit('torch' in sys.modules or 'ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_a_run_of_an_earlier_version(trained: Path, tmp_path: Path) -> None:
    """It left no process.json: its summary says that it is finished."""
    out = tmp_path / "train"
    shutil.copytree(trained, out)
    (out / "process.json").unlink()
    assert (read_status(out).state, read_status(out).done) == ("finished", None)


def test_evolutions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sphere"
    words = ["--objective", "sphere", "--out", str(out), "--workers", "0", "--generations", "8", "--pairs", "4"]
    evolve.run(parse(evolve.options, words))
    found = read_status(out)
    assert (found.state, found.unit, found.done, found.total) == ("finished", "generations", 8, 8)
    capsys.readouterr()
    status.run(status.Arguments((out,), json=True))
    assert json.loads(capsys.readouterr().out)[0]["unit"] == "generations"
    status.run(status.Arguments((out,)))
    assert "8 of 8" in capsys.readouterr().out


def test_a_silent_process_shows_that_it_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another machine that is all there is to go by."""
    monkeypatch.setattr(run_process, "ALIVE_S", 0.02)
    path = tmp_path / "process.json"
    with run_process.present(tmp_path) as process:
        process.update("stages", 1, None)
        path.unlink()
        wait_until(path.exists)
        assert json.loads(path.read_text())["done"] == 1


def test_an_end_without_a_summary_is_none_yet(unfinished: Path) -> None:
    """An evolution is judged on held-out data after it has ended; a run that is killed there has not finished."""
    ended = {"kind": "finished", "message": "", "at": 0.0}
    at_work(unfinished, ended=ended)
    assert read_status(unfinished).state == "running"
    at_work(unfinished, ended=ended, born=1)
    assert read_status(unfinished).state == "stopped"
    (unfinished / "summary.json").write_text("{}")
    at_work(unfinished, ended=ended)
    assert read_status(unfinished).state == "finished"


def test_an_emptied_process_file_is_none(unfinished: Path) -> None:
    """A power cut may leave it so: it is written without fsync."""
    (unfinished / "process.json").write_text("")
    assert read_status(unfinished).process == "not known"


def test_how_a_process_ended_stays_behind(tmp_path: Path) -> None:
    def fail() -> None:
        with run_process.present(tmp_path):
            assert run_process.find_process(tmp_path)[0] == run_process.ALIVE
            raise ValueError("no such thing")

    with pytest.raises(ValueError, match="no such thing"):
        fail()
    where, about = run_process.find_process(tmp_path)
    assert where == run_process.GONE
    assert about["ended"]["message"] == "no such thing"
    with run_process.present(tmp_path):
        (tmp_path / "summary.json").write_text("{}")
    where, about = run_process.find_process(tmp_path)
    assert (where, about["ended"]["kind"]) == (run_process.GONE, "finished")


def test_a_signal_that_comes_with_the_first_word_is_an_end_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once process.json names this process, its end is in it, however soon it comes."""
    write = run_process.write_json

    def written_and_told_to_go(path: Path, about: dict) -> None:
        write(path, about)
        raise SystemExit(143)

    monkeypatch.setattr(run_process, "write_json", written_and_told_to_go)
    with pytest.raises(SystemExit), run_process.present(tmp_path):
        raise AssertionError("it was to end before")
    where, about = run_process.find_process(tmp_path)
    assert where == run_process.GONE
    assert (about["ended"]["kind"], about["ended"]["message"]) == ("SystemExit", "143")


def test_what_is_no_run_is_exit_code_2_and_a_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jobs.status", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}: is no run (it holds no run.json)\n"
    with pytest.raises(ValueError, match="no such run directory"):
        read_status(tmp_path / "nowhere")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match="not readable as JSON"):
        read_status(tmp_path)
