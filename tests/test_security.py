"""What SECURITY.md promises: tokens by default, nothing of a file leads out of its directory, no secret is kept."""

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import as_command, forking
from rich.console import Console

import jobs.train
from data.credentials import check_no_secret, check_words, shown
from data.errors import UserError
from jobs.cluster import authentication
from jobs.cluster.job_server import check_token
from jobs.command import cli
from jobs.pipeline.record import PIPELINE_FILE, Record
from jobs.run.directory import inside, inspect_run, start_run
from jobs.run.tracking import check_tracking
from jobs.submit import check_command, read_assignment

ROOT = Path(__file__).resolve().parent.parent
AUTHENTICATION = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS")


@pytest.fixture
def unset(monkeypatch, tmp_path):
    """No word about authentication in the environment, and a home without a token."""
    for name in AUTHENTICATION:
        monkeypatch.setenv(name, "")  # so that what the test sets is taken back
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return monkeypatch


def test_a_local_cluster_gets_a_token_of_its_own(unset):
    authentication.before_local_cluster()
    first = os.environ.pop("RAY_AUTH_TOKEN")
    assert len(first) == 64
    authentication.before_local_cluster()
    assert os.environ["RAY_AUTH_TOKEN"] != first
    assert "RAY_AUTH_MODE" not in os.environ  # Ray's to set, and to be seen afterwards
    with pytest.raises(AssertionError, match="open to the network"):
        authentication.after_local_cluster()


def test_what_the_environment_says_wins(unset):
    unset.setenv("RAY_AUTH_MODE", "disabled")
    authentication.before_local_cluster()
    authentication.before_named_cluster()
    authentication.after_local_cluster()
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_a_token_file_that_others_can_read_is_refused(unset, tmp_path):
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("x" * 32)
    token.chmod(0o644)
    authentication.before_named_cluster()  # no token is asked for
    unset.setenv("RAY_AUTH_MODE", "token")
    for mode in (0o644, 0o640, 0o604, 0o620, 0o602, 0o610, 0o601):
        token.chmod(mode)
        with pytest.raises(UserError, match=r"can be read by others .* chmod 600"):
            authentication.before_named_cluster()
        with pytest.raises(UserError, match=r"can be read by others .* chmod 600"):
            check_token("http://127.0.0.1:8265")
    for mode in (0o600, 0o400):
        token.chmod(mode)
        authentication.before_named_cluster()
        check_token("http://127.0.0.1:8265")


