"""A checkpoint is whole, and a broken, foreign, newer or other run's one is a one-line ValueError."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from es.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from es.config import ESConfig
from es.engine import run
from es.objectives.toy import Rosenbrock, Sphere

IDENTITY = {"settings": {"sigma": 0.1, "betas": [0.9, 0.999]}, "objective": {"objective": "Sphere"}}
TENSORS = {"theta": np.arange(4, dtype=np.float32), "generation": np.asarray([3], np.int64)}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, IDENTITY, Checkpoint(TENSORS, {"evaluations": 7}))
    return path


def header_of(path):
    length = int.from_bytes(path.read_bytes()[:8], "little")
    return json.loads(json.loads(path.read_bytes()[8 : 8 + length])["__metadata__"]["counterpoint"])


def refused(path, match, identity=IDENTITY, like=TENSORS):
    with pytest.raises(ValueError, match=match) as caught:
        load_checkpoint(path, identity, like)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_round_trip(path):
    loaded = load_checkpoint(path, IDENTITY, TENSORS)
    assert loaded.counters == {"evaluations": 7}
    for name, value in TENSORS.items():
        np.testing.assert_array_equal(loaded.tensors[name], value)
        assert loaded.tensors[name].dtype == value.dtype
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    refused(path, "not a whole checkpoint")


def test_a_flipped_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    refused(path, "digest differs")


def test_foreign(path):
    save_file(load_file(path), path)
    refused(path, "not a checkpoint of an evolution-strategies run")
    path.write_text("hello")
    refused(path, "not a whole checkpoint")


def test_settings_that_were_taken_out_hold_nobody_up(path):
    """A run of a version that had low-rank perturbations goes on; one that made them is refused by name."""
    earlier = {"perturb": "full", "rank": 1, "matrices": []}
    identity = {**IDENTITY, "settings": {**IDENTITY["settings"], "perturb": "full"}}
    save_checkpoint(path, {**IDENTITY, "settings": IDENTITY["settings"] | earlier}, Checkpoint(TENSORS, {}))
    np.testing.assert_array_equal(load_checkpoint(path, identity, TENSORS).tensors["theta"], TENSORS["theta"])
    low_rank = {**IDENTITY, "settings": IDENTITY["settings"] | earlier | {"perturb": "low_rank"}}
    save_checkpoint(path, low_rank, Checkpoint(TENSORS, {}))
    refused(path, r"of another run: settings.perturb was 'low_rank', now 'full'", identity=identity)


def test_newer(path):
    header = header_of(path) | {"version": 3}
    save_file(load_file(path), path, {"counterpoint": json.dumps(header)})
    refused(path, "newer version")


def test_another_run(path):
    other = {**IDENTITY, "settings": {"sigma": 0.2, "betas": [0.9, 0.999]}}
    refused(path, r"of another run: settings.sigma was 0.1, now 0.2", identity=other)
    refused(
        path,
        r"tensor 'theta' is float32\[4\], this run needs float32\[5\]",
        like=TENSORS | {"theta": np.zeros(5, "f4")},
    )
    refused(path, r"tensor 'velocity' is absent", like=TENSORS | {"velocity": np.zeros(4, "f4")})


def test_a_failed_write_keeps_the_old_one(path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(ValueError, match=r"checkpoint.safetensors: cannot be written \(disk full\)$"):
        save_checkpoint(path, IDENTITY, Checkpoint({**TENSORS, "theta": np.zeros(4, "f4")}, {}))
    np.testing.assert_array_equal(load_checkpoint(path, IDENTITY, TENSORS).tensors["theta"], TENSORS["theta"])


def test_it_is_on_disk_before_it_has_its_name(path, monkeypatch):
    """Nothing is written where the old one stands: the new is synced beside it, renamed, and the name is synced."""
    before, sync, replace, done = path.read_bytes(), os.fsync, os.replace, []

    def note_sync(descriptor):
        place = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        done.append(("sync", place == path.parent, place.exists() and path.read_bytes() == before))
        sync(descriptor)

    def note_rename(source, target):
        assert path.read_bytes() == before
        assert load_checkpoint(Path(source), IDENTITY, TENSORS).counters == {"evaluations": 99}
        done.append(("rename", Path(target) == path, True))
        replace(source, target)

    monkeypatch.setattr("os.fsync", note_sync)
    monkeypatch.setattr("os.replace", note_rename)
    save_checkpoint(path, IDENTITY, Checkpoint(TENSORS, {"evaluations": 99}))
    assert done == [("sync", False, True), ("rename", True, True), ("sync", True, False)]


def test_the_engine_refuses_what_does_not_belong_to_its_run(tmp_path):
    config = ESConfig(pairs=4, generations=2)
    run(Sphere(3), config, out=tmp_path)
    with pytest.raises(ValueError, match=r"settings.sigma was 0.1, now 0.3"):
        run(Sphere(3), dataclasses.replace(config, sigma=0.3), out=tmp_path)
    with pytest.raises(ValueError, match=r"objective.objective was 'Sphere', now 'Rosenbrock'"):
        run(Rosenbrock(3, start=1.0), config, out=tmp_path)
    (tmp_path / "returns.f64").write_bytes(b"")
    with pytest.raises(ValueError, match="fewer than 2 generations"):
        run(Sphere(3), config, out=tmp_path)
