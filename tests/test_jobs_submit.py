"""Submitting to a real cluster with a token: a head of its own on free ports, jobs followed, stopped and resumed."""

import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.cluster.job_server import check_token, connect
from jobs.submit import check_command, default_id, read_assignment

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "0123456789abcdef" * 2


def test_the_id_follows_the_run_directory():
    one = default_id(["train", "--data", "/logs/a", "--out", "/runs/ips"])
    assert re.fullmatch(r"train-ips-[0-9a-f]{8}", one)
    assert one == default_id(["train", "--out=/runs/ips", "--data", "/logs/a", "--workers", "4"])
    assert one != default_id(["train", "--out", "/other/ips"])
    assert re.fullmatch(r"report-job-[0-9a-f]{8}", default_id(["report"]))


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            ["fit", "--out", "/x"],
            "'fit' is no job that can be submitted; valid: calibrate, demo, evaluate",
        ),
        (["train", "--data", "runs/log", "--out", "/x"], "--data runs/log is relative"),
        (["train", "--data", "s3://b/log", "--out=runs/x"], "--out runs/x is relative"),
    ],
)
def test_a_command_that_cannot_run_elsewhere_is_refused(command, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        check_command(command)


def test_environment_is_checked():
    assert read_assignment("A=b=c") == ("A", "b=c")
    with pytest.raises(ValueError, match="write KEY=VALUE"):
        read_assignment("A")


def test_no_server_is_one_line_within_seconds():
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection and never answers
        port = silent.getsockname()[1]
        began = time.monotonic()
        with pytest.raises(ValueError, match=f"127.0.0.1:{port}: no Ray dashboard answers there"):
            connect(f"http://127.0.0.1:{port}")
        assert time.monotonic() - began < 15  # three, and what a busy machine adds
    with pytest.raises(ValueError, match="no Ray dashboard answers there"):
        connect(f"http://127.0.0.1:{port}")
    with pytest.raises(ValueError, match="write http://HOST:PORT"):
        connect("127.0.0.1:8265")


@pytest.mark.parametrize(("status", "said"), [(401, "wants a token; set RAY_AUTH_MODE=token"), (404, "is not a Ray")])
def test_another_server_is_told_apart(status, said, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *words):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(ValueError, match=re.escape(said)):
            connect(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


def test_a_token_that_others_can_read_is_refused(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(ValueError, match="token: no such token file"):
        check_token("http://head:8265")
    (tmp_path / "token").write_text(TOKEN)
    for mode in (0o644, 0o640, 0o604, 0o620, 0o602, 0o610, 0o601):
        (tmp_path / "token").chmod(mode)
        with pytest.raises(ValueError, match="can be read by others"):
            check_token("http://head:8265")
    for mode in (0o600, 0o400):
        (tmp_path / "token").chmod(mode)
        check_token("http://head:8265")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """(address, environment that may use it) of a head that wants a token."""
    folder = tmp_path_factory.mktemp("head")
    (folder / "token").write_text(TOKEN)
    (folder / "token").chmod(0o600)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token")}
    port, dashboard, agent = free_port(), free_port(), free_port()
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}",
               f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1", "--num-cpus=2",
               f"--dashboard-agent-listen-port={agent}", "--disable-usage-stats"]  # fmt: skip
    address = f"http://127.0.0.1:{dashboard}"
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while submit(address, environment, "--list").returncode:
            assert time.monotonic() < deadline, (folder / "head.log").read_text()
            time.sleep(0.5)
        yield address, environment
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(2)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def submit(address, environment, *words):
    command = [sys.executable, "-m", "jobs.submit", "--address", address, "--python", sys.executable, *map(str, words)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.ray
@pytest.mark.slow
def test_a_wrong_token_is_one_line(head):
    address, environment = head
    began = time.monotonic()
    wrong = submit(address, {**environment, "RAY_AUTH_TOKEN": "f" * 32}, "--list")
    assert wrong.returncode == 2
    assert re.fullmatch(r"error: the cluster at \S+ refuses the token; set RAY_AUTH_MODE=token .*\n", wrong.stderr)
    none = submit(address, {k: v for k, v in environment.items() if not k.startswith("RAY_")}, "--list")
    assert none.returncode == 2
    assert "wants a token" in none.stderr
    assert time.monotonic() - began < 120  # imports of two processes included, on a machine that is busy


@pytest.mark.ray
@pytest.mark.slow
def test_training_is_submitted_followed_and_not_done_twice(head, small_log, tmp_path):
    """And at the same time one whose log is not there."""
    address, environment = head
    absent = ["--", "train", "--data", tmp_path / "no", "--out", tmp_path / "other"]
    train = ["--", "train", "--data", small_log, "--out", tmp_path / "run", "--workers", 1, "--epochs", 1]
    with ThreadPoolExecutor(1) as pool:
        refused = pool.submit(submit, address, environment, *absent)
        trained = submit(address, environment, *train)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    assert "test part" in trained.stdout
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["train.workers"] == 1
    assert "is finished already" in submit(address, environment, *train).stdout
    assert refused.result().returncode == 2
    assert f"{tmp_path / 'no'}: no such directory" in refused.result().stdout


@pytest.mark.ray
@pytest.mark.slow
def test_a_stopped_job_is_resumed_by_the_same_command(head, tmp_path):
    """A job that would take hours, so that it is still at work whenever a busy machine gets round to stopping it."""
    address, environment = head
    out = tmp_path / "es"
    evolve = ["evolve", "--objective", "sleep", "--dimension", 4, "--seconds", 0.02, "--pairs", 4,
              "--generations", 100_000, "--workers", 2, "--out", out]  # fmt: skip
    metrics, done = out / "metrics.jsonl", 0
    for start in range(2):
        begun = submit(address, environment, "--no-wait", "--", *evolve)
        assert begun.returncode == 0, begun.stdout + begun.stderr
        assert ("it goes on from what it saved" in begun.stdout) == (start == 1)
        run_id = re.search(r"job (evolve-es-\w+) at", begun.stdout)[1]
        deadline = time.monotonic() + 240
        while not metrics.exists() or metrics.read_bytes().count(b"\n") < done + 3:
            assert time.monotonic() < deadline, submit(address, environment, "--logs", run_id).stdout
            time.sleep(0.1)
        assert submit(address, environment, "--stop", run_id).returncode == 0
        before, done = done, metrics.read_bytes().count(b"\n")
        assert done >= before + 3
    assert "stopped" in submit(address, environment, "--status", run_id).stdout
    assert "Continuing sleep" in submit(address, environment, "--logs", run_id).stdout
    generations = [json.loads(line)["generation"] for line in metrics.read_text().splitlines()]
    assert generations == list(range(done))