@pytest.mark.ray
@pytest.mark.slow
def test_a_real_local_cluster_runs_with_its_token(tmp_path):
    program = """
import ray
from jobs.cluster.connect import connect
connect(1)
seen = ray.remote(lambda: [__import__("os").environ[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")])
mode, token = ray.get(seen.remote())
assert mode == "token" and len(token) == 64, (mode, len(token))
"""
    environment = {key: value for key, value in os.environ.items() if key not in AUTHENTICATION}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=ROOT, env={**environment, "HOME": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    ours = r"(waiting for Ray to start \(\d+ s\)\n)*"
    assert re.fullmatch(ours, done.stdout + done.stderr), "Ray's own words about it"
    assert not (tmp_path / ".ray").exists(), "no token is written for others to find"


@pytest.mark.parametrize("name", ["../other", "a/../../other", "/etc/passwd", "link/file", ".."])
def test_names_in_files_do_not_lead_out(tmp_path, name):
    run_directory = tmp_path / "run"
    run_directory.mkdir()
    (tmp_path / "other").write_text("x")
    (run_directory / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="leads out of the directory"):
        inside(run_directory, name)
    stage = {"state": "done", "made": 1, "seconds": 1.0, "inputs": {}, "outputs": {name: "sha256:0"}, "facts": {}}
    record = {"format": "counterpoint.pipeline", "version": 1, "stages": {"train": stage}}
    (run_directory / PIPELINE_FILE).write_text(json.dumps(record))
    with pytest.raises(ValueError, match="leads out of the directory"):
        Record(run_directory, Console(quiet=True))


@pytest.mark.parametrize("stages", [[], "x", {"train": None}, {"train": {}}, {"train": {"state": 1}}])
def test_a_pipelines_record_of_any_content_is_refused(tmp_path, stages):
    record = {"format": "counterpoint.pipeline", "version": 1, "stages": stages}
    (tmp_path / PIPELINE_FILE).write_text(json.dumps(record))
    if stages:
        with pytest.raises(ValueError, match=r"pipeline.json: (stage 'train' is not|its 'stages' is no object)"):
            Record(tmp_path, Console(quiet=True))


# fmt: off
NAMES = (
    "token", "apikey", "api_key", "x-api-key", "AccountKey", "accesskey", "aws_access_key_id", "pwd", "passwd",
    "Password", "auth", "oauth", "authorization", "jwt", "sig", "signature", "X-Amz-Signature",
    "x%2Damz%2Dcredential", "X-Goog-Signature", "credential", "session", "sessionToken", "bearer", "client_secret",
    "CLIENT.SECRET", "%74oken", "%2574oken", "sas", "key",
)
# fmt: on
SECRETS = (
    "s3://key:hush@bucket/log",
    "S3://key:hush@bucket/log",
    "s3://key:hu/hush@bucket/log",
    "s3://key%3Ahush@bucket/log",
    "ftp://hush@host/log",
    "https://hush@host/log",
    "simplecache::s3://k:hush@bucket/log",
    "zip://x.csv::s3://k:hush@bucket/x.zip",
    "abfss://container:hush@account.dfs.core.windows.net/log",
    "s3://bucket/log?region=eu-west-1&secret_key=hush",
    "s3://bucket/log?endpoint_override=http://user:hush@host",
    "s3://bucket/log?endpoint_override=http%3A%2F%2Fuser%3Ahush%40host",
    "s3://bucket/log?endpoint_override=user:hush@host:9000",
    "s3://bucket/log#token=hush",
    "abfs://container@account.dfs.core.windows.net/log?sig=hush&se=2030",
    "gs://bucket/log?Credentials=hush",
    "https://host/log?x=eyJhbGciOiJIUzI1NiJ9.hush",
    "https://host/log?x=wJalrXUtnFEMI/K7MDENG/bPxRfiCYhush",
    "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=hush",
    *(f"https://host/log?a=1&{name}=hush" for name in NAMES),
)
PLAIN = (
    "s3://bucket/author=1/dt=2026-01-01/",
    "s3://bucket/key=1/token=2/x.parquet",
    "s3://bucket/user@example.com/log",
    "s3://bucket/keys/log?region=eu-west-1&scheme=http&endpoint_override=localhost:9000",
    "s3://bucket/log?endpoint_override=http%3A%2F%2Fminio%3A9000",
    "s3://bucket/log?author=1&tls_ca_file_path=/etc/ssl/Certs2026/ca-bundle&anonymous=true",
    "s3://bucket/log?versionId=3HL4kqtJvjVBH40Nrjfkd3HL4kqtJ",
    "gs://b/log?retry_limit_seconds=9",
    "gs://b/sha256=0123456789abcdef0123456789abcdef/x",
    "abfss://container@account.dfs.core.windows.net/log/dt=1",
    "wasbs://data-1@account.blob.core.windows.net/log",
    "hdfs://user@namenode:8020/log?replication=1",
    "simplecache::s3://bucket/log",
    "http://[::1]:8265/x",
    "/logs/a?token=x",
    "/logs/key=3/auth=1",
    "sqlite:///mlruns.db",
    "databricks://scope:prefix",
    "my/objective.py:Mine",
)


def refused_unrepeated(call, match="leave it to the environment"):
    with pytest.raises(UserError, match=match) as caught:
        call()
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("location", SECRETS)
def test_secrets_in_a_uri_are_refused_unrepeated(location, tmp_path):
    out = tmp_path / "run"
    refused_unrepeated(lambda: check_no_secret(location))
    refused_unrepeated(lambda: check_command(["train", "--data", location, "--out", "/shared/run"]))
    refused_unrepeated(lambda: jobs.train.run(jobs.train.Arguments(data=location, out=out, workers=0)))
    assert "hush" not in shown(location)
    assert not out.exists()


@pytest.mark.parametrize("location", PLAIN)
def test_ordinary_places_are_not_taken_for_secrets(location):
    check_no_secret(location)
    assert shown(location) == (location.split("?")[0] if ":/" in location else location)
    check_words(["--data", location, f"--data={location}"])


SECRET = "s3://k:hush@bucket/log"
GIVEN = {
    "train": (["--data", "/log", "--data", SECRET], [f"--data={SECRET}"], ["--start-from", SECRET],
              ["--start_from", SECRET], ["--given", f"propensities={SECRET}"], ["--preset", SECRET], ["--out", SECRET]),
    "evolve": (["--scored", SECRET], ["--resume", SECRET], ["--replay", SECRET], ["--start-from", SECRET]),
    "tune": (["--data", SECRET], ["--resume", SECRET]),
    "pipeline": (["--data", SECRET], ["--watch", SECRET], ["--given", f"propensities={SECRET}"]),
    "score": (["--run", "/run", "--data", SECRET], ["--run", SECRET]),
    "evaluate": (["--run", "/run", "--data", SECRET],),
    "calibrate": (["--run", "/run", "--data", SECRET],),
    "export": (["--run", "/run", "--data", SECRET], ["--run", "/run", "--policy", SECRET]),
    "report": ([SECRET],),
    "status": ([SECRET],),
    "make_data": (["--out", SECRET], ["--input", SECRET]),
}  # fmt: skip


@pytest.mark.parametrize("command", GIVEN)
def test_a_secret_in_any_option_of_any_command_is_refused(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"jobs.{command}")
    names = ("options", "Arguments", "Args", "MakeData")
    options = next(getattr(module, name) for name in names if hasattr(module, name))
    for words in GIVEN[command]:
        refused_unrepeated(lambda words=words: cli.parse(options, ["--out", "run", *words]))
        if command not in ("status", "report"):  # which are asked here
            refused_unrepeated(lambda words=words: check_command([command, "--out", "/run", *words]))
    said = capsys.readouterr()
    assert not said.out + said.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("word", ["API_KEY=hush", "AWS_SECRET_ACCESS_KEY=hush", "PLACE=s3://k:hush@b", "MY_TOKEN=hush"])
def test_a_jobs_environment_takes_no_secret(word):
    refused_unrepeated(lambda: read_assignment(word), "which the cluster's dashboard would show")
    assert read_assignment("PLACE=s3://b?region=x") == ("PLACE", "s3://b?region=x")


def test_a_secret_in_a_file_is_refused(tmp_path):
    preset = tmp_path / "best.json"
    preset.write_text(json.dumps({"preset": "train", "settings": {"x": [{"y": SECRET}]}}))
    refused_unrepeated(lambda: jobs.train.arguments_of("--data", "/log", "--out", "/run", "--preset", str(preset)))
    refused_unrepeated(lambda: inspect_run(tmp_path / "new", "train", {"data": SECRET}))
    refused_unrepeated(lambda: start_run(tmp_path / "new", "train", {}, {"data": {"location": SECRET}}))
    refused_unrepeated(lambda: start_run(tmp_path / "new", "evolve", {"settings": {"scored": Path(SECRET)}}, {}))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("uri", ["https://me:hush@host:5000", "https://hush@host", "https://host/?access_token=hush"])
def test_a_tracking_server_keeps_its_password_to_itself(monkeypatch, uri):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    refused_unrepeated(check_tracking, "MLFLOW_TRACKING_URI holds ")


def test_run_records_hold_nothing_of_the_environment(tmp_path, monkeypatch):
    for name in ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "hush-hush")
    start_run(tmp_path, "train", {"data": "log"}, {})
    assert "hush-hush" not in (tmp_path / "run.json").read_text()


