"""What SECURITY.md promises: tokens by default, nothing of a file leads out of its directory, no secret is kept."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from data.filesystems import check_no_secret
from jobs.cluster import authentication
from jobs.pipeline.record import PIPELINE_FILE, Record
from jobs.run.directory import inside, start_run
from jobs.run.tracking import check_tracking
from jobs.submit import check_command
from jobs.train import Arguments, run

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
    with pytest.raises(ValueError, match=r"can be read by others .* chmod 600"):
        authentication.before_named_cluster()
    token.chmod(0o600)
    authentication.before_named_cluster()


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
    assert not done.stdout + done.stderr, "Ray's own words about it"
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


SECRETS = (
    "s3://key:hush@bucket/log",
    "s3://bucket/log?region=eu-west-1&secret_key=hush",
    "abfs://container@account.dfs.core.windows.net/log?sig=hush&se=2030",
    "https://host/log?token=hush",
    "gs://bucket/log?Credentials=hush",
)


@pytest.mark.parametrize("location", SECRETS)
def test_secrets_in_a_uri_are_refused_unrepeated(location, tmp_path):
    refusals = (
        lambda: check_no_secret(location),
        lambda: check_command(["train", "--data", location, "--out", "/shared/run"]),
        lambda: run(Arguments(data=location, out=tmp_path / "run", workers=0)),
    )
    for refused in refusals:
        with pytest.raises(ValueError, match="leave it to the environment") as caught:
            refused()
        assert "hush" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_plain_uris_are_not_taken_for_secrets():
    for location in ("s3://bucket/keys/log?region=eu-west-1", "gs://b/log?retry_limit_seconds=9", "/logs/a?token=x"):
        check_no_secret(location)


def test_a_tracking_server_keeps_its_password_to_itself(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hush@host:5000")
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_URI holds a password") as caught:
        check_tracking()
    assert "hush" not in str(caught.value)


def test_run_records_hold_nothing_of_the_environment(tmp_path, monkeypatch):
    for name in ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "hush-hush")
    start_run(tmp_path, "train", {"data": "log"}, {})
    assert "hush-hush" not in (tmp_path / "run.json").read_text()
