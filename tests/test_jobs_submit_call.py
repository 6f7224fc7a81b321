"""jobs.submit as a Python call, on a job server that holds one job."""

import asyncio
import types
from pathlib import Path

import pytest
from ray.job_submission import JobStatus
from test_jobs_submit import BEGUN, Cluster

import jobs.submit
from data.errors import UserError
from jobs.submit import default_id


class Finished(Cluster):
    """One whose job is done, with a log."""

    def get_job_status(self, run_id):
        return self.job.status

    def get_job_info(self, run_id):
        return types.SimpleNamespace(status=self.job.status, driver_exit_code=self.code, message="")

    async def tail_job_logs(self, run_id):
        yield "epoch 1\n"


def called(monkeypatch, status, code=0, **more):
    """What the Python call gives on such a cluster, and what was handed in."""
    cluster = Finished(JobStatus.FAILED, BEGUN)
    cluster.job.metadata, cluster.job.status, cluster.code = {}, JobStatus.FAILED, code
    monkeypatch.setattr("jobs.submit.connect", lambda address: cluster)
    monkeypatch.setattr("jobs.submit.begin", lambda client, request, again: cluster.submitted.append(request))
    monkeypatch.setattr("jobs.submit.begin_again", lambda *_: setattr(cluster.job, "status", status))
    found = jobs.submit.submit("train", data="/logs/a", out="/runs/ips", epochs=3, to={"env": ["A=1"], **more})
    return found, cluster.submitted


def test_a_python_call_hands_in_what_the_command_would(monkeypatch, capsys):
    found, (request,) = called(monkeypatch, JobStatus.SUCCEEDED)
    assert request["entrypoint"] == "python -m jobs.train --data=/logs/a --out=/runs/ips --epochs=3"
    assert request["runtime_env"]["env_vars"]["A"] == "1"
    assert found.path == Path("/runs/ips")
    assert found.figures == {"id": default_id(BEGUN), "status": "succeeded"}
    assert "epoch 1" in capsys.readouterr().out


def test_a_python_call_follows_in_a_notebook_whose_loop_is_running(monkeypatch, capsys):
    async def cell():
        return called(monkeypatch, JobStatus.SUCCEEDED)[0]

    assert asyncio.run(cell()).figures["status"] == "succeeded"
    assert "epoch 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [(JobStatus.FAILED, 2, "ended with exit code 2"), (JobStatus.STOPPED, 143, "was stopped; the same call resumes")],
)
def test_a_python_call_raises_what_the_command_would_exit_with(monkeypatch, status, code, said):
    with pytest.raises(UserError, match=said):
        called(monkeypatch, status, code)


@pytest.mark.parametrize(
    ("job", "given", "said"),
    [
        ("train", {"data": "/a", "out": "/b", "epoch": 3}, "has no option 'epoch'; did you mean epochs"),
        ("train", {"data": "here", "out": "/b"}, "--data here is relative"),
        ("train", {"out": "/b"}, r"train\(\) needs data="),
        ("status", {}, "'status' is no job that can be submitted"),
        ("demo", {"out": "/b", "to": {"adress": "http://x"}}, "has no option 'adress'; did you mean address"),
    ],
)
def test_a_python_call_refuses_before_it_connects(job, given, said):
    with pytest.raises(UserError, match=said):
        jobs.submit.submit(job, **given)
