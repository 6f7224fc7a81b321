"""Submitting to a real cluster with a token: a head of its own on free ports, jobs followed, stopped and resumed."""

import http.server
import io
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ray.job_submission import JobStatus
from rich.console import Console

import jobs.submit
from data.errors import UserError
from jobs.cluster.job_server import check_token, connect
from jobs.run.directory import start_run
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
            ["fitted", "--out", "/x"],
            "'fitted' is no job that can be submitted; valid: calibrate, check, d",
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


@pytest.mark.slow
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
        while socket.socket().connect_ex(("127.0.0.1", dashboard)):  # asking it takes a process of seconds
            assert time.monotonic() < deadline, (folder / "head.log").read_text()
            time.sleep(0.1)
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


class Cluster:
    """A job server that holds one job and takes any other."""

    def __init__(self, status, command, deaths=0, back=0):
        self.deaths, self.back = deaths, back
        self.job = types.SimpleNamespace(status=status, submission_id=default_id(command), end_time=None,
                                         metadata={"command": shlex.join(command)})  # fmt: skip
        self.deleted, self.submitted = [], []

    def list_jobs(self):
        return [self.job]

    def delete_job(self, run_id):
        self.deleted.append(run_id)

    def submit_job(self, **request):
        if self.back:
            self.back -= 1
            raise RuntimeError(f"Job with submission_id {request['submission_id']} already exists.")
        self.submitted.append(request)

    def get_job_info(self, run_id):
        """Of the last job that was handed in: the first so many die with the supervisor of the one before."""
        if len(self.submitted) > self.deaths:
            return types.SimpleNamespace(status=JobStatus.RUNNING)
        message = "Job supervisor actor died: The actor died unexpectedly before finishing this task."
        return types.SimpleNamespace(status=JobStatus.FAILED, driver_exit_code=None, message=message)

    def get_address(self):
        return "http://far:8265"


BEGUN = ["train", "--data", "/logs/a", "--out", "/runs/ips", "--epochs", "3"]


def resubmit(cluster, command):
    with io.StringIO() as said:
        jobs.submit.hand_over(Console(file=said, width=60), cluster, jobs.submit.Arguments(wait=False), command, {})
        return said.getvalue()


@pytest.mark.parametrize("more", [["--epochs", "5"], ["--epochs=3", "--seed", "1"], ["--epochs", "3", "--epochs", "4"]])
def test_a_stopped_job_is_not_lost_to_one_that_would_be_refused(more):
    cluster = Cluster(JobStatus.STOPPED, BEGUN)
    with pytest.raises(UserError, match=r"^train-ips-\w+ is stopped .*: --(epochs was 3|seed was left)"):
        resubmit(cluster, [*BEGUN[:5], *more])
    assert not cluster.deleted + cluster.submitted


@pytest.mark.parametrize("status", [JobStatus.STOPPED, JobStatus.FAILED])
def test_a_stopped_job_goes_on_however_its_command_is_spelt(status):
    cluster = Cluster(status, BEGUN)
    resubmit(cluster, ["train", "--out=/runs/ips", "--epochs=3", "--data", "/logs/a", "--workers", "9"])
    assert cluster.deleted == [cluster.job.submission_id] == [cluster.submitted[0]["submission_id"]]


def test_a_job_that_dies_with_the_supervisor_of_the_one_before_is_handed_in_again(monkeypatch):
    pauses = []
    monkeypatch.setattr("jobs.cluster.hand_in.time.sleep", pauses.append)
    cluster = Cluster(JobStatus.STOPPED, BEGUN, deaths=2)
    resubmit(cluster, BEGUN)
    assert len(cluster.submitted) == 3
    assert cluster.deleted == [cluster.job.submission_id] * 3
    assert pauses == [0.5, 1.0]  # what is left of the earlier one is given time to go
    never = Cluster(JobStatus.STOPPED, BEGUN, deaths=99)
    with pytest.raises(UserError, match=r"does not begin it again \(Job supervisor actor died.*once more"):
        resubmit(never, BEGUN)
    assert sum(pauses[2:]) == 31.5
    back = Cluster(JobStatus.STOPPED, BEGUN, back=2)  # a record that was deleted is written once more
    resubmit(back, BEGUN)
    assert (len(back.submitted), len(back.deleted)) == (1, 3)


def test_what_is_left_of_a_job_that_has_just_ended_is_waited_for(monkeypatch):
    pauses = []
    monkeypatch.setattr("jobs.cluster.hand_in.time.sleep", pauses.append)
    monkeypatch.setattr("jobs.cluster.hand_in.time.time", lambda: 1000.0)
    for ended, expected in ((998_000, [3.0]), (900_000, []), (None, [])):
        pauses.clear()
        cluster = Cluster(JobStatus.STOPPED, BEGUN)
        cluster.job.end_time = ended
        resubmit(cluster, BEGUN)
        assert pauses == expected


def test_a_finished_jobs_hint_names_its_cluster():
    said = resubmit(Cluster(JobStatus.SUCCEEDED, BEGUN), BEGUN)
    assert f"python -m jobs.submit --address http://far:8265 --logs {default_id(BEGUN)}\n" in said


def test_a_submitted_job_records_the_commit(monkeypatch, tmp_path):
    monkeypatch.setattr("jobs.submit.git_commit", lambda: "0123abc+changes")
    cluster = Cluster(JobStatus.FAILED, BEGUN)
    resubmit(cluster, BEGUN)
    for name, value in cluster.submitted[0]["runtime_env"]["env_vars"].items():
        monkeypatch.setenv(name, value)
    start_run(tmp_path / "run", "train", {}, {})  # as the job does, whose working directory is no checkout
    assert json.loads((tmp_path / "run" / "run.json").read_text())["git"] == "0123abc+changes"


@pytest.mark.parametrize("name", ["address", "RAY_API_SERVER_ADDRESS"])
def test_an_address_with_a_password_is_refused_unrepeated(name, monkeypatch):
    address = "http://me:hush@far:8265"
    arguments = jobs.submit.Arguments(list=True)
    if name == "address":
        arguments.address = address
    else:
        monkeypatch.setenv(name, address)
    with pytest.raises(UserError, match="a password") as caught:
        jobs.submit.run(arguments, [])
    assert "hush" not in str(caught.value)


def test_the_last_of_two_values_counts():
    assert default_id(["train", "--out", "/a", "--out", "/b"]) == default_id(["train", "--out=/b"])
    with pytest.raises(UserError, match="--data here is relative"):
        check_command(["train", "--data", "here", "--out", "/b"])
