"""Handing a job in to Ray's job server, and handing one in again under the id of one that has ended.

Ray's own processes of an ended job live on for a second or so, and know it by its id alone: what they still do, they do
to the new one.
"""

import time
from contextlib import suppress
from typing import Any

from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from data.errors import UserError

WAIT_S = 60.0
PATIENCE_S = 20
"""For a job that is handed in again to begin, as far as can be told."""
GONE_S = 5.0
"""After which nothing of an ended job is at work any more, on a machine that is not overloaded."""
PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Between tries to hand a stopped job in again: what is left of the earlier one goes within seconds."""


def wait_for_traces(earlier: JobDetails) -> None:
    """Until GONE_S after a job's end: Ray's own watcher of a job that has just ended may still write its last word, and
    would write it over the record of one of the same id."""
    since = time.time() - (earlier.end_time or 0) / 1000
    if 0 <= since < GONE_S:
        time.sleep(GONE_S - since)


def begin(client: JobSubmissionClient, request: dict[str, Any], again: bool) -> None:
    """Hand the job in; `again`: its earlier record, which has been deleted, may come back as the job's last word.
    Raises UserError if no node takes it in WAIT_S."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            client.submit_job(**request)
            return
        except RuntimeError as error:  # a cluster that has just begun has no agent yet that could start the job
            back = again and "already exists" in str(error)
            if not back and "No available agent" not in str(error):
                raise
            if back:
                with suppress(RuntimeError):
                    client.delete_job(request["submission_id"])
            if time.monotonic() > deadline:
                raise UserError("no node of the cluster has taken the job") from None
        time.sleep(0.3)


def begin_again(client: JobSubmissionClient, request: dict[str, Any]) -> None:
    """Hand in once more a job that has been handed in again, until it is taken up.

    Ray names the actor that starts a job after the job. The stopped job's own may be on its way out still: the new job
    fails with its death, before its first line; or it fails because the name is taken, by that actor or by the one of
    the last try. Each is gone within seconds, so tries are further and further apart. Raises UserError if none is
    taken up.
    """
    run_id = request["submission_id"]
    for pause in PAUSES_S:
        if taken_up(client, run_id):
            return
        time.sleep(pause)
        with suppress(RuntimeError):
            client.delete_job(run_id)
        begin(client, request, again=True)
    if not taken_up(client, run_id):
        message = str(client.get_job_info(run_id).message).splitlines()[0]
        raise UserError(f"{run_id}: the cluster does not begin it again ({message}); give the same command once more")


def taken_up(client: JobSubmissionClient, run_id: str) -> bool:
    """Whether a job was begun, as far as a few seconds tell: not, if Ray's own actor for it has failed."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        job = client.get_job_info(run_id)
        if job.status == JobStatus.FAILED:
            return job.driver_exit_code is not None or "supervisor" not in str(job.message)
        if job.status != JobStatus.PENDING:
            return True
        time.sleep(0.2)
    return True
