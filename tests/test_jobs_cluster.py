"""What jobs.cluster.connect tells a local cluster, and nobody else."""

import os
from typing import Any

import pytest
import ray

from distributed.training.own_cluster import OWN, is_own
from jobs.cluster import connect as cluster


def test_only_a_local_cluster_is_told_that_there_is_no_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []
    monkeypatch.setattr(ray, "init", lambda **given: seen.append(os.environ.get(cluster.SERVER)))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(cluster, "before_local_cluster", lambda: None)
    monkeypatch.setattr(cluster, "after_local_cluster", lambda: None)
    monkeypatch.setenv(OWN, "")  # and put back as it was
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv(cluster.SERVER, raising=False)
    for name in cluster.RECOVERY:
        monkeypatch.setenv(name, "1")  # and put back as it was

    def init() -> Any:
        cluster.connect(1)
        return seen.pop()

    assert init() == "http://127.0.0.1:9"  # a port that refuses
    assert cluster.SERVER not in os.environ
    monkeypatch.setenv(cluster.SERVER, "http://given:8265")
    assert init() == os.environ[cluster.SERVER] == "http://given:8265"
    assert is_own()
    monkeypatch.setattr(cluster, "check_answers", lambda address: None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 1})
    monkeypatch.setenv("RAY_ADDRESS", "somebody:6379")
    init()
    assert not is_own()  # so nothing of Ray Train is left out there