def readable(directory: Path) -> list[str]:
    """What others than its owner may read, write or list."""
    found = [path for path in directory.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o077]
    return sorted(f"{path.relative_to(directory)} {path.stat().st_mode & 0o777:o}" for path in found)


def with_the_usual_mask(commands: Sequence[Sequence[str]], said: Path, environment: dict[str, str]) -> None:
    """Commands in this process, which was forked for them, with the mask of most machines and no cluster named."""
    os.environ.pop("RAY_ADDRESS", None)
    for module, *words in commands:
        os.umask(0o022)
        as_command(module, words, said, environment)


def run_commands(*commands: Sequence[object], **environment: str) -> None:
    """One after another in one process, so that those which need Ray start one cluster."""
    with tempfile.NamedTemporaryFile("r") as said:
        given = ([[str(word) for word in command] for command in commands], Path(said.name), environment)
        process = forking().Process(target=with_the_usual_mask, args=given)
        process.start()
        process.join()
        assert process.exitcode == 0, said.read()


TINY = ("--epochs", 1, "--batch-size", 400, "--model.embedding-width", 4, "--model.backbone.expert-hidden", 8,
        "--model.tower-hidden", 4)  # fmt: skip


@pytest.mark.slow
def test_everything_that_the_commands_write_is_their_users_alone(tmp_path):
    """With the mask that most machines have. One of each kind of file: log, run, pages, scores, exported files."""
    out = tmp_path / "out"
    out.mkdir(mode=0o755)
    log, run = out / "log", out / "run"
    sizes = ("--rows", 3000, "--users", 200, "--items", 50, "--click-rate", 0.2, "--conversion-rate", 0.3)
    tuning = ("--generations", 3, "--resamples", 20, "--noise", "table", "--table-floats", 2000000)
    run_commands(
        ("jobs.make_data", "--out", log, *sizes),
        ("jobs.train", "--data", log, "--out", run, "--workers", 0, *TINY),
        ("jobs.calibrate", "--run", run),
        ("jobs.evaluate", "--run", run, "--data", log, "--replicates", 40),
        ("jobs.score", "--run", run, "--data", log, "--out", out / "scored" / "test.parquet"),
        ("jobs.evolve", "--scored", out / "scored" / "test.parquet", "--out", out / "tuned", "--workers", 0, *tuning),
        ("jobs.export", "--run", run, "--out", out / "served", "--formats", "pt2"),
        ("jobs.report", run, "--out", out / "page.html"),
    )
    assert readable(out) == []
    run_commands(("jobs.report", run, "--out", out / "shown.html"), COUNTERPOINT_UMASK="022")
    assert readable(out) == ["shown.html 644"]


@pytest.mark.ray
@pytest.mark.slow
def test_what_workers_write_is_their_users_alone(tmp_path, small_log):
    run = tmp_path / "run"
    run_commands(
        ("jobs.train", "--data", small_log, "--out", run, "--workers", 2, *TINY),
        ("jobs.evolve", "--objective", "sphere", "--out", tmp_path / "es", "--workers", 2, "--generations", 3),
        ("jobs.tune", "--data", small_log, "--out", tmp_path / "search", "--samples", 2, *TINY),
    )
    assert readable(tmp_path) == []
