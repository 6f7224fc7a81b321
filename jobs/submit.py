"""Run any of the jobs on a Ray cluster, as a submitted Ray job.

    python -m jobs.submit -- train --data s3://bucket/log --out /shared/runs/ips --workers 16
    python -m jobs.submit --address http://127.0.0.1:8265 -- evolve --objective sphere --out /shared/runs/es
    python -m jobs.submit --list
    python -m jobs.submit --status train-ips-1f3a90c2          also --logs ID, --stop ID

What follows `--` is a job and its options. The checkout travels as the working directory, data never does: --data and
--out must be where every node finds them. The id is made of the job and its --out, so that the same command follows a
job that runs, resumes one that was stopped or failed, and says so of one that is finished. Ctrl-C asks whether to leave
the job running or to stop it; the exit code is the job's.
"""

import asyncio
import hashlib
import importlib
import os
import re
import shlex
import sys
import threading
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient
from rich.box import SIMPLE
from rich.table import Column, Table

from data.credentials import check_no_secret, check_words, means_secret, secret_in
from data.errors import UserError
from jobs.cluster.hand_in import WAIT_S, begin, begin_again, wait_for_traces
from jobs.cluster.job_server import connect
from jobs.command.call import Place, Result, call, check_keywords, words_of
from jobs.command.cli import main
from jobs.command.console import Console
from jobs.command.options import options_of
from jobs.run.directory import COMMIT, git_commit

ROOT = Path(__file__).resolve().parent.parent
LEFT_AT_HOME = (".git", ".venv", "runs", "tests", "docs", "benchmarks", ".ci", "*.parquet", "*.safetensors", "*.png")
"""Besides what .gitignore names: what no job imports."""
NOT_SUBMITTED = ("__init__", "__main__", "submit", "status")
PATHS = ("--data", "--out", "--run", "--scored", "--policy", "--input", "--watch", "--start-from", "--judge")
MAY_DIFFER = ("--workers", "--min-workers", "--es.workers", "--tables", "--days", "--until-idle", "--poll", "--keep")
"""Options with which a stopped job may go on that it was not begun with."""
STOPPED = 143  # as a shell has it for a process that SIGTERM ended


@dataclass
class Arguments:
    address: str = ""
    """The cluster's dashboard, http://HOST:PORT; else RAY_API_SERVER_ADDRESS, else this machine's port 8265."""
    run_id: str = ""
    """Submission id; made of the job and its --out where none is given."""
    wait: bool = True
    """Follow the log until the job ends; --no-wait returns once it is submitted."""
    cpus: float = 0.0
    """CPUs of the node that the driver itself is to run on; 0: on the head node."""
    python: str = "python"
    """The cluster's Python, by name or path, that has the dependencies."""
    env: tuple[str, ...] = ()
    """KEY=VALUE: environment of the driver and its workers."""
    list: bool = False
    """Show the jobs of the cluster."""
    status: str = ""
    """Show where a job stands."""
    logs: str = ""
    """Print a job's log so far."""
    stop: str = ""
    """Stop a job: SIGTERM, so that it saves what it has; the same submission resumes it."""


def run(arguments: Arguments, command: list[str]) -> None:
    """Submit, follow, or answer a question; raises SystemExit with the job's exit code."""
    questions = [name for name in ("list", "status", "logs", "stop") if getattr(arguments, name)]
    if bool(questions) == bool(command) or len(questions) > 1:
        raise UserError(
            "say what to run after --, or one of --list, --status ID, --logs ID, --stop ID: "
            "python -m jobs.submit -- train --data LOG --out RUN"
        )
    if command:
        check_command(command)
    variables = dict(read_assignment(entry) for entry in arguments.env)
    address = address_of(arguments)
    check_no_secret(address, "the cluster's address")
    client, console = connect(address.rstrip("/")), Console(soft_wrap=True)
    if command:
        hand_over(console, client, arguments, command, variables)
        return
    jobs = sorted(client.list_jobs(), key=lambda job: job.start_time or 0, reverse=True)
    run_id = arguments.status or arguments.logs or arguments.stop
    found = [job for job in jobs if (job.submission_id == run_id if run_id else job.submission_id)]
    if run_id and not found:
        raise UserError(f"the cluster at {address} has no job {run_id!r}; --list shows what it has")
    if arguments.logs:
        print(client.get_job_logs(run_id), end="")
    elif arguments.stop:
        stop(console, client, run_id)
    else:
        show_jobs(console, found)


def address_of(arguments: Arguments) -> str:
    return arguments.address or os.environ.get("RAY_API_SERVER_ADDRESS") or "http://127.0.0.1:8265"


