"""A Ray cluster's job server as we use it: plain dicts, and one clear line where it cannot be reached or refuses us."""

import logging
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator
from typing import Any

from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from jobs.cluster.authentication import check_token_file, token_file

ANSWER_S = 3.0  # a server that takes longer to say its version is not there
POLL_S = 0.3
AGENT_S = 60.0  # from a head's first answer until it can start a job
STOP_S = 30.0  # SIGTERM, a checkpoint, and if need be SIGKILL
SETTLE_S = 10.0  # from the end of the log to the final status
TOKEN_HELP = "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to a file with the cluster's token (or ~/.ray/auth_token)"


class JobServer:
    """The jobs of one cluster. Unknown ids are a ValueError."""

    def __init__(self, address: str, client: JobSubmissionClient) -> None:
        self.address, self._client = address, client

    def jobs(self) -> list[dict[str, Any]]:
        """All submitted jobs, the latest first."""
        found = [details for details in self._client.list_jobs() if details.submission_id]
        return [describe(details) for details in sorted(found, key=lambda d: d.start_time or 0, reverse=True)]

    def find(self, run_id: str) -> dict[str, Any] | None:
        return next((job for job in self.jobs() if job["id"] == run_id), None)

    def job(self, run_id: str) -> dict[str, Any]:
        job = self.find(run_id)
        if job is None:
            raise ValueError(f"the cluster at {self.address} has no job {run_id!r}; --list shows what it has")
        return job

    def submit(
        self, run_id: str, entrypoint: str, runtime_env: dict[str, Any], metadata: dict[str, str], cpus: float
    ) -> None:
        """Raises ValueError if no node can take the job: those of a cluster that has just begun need a moment."""
        deadline = time.monotonic() + AGENT_S
        while True:
            try:
                self._client.submit_job(
                    entrypoint=entrypoint, submission_id=run_id, runtime_env=runtime_env, metadata=metadata,
                    entrypoint_num_cpus=cpus or None,
                )  # fmt: skip
                return
            except RuntimeError as error:
                if "No available agent" not in str(error):
                    raise
                if time.monotonic() > deadline:
                    raise ValueError(f"no node of the cluster at {self.address} has taken the job") from None
            time.sleep(POLL_S)

    def log(self, run_id: str) -> str:
        self.job(run_id)
        return self._client.get_job_logs(run_id)

    async def follow(self, run_id: str) -> AsyncIterator[str]:
        """Pieces of the log until the job ends."""
        async for text in self._client.tail_job_logs(run_id):
            yield text

    def ended(self, run_id: str) -> dict[str, Any]:
        """The job, once its status is final: the log may end a moment earlier."""
        deadline = time.monotonic() + SETTLE_S
        while not (job := self.job(run_id))["ended"] and time.monotonic() < deadline:
            time.sleep(POLL_S)
        return job

    def stop(self, run_id: str) -> None:
        """SIGTERM to the job; returns once it has ended. A job that has ended already is left as it is."""
        if self.job(run_id)["ended"]:
            return
        self._client.stop_job(run_id)
        deadline = time.monotonic() + STOP_S
        while not self.job(run_id)["ended"]:
            if time.monotonic() > deadline:
                raise ValueError(f"job {run_id} has not stopped within {STOP_S:g} s of being told to")
            time.sleep(POLL_S)

    def forget(self, run_id: str) -> None:
        """Free the id of a job that has ended; what the job wrote is not touched."""
        self._client.delete_job(run_id)


def connect(address: str) -> JobServer:
    """The job server at http(s)://HOST:PORT; ValueError within seconds if there is none or it refuses our token."""
    address = address.rstrip("/")
    parts = urllib.parse.urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"--address {address!r}: write http://HOST:PORT of the cluster's dashboard, such as :8265")
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=ANSWER_S):
            pass
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            check_token(address)
        elif error.code == 404:
            raise ValueError(f"--address {address}: answers, but is not a Ray dashboard") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise ValueError(f"--address {address}: no Ray dashboard answers there ({reason})") from None
    try:
        client = JobSubmissionClient(address)
    except Exception as error:  # Ray raises what it likes here, its authentication error among it
        if "uthentication" in f"{type(error).__name__} {error}":
            raise ValueError(f"the cluster at {address} refuses the token; {TOKEN_HELP}") from None
        raise ValueError(f"--address {address}: {error}") from None
    logging.getLogger("ray").setLevel(logging.ERROR)  # it names every file that it does not pack
    return JobServer(address, client)


def check_token(address: str) -> None:
    """The server wants a token: say so if this process has been given none, or one that others can read."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        raise ValueError(f"the cluster at {address} wants a token; {TOKEN_HELP}")
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    path = token_file()
    if not path.is_file():
        raise ValueError(f"{path}: no such token file; {TOKEN_HELP}")
    check_token_file(path)


def describe(details: JobDetails) -> dict[str, Any]:
    metadata = details.metadata or {}
    seconds = ((details.end_time or time.time() * 1e3) - details.start_time) / 1e3 if details.start_time else None
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(details.start_time / 1e3)) if details.start_time else ""
    return {
        "id": details.submission_id,
        "status": str(details.status.value if isinstance(details.status, JobStatus) else details.status),
        "ended": JobStatus(details.status).is_terminal(),
        "exit_code": details.driver_exit_code,
        "message": details.message or "",
        "began": began,
        "ran": "" if seconds is None else f"{seconds:.0f} s",
        "command": metadata.get("command", details.entrypoint),
    }
