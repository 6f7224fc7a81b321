"""docs/cluster.md: its cluster of one machine works by the lines that stand there, its commands have such options."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from jobs import train
from jobs.run.directory import read_json

ROOT = Path(__file__).resolve().parent.parent


def lines_of(heading: str) -> list[str]:
    """The first block of commands under a heading of the page."""
    section = (ROOT / "docs" / "cluster.md").read_text().split(f"## {heading}\n", 1)[1]
    block = re.search(r"(?:^    .*\n)+", section, flags=re.MULTILINE)
    assert block
    return [line[4:] for line in block[0].splitlines()]


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.mark.ray
@pytest.mark.slow
def test_the_cluster_of_one_machine_works_as_printed(tmp_path: Path) -> None:
    """With other ports, its home elsewhere, and `ray start` in the foreground, so that it can be ended alone."""
    *before, start, address, job = lines_of("On this machine")
    assert start.startswith("ray start --head")
    assert before[-1] == "export RAY_AUTH_MODE=token"
    port, dashboard, agent = free_ports(3)
    start = start.replace("=6379", f"={port}").replace("=8265", f"={dashboard}")
    start += f" --block --dashboard-agent-listen-port={agent}"
    script = "\n".join([*before, f"exec {start}"])
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with (tmp_path / "head.log").open("w") as log:
        head = subprocess.Popen(["bash", "-ec", script], cwd=ROOT, env=environment, stdout=log, stderr=log,
                                start_new_session=True)  # fmt: skip
    try:
        token = tmp_path / ".ray" / "auth_token"
        deadline = time.monotonic() + 120
        while socket.socket().connect_ex(("127.0.0.1", port)) or not token.exists():
            assert head.poll() is None, (tmp_path / "head.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert token.stat().st_mode & 0o777 == 0o600
        out = tmp_path / "sphere"
        job = job.replace("runs/sphere", str(out))
        script = "\n".join([before[-1], address.replace("6379", str(port)), job])
        done = subprocess.run(["bash", "-ec", script], cwd=ROOT, env=environment, capture_output=True, text=True,
                              timeout=120)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert read_json(out / "summary.json")["es.workers"] == 2
    finally:
        with suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGTERM)
            try:
                head.wait(2)
            except subprocess.TimeoutExpired:
                os.killpg(head.pid, signal.SIGKILL)


def test_commands_of_the_page_and_of_the_manifests_are_options_that_there_are() -> None:
    page = (ROOT / "docs" / "cluster.md").read_text().replace("\\\n", " ")
    jobs = re.findall(r"(?:jobs\.|-- +)train (--.*)", page)
    assert len(jobs) > 3
    manifest = re.search(r"jobs\.train (--.*)", (ROOT / "kuberay" / "rayjob.yaml").read_text())
    assert manifest
    for words in [*jobs, manifest[1]]:
        given = train.arguments_of(*shlex.split(words, comments=True))
        assert given.workers >= 1