def hand_over(
    console: Console, client: JobSubmissionClient, arguments: Arguments, command: list[str], variables: dict[str, str]
) -> None:
    """Submit, unless the job runs or is finished; then follow it. Raises SystemExit with its exit code."""
    run_id = arguments.run_id or default_id(command)
    earlier = next((job for job in client.list_jobs() if job.submission_id == run_id), None)
    status = earlier.status if earlier else None
    hint = f"its log: python -m jobs.submit --address {client.get_address()} --logs {run_id}"
    if status == JobStatus.SUCCEEDED:
        console.print(f"{run_id} is finished already; {hint}", soft_wrap=True)
        return
    if status is not None and not status.is_terminal():
        console.print(f"{run_id} is {status.value.lower()} already: following it")
    else:
        if status == JobStatus.STOPPED:
            check_same(run_id, (earlier.metadata or {}).get("command"), command)  # type: ignore[union-attr]
        if status is not None:
            console.print(f"{run_id} was {status.value.lower()}; it goes on from what it saved")
            wait_for_traces(earlier)
            client.delete_job(run_id)  # frees the id; what the job wrote stays
        request = {
            "entrypoint": shlex.join([arguments.python, "-m", f"jobs.{command[0]}", *command[1:]]),
            "submission_id": run_id,
            "runtime_env": {
                "working_dir": str(ROOT),
                "excludes": list(LEFT_AT_HOME),
                "env_vars": {"COUNTERPOINT_RUN_ID": run_id, COMMIT: git_commit() or "", **variables},
            },
            "metadata": {"job": command[0], "command": shlex.join(command), "git": git_commit() or "unknown"},
            "entrypoint_num_cpus": arguments.cpus or None,
        }
        begin(client, request, again=earlier is not None)
        if earlier is not None:
            begin_again(client, request)
    console.print(f"job {run_id} at {client.get_address()}")
    if arguments.wait:
        raise SystemExit(follow(console, client, run_id))
    console.print(hint, soft_wrap=True)


def check_same(run_id: str, before: str | None, command: list[str]) -> None:
    """Raise UserError if a stopped job would go on with other settings: the job itself would refuse them, and with its
    refusal stand in the place of the stopped one, as failed."""
    if before is None:
        return
    was, now = settings_of(shlex.split(before)), settings_of(command)
    differs = sorted(name for name in (was.keys() | now.keys()) - {*MAY_DIFFER} if was.get(name) != now.get(name))
    if differs:
        name = differs[0]
        values = [" ".join(found[name]) if name in found else "left out" for found in (was, now)]
        raise UserError(
            f"{run_id} is stopped and goes on with the settings it was begun with: {name} was {values[0]}, now "
            f"{values[1]}; another --out begins another run"
        )


def settings_of(command: list[str]) -> dict[str, list[str]]:
    """Values by option, however they are spelt; of an option that is given twice, the last."""
    found: dict[str, list[str]] = {"job": command[:1]}
    here = found.setdefault("words", [])
    for word in command[1:]:
        if word.startswith("--"):
            option, equals, value = word.partition("=")
            here = found[option.replace("_", "-")] = [value] if equals else []
        else:
            here.append(word)
    return found


def follow(console: Console, client: JobSubmissionClient, run_id: str) -> int:
    """Print the log as it grows; return the job's exit code. Ctrl-C leaves it running or stops it, as the user says."""

    async def print_log() -> None:
        async for text in client.tail_job_logs(run_id):
            print(text, end="", flush=True)

    try:
        to_the_end(print_log())
        job = ended(client, run_id)
    except KeyboardInterrupt:
        if stop_is_wanted():
            stop(console, client, run_id)
            return STOPPED
        console.print(f"{run_id} goes on; the same command follows it again")
        return 0
    if job.status == JobStatus.SUCCEEDED:
        return 0
    if job.status == JobStatus.STOPPED:
        console.print(f"{run_id} was stopped; the same submission resumes it")
        return STOPPED
    if job.driver_exit_code is None:
        console.print(f"error: {' '.join(str(job.message).split())}")
    return int(job.driver_exit_code or 1)


def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Run it; in a notebook, whose thread has a loop of its own already, in another thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    thread = threading.Thread(target=asyncio.run, args=(work,), daemon=True)
    thread.start()
    thread.join()


def ended(client: JobSubmissionClient, run_id: str) -> JobDetails:
    """The job once it has ended, which is a moment after its log does. Raises UserError if it does not end."""
    deadline = time.monotonic() + WAIT_S
    while not (job := client.get_job_info(run_id)).status.is_terminal():
        if time.monotonic() > deadline:
            raise UserError(f"job {run_id} has not ended within {WAIT_S:g} s")
        time.sleep(0.3)
    return job


def stop(console: Console, client: JobSubmissionClient, run_id: str) -> None:
    """SIGTERM to the job, and wait for its end; one that has ended is left as it is."""
    if not client.get_job_status(run_id).is_terminal():
        client.stop_job(run_id)
        ended(client, run_id)
    console.print(f"{run_id} is stopped; the same submission resumes it")


