"""CPUs that a container's quota leaves, --threads, and the line that says what is waited for."""

import os
import time

import pytest
import torch
from support import wait_until
from threadpoolctl import threadpool_info, threadpool_limits

from data import cpus
from es import update
from jobs.cluster.waiting import waiting
from jobs.command import threads
from jobs.evolve import arguments_of as evolve_arguments
from jobs.evolve import run as evolve
from jobs.train import arguments_of as train_arguments


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A tree of control groups in place of the machine's."""
    monkeypatch.setattr(cpus, "GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cpus, "MEMBERSHIP", tmp_path / "membership")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))

    def write(membership: str, files: dict[str, str]) -> None:
        (tmp_path / "membership").write_text(membership)
        for name, content in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    return write


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 16),
        ("0::/\n", {"cpu.max": "6400000 100000\n"}, 16),
        ("0::/a/b\n", {"cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "100000 100000\n"}, 1),
        (
            "4:cpu,cpuacct:/x\n0::/\n",
            {f"cpu,cpuacct/x/cpu.cfs_{k}_us": v for k, v in (("quota", "400000"), ("period", "100000"))},
            4,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 16),
        ("1:cpuset:/\n", {"cpuset/cpu.cfs_quota_us": "100000\n", "cpuset/cpu.cfs_period_us": "100000\n"}, 16),
        ("0::/\n", {"cpu.max": "damaged"}, 16),
    ],
)
def test_a_quota_counts(groups, membership, files, expected):
    groups(membership, files)
    assert cpus.usable_cpus() == expected


def test_without_control_groups_the_mask_counts(groups):
    assert cpus.usable_cpus() == 16


@pytest.fixture
def restored(monkeypatch):
    """Threads as they were, afterwards."""
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    before = torch.get_num_threads()
    monkeypatch.setattr(update, "_asked", [])
    with threadpool_limits():
        yield
    torch.set_num_threads(before)
    update.threads.cache_clear()


def blas():
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_threads_are_bounded(restored, monkeypatch):
    monkeypatch.setattr("es.update.usable_cpus", lambda: 8)
    threads.use_threads(3, alone=True)
    assert (torch.get_num_threads(), update.threads(), os.environ["OMP_NUM_THREADS"]) == (3, 3, "3")
    assert max(blas()) <= 3
    threads.use_threads(1, alone=False)  # Ray's workers inherit the environment
    assert (torch.get_num_threads(), update.threads(), os.environ["OMP_NUM_THREADS"]) == (1, 1, "3")
    assert blas() == {1}


def test_without_the_option_the_environment_and_then_the_quota_decide(restored, monkeypatch):
    torch.set_num_threads(2)
    monkeypatch.setattr(cpus, "usable_cpus", lambda: 1)
    monkeypatch.setattr(threads, "masked", lambda: 4)
    threads.use_threads(None, alone=True)
    assert torch.get_num_threads() == 2
    monkeypatch.delenv("OMP_NUM_THREADS")
    threads.use_threads(None, alone=True)
    assert torch.get_num_threads() == 1
    monkeypatch.delenv("OMP_NUM_THREADS")


def test_the_commands_take_it(restored, tmp_path):
    assert train_arguments("--data", "x", "--out", "y", "--threads", "2").threads == 2
    words = ("--objective", "sphere", "--workers", 0, "--generations", 1)
    evolve(evolve_arguments(*words, "--out", tmp_path / "run", "--threads", 1))
    assert torch.get_num_threads() == 1
    evolve(evolve_arguments("--resume", tmp_path / "run", "--threads", 2))  # it decides nothing
    with pytest.raises(ValueError, match="--threads is 0: it must be at least 1"):
        evolve(evolve_arguments(*words, "--out", tmp_path / "other", "--threads", 0))


def test_what_is_waited_for_is_said_on_stderr_once_it_takes_long(capsys, monkeypatch):
    with waiting("nothing"):  # less than 3 s
        pass
    monkeypatch.setattr("jobs.cluster.waiting.FIRST_S", 0.05)
    said = []

    def once():
        said.append(capsys.readouterr())
        return any(printed.err for printed in said)

    with waiting("Ray to start") as wait:
        wait_until(once)
        wait.done()
        time.sleep(0.2)
    said.append(capsys.readouterr())
    assert [line for printed in said for line in printed.err.splitlines()] == ["waiting for Ray to start (0 s)"]
    assert not any(printed.out for printed in said)
