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
import os
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from data.filesystems import check_no_secret
from jobs.cluster.job_server import JobServer, connect
from jobs.command.cli import main
from jobs.run.directory import git_commit

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_ADDRESS = "http://127.0.0.1:8265"
LEFT_AT_HOME = (".git", ".venv", "runs", "tests", "docs", "benchmarks", ".ci", "*.parquet", "*.safetensors", "*.png")
"""Besides what .gitignore names: what no job imports."""
JOBS = (
    "train",
    "score",
    "evolve",
    "tune",
    "evaluate",
    "calibrate",
    "export",
    "pipeline",
    "make_data",
    "demo",
    "report",
)
PATHS = ("--data", "--out", "--run", "--scored", "--policy", "--input", "--watch", "--start-from", "--judge")
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
    asked = [name for name in ("list", "status", "logs", "stop") if getattr(arguments, name)]
    if bool(asked) == bool(command) or len(asked) > 1:
        raise ValueError(
            "say what to run after --, or one of --list, --status ID, --logs ID, --stop ID: "
            "python -m jobs.submit -- train --data LOG --out RUN"
        )
    console = Console(soft_wrap=True)
    address = arguments.address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_ADDRESS
    if command:
        check_command(command)
    variables = dict(read_assignment(entry) for entry in arguments.env)
    server = connect(address)
    if arguments.list:
        show_jobs(console, server.jobs())
    elif arguments.logs:
        print(server.log(arguments.logs), end="")
    elif arguments.stop:
        server.stop(arguments.stop)
        console.print(f"{arguments.stop} is stopped; the same submission resumes it")
    elif arguments.status:
        show_jobs(console, [server.job(arguments.status)])
    else:
        submit(console, server, arguments, command, variables)


def submit(
    console: Console, server: JobServer, arguments: Arguments, command: list[str], variables: dict[str, str]
) -> None:
    run_id = arguments.run_id or default_id(command)
    earlier = server.find(run_id)
    if earlier is not None and earlier["status"] == "SUCCEEDED":
        console.print(f"{run_id} is finished already; its log: python -m jobs.submit --logs {run_id}")
        return
    if earlier is None or earlier["ended"]:
        if earlier is not None:
            console.print(f"{run_id} was {earlier['status'].lower()}; it goes on from what it saved")
            server.forget(run_id)
        server.submit(
            run_id,
            entrypoint=shlex.join([arguments.python, "-m", f"jobs.{command[0]}", *command[1:]]),
            runtime_env={
                "working_dir": str(ROOT),
                "excludes": list(LEFT_AT_HOME),
                "env_vars": {"COUNTERPOINT_RUN_ID": run_id, **variables},
            },
            metadata={"job": command[0], "command": shlex.join(command), "git": git_commit() or "unknown"},
            cpus=arguments.cpus,
        )
    else:
        console.print(f"{run_id} is {earlier['status'].lower()} already: following it")
    console.print(f"job {run_id} at {server.address}")
    if not arguments.wait:
        console.print(f"its log: python -m jobs.submit --address {server.address} --logs {run_id}")
        return
    raise SystemExit(follow(console, server, run_id))


def follow(console: Console, server: JobServer, run_id: str) -> int:
    """Print the log as it grows; return the job's exit code. Ctrl-C leaves it running or stops it, as asked."""
    while True:
        try:
            asyncio.run(print_log(server, run_id))
            return exit_code(console, server.ended(run_id))
        except KeyboardInterrupt:
            if stop_is_wanted():
                server.stop(run_id)
                console.print(f"{run_id} is stopped; the same submission resumes it")
                return STOPPED
            console.print(f"{run_id} goes on; the same command follows it again")
            return 0


async def print_log(server: JobServer, run_id: str) -> None:
    async for text in server.follow(run_id):
        print(text, end="", flush=True)


def stop_is_wanted() -> bool:
    """Ask; without a terminal to ask, or on a second Ctrl-C, the job is left alone."""
    if not sys.stdin.isatty():
        return False
    try:
        return input("\n[d]etach and leave it running, or [s]top it? ").strip().lower().startswith("s")
    except (KeyboardInterrupt, EOFError):
        return False


def exit_code(console: Console, job: dict[str, Any]) -> int:
    if job["status"] == "SUCCEEDED":
        return 0
    if job["status"] == "STOPPED":
        console.print(f"{job['id']} was stopped; the same submission resumes it")
        return STOPPED
    if job["exit_code"] is None:
        console.print(f"error: {' '.join(str(job['message']).split())}")
    return int(job["exit_code"] or 1)


def check_command(command: list[str]) -> None:
    if command[0] not in JOBS:
        raise ValueError(f"{command[0]!r} is no job that can be submitted; valid: {', '.join(JOBS)}")
    for name in PATHS:
        path = option(command, name)
        if path is not None:
            check_no_secret(path)
        if path is not None and "://" not in path and not path.startswith(("/", "~")):
            raise ValueError(f"{name} {path} is relative, but the job runs elsewhere: give a path that all nodes know")


def default_id(command: list[str]) -> str:
    """JOB-NAME-HASH: NAME is what --out ends with, HASH tells one --out (else command) from another."""
    out = option(command, "--out")
    name = re.sub(r"[^A-Za-z0-9_.]+", "-", Path(out).name).strip("-.") if out else "job"
    digest = hashlib.sha256((out or shlex.join(command)).encode()).hexdigest()[:8]
    return f"{command[0]}-{name}-{digest}"


def option(command: list[str], name: str) -> str | None:
    for index, word in enumerate(command):
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
        if word == name and index + 1 < len(command):
            return command[index + 1]
    return None


def read_assignment(entry: str) -> tuple[str, str]:
    key, equals, value = entry.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
        raise ValueError(f"--env {entry!r}: write KEY=VALUE")
    return key, value


def show_jobs(console: Console, jobs: list[dict[str, Any]]) -> None:
    table = Table(Column("id", no_wrap=True), "status", "began", "ran", "command", box=SIMPLE)
    for job in jobs:
        table.add_row(job["id"], job["status"].lower(), job["began"], job["ran"], job["command"])
    console.print(table if jobs else "no jobs")


if __name__ == "__main__":
    own, command = sys.argv[1:], []
    if "--" in own:
        border = own.index("--")
        own, command = own[:border], own[border + 1 :]
    main(lambda arguments: run(arguments, command), Arguments, __doc__ or "", words=own)
