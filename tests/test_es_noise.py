"""Addresses, the shared table, and the update's bits."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import es.noise
from es.config import ESConfig
from es.noise import FreshNoise, TableNoise, evaluation_seeds, open_noise, table_floats, weighted_sum
from es.shared_table import CHUNK, SharedTable, fill_normals

SIZE = 2**16


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.setattr("es.shared_table.table_directory", lambda size: tmp_path)
    return tmp_path


def all_rows(noise, generation, pairs):
    size = noise.run_rows
    return np.concatenate([noise.rows(generation, start, min(start + size, pairs)) for start in range(0, pairs, size)])


def test_content_is_the_same_for_any_threads_and_normal():
    one, four = np.empty(3 * CHUNK + 17, np.float32), np.empty(3 * CHUNK + 17, np.float32)
    assert fill_normals(one, seed=5, threads=1) == fill_normals(four, seed=5, threads=4)
    np.testing.assert_array_equal(one, four)
    assert abs(one.mean()) < 5 / np.sqrt(one.size)
    assert abs(one.var() - 1) < 5 * np.sqrt(2 / one.size)
    other = np.empty(CHUNK, np.float32)
    assert fill_normals(other, seed=6) != fill_normals(one[:CHUNK].copy(), seed=5)


def test_table_is_one_map_and_goes_with_its_last_user(directory):
    first, second = SharedTable(1, SIZE), SharedTable(1, SIZE)
    assert first.fingerprint == second.fingerprint
    inodes = {line.split()[4] for line in Path("/proc/self/maps").read_text().splitlines() if str(first.path) in line}
    assert inodes == {str(first.path.stat().st_ino)}
    assert not first.array.flags.writeable
    first.close()
    assert second.path.exists()
    np.testing.assert_array_equal(first.array, second.array)  # a view outlives its owner
    second.close()
    assert not second.path.exists()


def test_table_is_made_again_with_the_same_bytes(directory):
    first = SharedTable(1, SIZE)
    content, fingerprint = first.array.tobytes(), first.fingerprint
    first.close()
    again = SharedTable(1, SIZE)
    assert (again.array.tobytes(), again.fingerprint) == (content, fingerprint)
    again.close()
    other = SharedTable(2, SIZE)
    assert other.fingerprint != fingerprint
    other.close()


def test_a_killed_process_leaves_nothing_that_grows(directory):
    program = f"""
import os, signal
from pathlib import Path
from es.shared_table import SharedTable
table = SharedTable(7, {SIZE}, Path({str(directory)!r}))
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parent.parent, check=False)
    assert len(list(directory.glob("noise-*"))) == 1
    (directory / "noise-v1-9-64.tmp").write_bytes(b"half made")
    table = SharedTable(1, SIZE)
    assert list(directory.glob("noise-*")) == [table.path]
    table.close()


def test_a_truncated_table_is_not_used(directory):
    path = SharedTable(1, SIZE).path  # never closed: as good as in use elsewhere
    (directory / "noise-v1-1-131072.f32").write_bytes(b"short")
    table = SharedTable(1, 131072)
    assert table.array.size == 131072
    assert abs(table.array.std() - 1) < 0.02
    assert path.exists()


@pytest.mark.parametrize(("dimension", "pairs"), [(8, 100), (1000, 10), (1000, 100), (30_000, 3)])
def test_runs_lie_within_the_table_and_differ(directory, dimension, pairs):
    noise = TableNoise(3, dimension, pairs, SIZE)
    for generation in range(50):
        starts = []
        for start in range(0, pairs, noise.run_rows):
            length = min(noise.run_rows, pairs - start) * dimension
            offset = noise.offset(generation, start // noise.run_rows)
            assert 0 <= offset <= SIZE - length
            starts.append((offset, offset + length))
        if noise.disjoint:
            assert all(before[1] == after[0] for before, after in itertools.pairwise(starts))
    assert noise.disjoint == (2 * dimension * pairs <= SIZE)
    offsets = {noise.offset(generation, 0) for generation in range(50)}
    assert len(offsets) > 40
    rows = all_rows(noise, 0, pairs)
    assert len({row.tobytes() for row in rows}) == pairs
    noise.close()


def test_noise_does_not_depend_on_the_order_of_asking():
    forwards, backwards = FreshNoise(4, 6, 150), FreshNoise(4, 6, 150)
    there = [forwards.rows(g, 64 * r, 64 * r + 22).copy() for g in (0, 1) for r in (0, 1, 2)]
    back = [backwards.rows(g, 64 * r, 64 * r + 22).copy() for g in (1, 0) for r in (2, 1, 0)][::-1]
    np.testing.assert_array_equal(there, back)


def test_too_small_a_table_is_refused(directory):
    with pytest.raises(ValueError, match=r"table_floats is 65536: .* 200000"):
        TableNoise(0, 100_000, 4, SIZE)


def test_settled_source_and_size():
    assert isinstance(open_noise(ESConfig(pairs=64), 8), FreshNoise)
    assert table_floats(ESConfig(pairs=64), 1000) == 2**22
    assert table_floats(ESConfig(pairs=500), 1000) == 32 * 500 * 1000
    assert table_floats(ESConfig(pairs=500), 100_000) == 2**26
    assert table_floats(ESConfig(pairs=500), 30_000_000) == 120_000_000


@pytest.mark.parametrize(("dimension", "pairs"), [(1, 300), (7, 130), (1000, 64), (20_000, 5)])
def test_weighted_sum_adds_in_a_fixed_order(directory, monkeypatch, dimension, pairs):
    """Bit for bit: float32 one pair after the other within a run, runs in float64; however the columns are cut."""
    noise = TableNoise(1, dimension, pairs, 2**17)
    weights = np.random.default_rng(0).standard_normal(pairs).astype(np.float32)
    rows, total = all_rows(noise, 3, pairs), np.zeros(dimension)
    for start in range(0, pairs, noise.run_rows):
        partial = np.zeros(dimension, np.float32)
        for j in range(start, min(start + noise.run_rows, pairs)):
            partial += weights[j] * rows[j]
        total += partial
    result = weighted_sum(noise, 3, weights)
    if dimension > 1:  # a single column is summed by a loop of its own, in an order as fixed
        np.testing.assert_array_equal(result, total.astype(np.float32))
    np.testing.assert_allclose(result, weights.astype(np.float64) @ rows, rtol=1e-4, atol=1e-4)
    for columns in (64, 1000):
        monkeypatch.setattr(es.noise, "COLUMNS", columns)
        np.testing.assert_array_equal(weighted_sum(noise, 3, weights), result)
    noise.close()


def test_evaluation_seeds():
    pairs = np.arange(1000, dtype=np.uint64)
    seeds = evaluation_seeds(1, 2, pairs, per_generation=False)
    assert seeds.dtype == np.uint64
    assert len(set(seeds.tolist())) == 1000
    np.testing.assert_array_equal(seeds[500:600], evaluation_seeds(1, 2, pairs[500:600], per_generation=False))
    assert not set(seeds.tolist()) & set(evaluation_seeds(1, 3, pairs, per_generation=False).tolist())
    assert len(set(evaluation_seeds(1, 2, pairs, per_generation=True).tolist())) == 1


def test_tables_are_private(directory):
    table = SharedTable(1, SIZE)
    assert os.stat(table.path).st_mode & 0o077 == 0
    table.close()
