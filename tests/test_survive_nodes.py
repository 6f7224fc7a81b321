"""Nodes that go and come on a real cluster, and strikes at random moments: benchmarks/faults/ in small."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LONG = pytest.mark.skipif(
    not os.environ.get("COUNTERPOINT_LONG"), reason="takes minutes: set COUNTERPOINT_LONG=1 to run it"
)


def script(name: str, *words: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    command = [sys.executable, "-m", f"benchmarks.faults.{name}", *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@LONG
@pytest.mark.ray
@pytest.mark.slow
def test_a_training_changes_its_size_and_uses_every_row_once(tmp_path: Path) -> None:
    """Two workers, one after its node is killed, two when another node has joined."""
    told = json.loads(script("elastic", "--folder", str(tmp_path / "elastic"), "--no-record").splitlines()[-1])
    assert told["workers"] == [2, 1, 2]
    assert told["lost_steps"][2] == 0  # what joined cost no step
    assert told["each_once"]
    assert told["rows_of_an_epoch"] == 4800
    assert told["same_rows_in_every_step"]
    assert told["furthest_weight"] < 1


@LONG
@pytest.mark.ray
@pytest.mark.slow
def test_five_strikes_of_five_kinds(tmp_path: Path) -> None:
    kinds = ("actor", "actor_node", "worker", "node", "driver")
    words = ["--rounds", "1", "--folder", str(tmp_path / "survive"), "--results", str(tmp_path), "--kinds", *kinds]
    script("survive", *words)
    (path,) = tmp_path.glob("*-survive.json")
    outcomes = json.loads(path.read_text())["outcomes"]
    assert set(outcomes) == set(kinds)
    for kind, one in outcomes.items():
        assert (one["strikes"], one["runs"], one["same_bits"]) == (1, 1, 1), kind