def stop_is_wanted() -> bool:
    """Ask; without a terminal to ask, or on a second Ctrl-C, the job is left alone."""
    if not sys.stdin.isatty():
        return False
    try:
        return input("\n[d]etach and leave it running, or [s]top it? ").strip().lower().startswith("s")
    except (KeyboardInterrupt, EOFError):
        return False


def check_command(command: list[str]) -> None:
    """Raises UserError for what is no job, a path that only this machine knows, or a secret in an address."""
    here = {path.stem for path in (ROOT / "jobs").glob("*.py")} | {
        p.parent.name for p in ROOT.glob("jobs/*/__main__.py")
    }
    if command[0] not in here - set(NOT_SUBMITTED):
        valid = ", ".join(sorted(here - set(NOT_SUBMITTED)))
        raise UserError(f"{command[0]!r} is no job that can be submitted; valid: {valid}")
    check_words(command)
    for name in PATHS:
        for path in values(command, name):
            if "://" not in path and not path.startswith(("/", "~")):
                raise UserError(
                    f"{name} {path} is relative, but the job runs elsewhere: give a path that all nodes know"
                )


def default_id(command: list[str]) -> str:
    """JOB-NAME-HASH: NAME is what --out ends with, HASH tells one --out (else command) from another."""
    out = option(command, "--out")
    name = re.sub(r"[^A-Za-z0-9_.]+", "-", Path(out).name).strip("-.") if out else "job"
    digest = hashlib.sha256((out or shlex.join(command)).encode()).hexdigest()[:8]
    return f"{command[0]}-{name}-{digest}"


def option(command: list[str], name: str) -> str | None:
    """The value of the option among the words: the last one, as the job itself takes it."""
    found = values(command, name)
    return found[-1] if found else None


def values(command: list[str], name: str) -> list[str]:
    """Every value of --name VALUE and --name=VALUE among the words; an underscore may stand for an inner dash."""
    found = []
    for word, following in zip(command, [*command[1:], ""], strict=True):
        given, equals, value = word.partition("=")
        if given.startswith("--") and given.replace("_", "-") == name:
            found.append(value if equals else following)
    return [value for value in found if value]


def read_assignment(entry: str) -> tuple[str, str]:
    key, equals, value = entry.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
        raise UserError(f"--env {key!r}: write KEY=VALUE")
    if means_secret(key) or secret_in(value):
        raise UserError(
            f"--env {key}: looks like a secret, which the cluster's dashboard would show; set it on the nodes instead"
        )
    return key, value


def show_jobs(console: Console, jobs: list[JobDetails]) -> None:
    table = Table(Column("id", no_wrap=True), "status", "began", "ran", "command", box=SIMPLE)
    for job in jobs:
        began, now = (job.start_time or 0) / 1e3, (job.end_time or time.time() * 1e3) / 1e3
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(began)) if began else ""
        what = (job.metadata or {}).get("command", job.entrypoint)
        table.add_row(job.submission_id, job.status.value.lower(), when, f"{now - began:.0f} s" if began else "", what)
    console.print(table if jobs else "no jobs")


def submit(job: str, *runs: Place, to: Mapping[str, Any] | None = None, **options: Any) -> Result:
    """Run a job on a cluster as `python -m jobs.submit -- JOB ...` does; the figures are its id and where it stands
    (docs/notebook.md).

    job: "train"; runs, options: what the job itself takes. to: options of the submission, such as
    {"address": "http://head:8265", "wait": False}. Raises UserError for a job that failed or was stopped.
    """
    words = [*(str(os.fspath(run)) for run in runs), *words_of(options)]
    command = [job, *words]
    check_command(command)
    check_keywords(job, options, options_of(arguments_of(job, words)))

    def handed(arguments: Arguments) -> str:
        try:
            run(arguments, command)
        except SystemExit as end:
            if end.code == STOPPED:
                raise UserError(f"{default_id(command)} was stopped; the same call resumes it") from None
            if end.code:
                raise
        return arguments.run_id or default_id(command)

    def result(arguments: Arguments, run_id: str) -> tuple[Place, dict[str, Any]]:
        client = connect(address_of(arguments).rstrip("/"))
        return option(command, "--out") or run_id, {"id": run_id, "status": client.get_job_status(run_id).value.lower()}

    return call("submit", handed, Arguments, dict(to or {}), result)


def arguments_of(job: str, words: Sequence[str]) -> Any:
    """The dataclass of a job's options."""
    module = importlib.import_module(f"jobs.{job}")
    for name in ("options", "options_for"):
        if make := getattr(module, name, None):
            return make(words)
    return next(getattr(module, name) for name in ("Arguments", "MakeData", "Args") if hasattr(module, name))


if __name__ == "__main__":
    own, command = sys.argv[1:], []
    if "--" in own:
        border = own.index("--")
        own, command = own[:border], own[border + 1 :]
    main(lambda arguments: run(arguments, command), Arguments, __doc__ or "", words=own)
