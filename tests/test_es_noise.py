"""Addresses, the shared table, and the update's bits."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import es.update
from es.config import ESConfig
from es.noise import evaluation_seeds, open_noise, table_floats
from es.noise_sources import FreshSource, TableSource
from es.perturbations import TILE, FullNoise, SubsetNoise
from es.shared_table import CHUNK, SharedTable, fill_normals

SIZE = 2**16


@pytest.fixture
def directory(tmp_path, monkeypatch):
    monkeypatch.setattr("es.shared_table.table_directory", lambda size: tmp_path)
    return tmp_path


def all_rows(noise, generation, rows):
    """eps of a generation, (rows, D)."""
    eps = np.empty((rows, noise.dimension), np.float32)
    for start in range(0, rows, noise.run_rows):
        stop = min(start + noise.run_rows, rows)
        noise.write(generation, range(start, stop), 1.0, eps[start:stop])
    return eps


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
    (directory / ".noise-v1-9-64.f32.77.tmp").write_bytes(b"half made")
    table = SharedTable(1, SIZE)
    assert set(directory.iterdir()) == {table.path, directory / "lock"}
    table.close()


def test_a_truncated_table_is_not_used(directory):
    path = SharedTable(1, SIZE).path  # never closed: as good as in use elsewhere
    (directory / "noise-v1-1-131072.f32").write_bytes(b"short")
    table = SharedTable(1, 131072)
    assert table.array.size == 131072
    assert abs(table.array.std() - 1) < 0.02
    assert path.exists()


@pytest.mark.parametrize(("dimension", "rows"), [(8, 100), (1000, 10), (1000, 100), (30_000, 3)])
def test_runs_lie_within_the_table_and_differ(directory, dimension, rows):
    source = TableSource(3, dimension, rows, SIZE)
    for generation in range(50):
        starts = []
        for start in range(0, rows, source.run_rows):
            length = min(source.run_rows, rows - start) * dimension
            offset = source.offset(generation, start // source.run_rows)
            assert 0 <= offset <= SIZE - length
            assert len(source.run(generation, start // source.run_rows)) == length
            starts.append((offset, offset + length))
        if source.disjoint:
            assert all(before[1] == after[0] for before, after in itertools.pairwise(starts))
    assert source.disjoint == (2 * dimension * rows <= SIZE)
    assert len({source.offset(generation, 0) for generation in range(50)}) > 40
    eps = all_rows(FullNoise(source, dimension), 0, rows)
    assert len({row.tobytes() for row in eps}) == rows
    source.close()


def test_a_pair_is_never_torn_apart(directory):
    assert TableSource(0, 20_000, 6, SIZE).run_rows == 1
    assert TableSource(0, 10_000, 6, SIZE, least_run=2).run_rows == 2
    with pytest.raises(ValueError, match=r"it must be at least 80000, 4 times"):
        TableSource(0, 20_000, 6, SIZE, least_run=2)


def test_noise_does_not_depend_on_the_order_of_asking():
    assert FreshSource(4, 6, 150).run_rows == 1024  # one stream for a few thousand normals
    forwards, backwards = FreshSource(4, 100, 150), FreshSource(4, 100, 150)
    there = [forwards.run(g, r).copy() for g in (0, 1) for r in (0, 1, 2)]
    back = [backwards.run(g, r).copy() for g in (1, 0) for r in (2, 1, 0)][::-1]
    for one, other in zip(there, back, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [len(run) for run in there[:3]] == [64 * 100, 64 * 100, 22 * 100]


def test_too_small_a_table_is_refused(directory):
    with pytest.raises(ValueError, match=r"table_floats is 65536: .* 200000"):
        TableSource(0, 100_000, 4, SIZE)


def test_settled_source_and_size():
    assert isinstance(open_noise(ESConfig(pairs=64), 8).source, FreshSource)
    assert table_floats(ESConfig(pairs=64), 1000) == 2**22
    assert table_floats(ESConfig(pairs=500), 1000) == 32 * 500 * 1000
    assert table_floats(ESConfig(pairs=500), 100_000) == 2**26
    assert table_floats(ESConfig(pairs=500), 30_000_000) == 120_000_000


@pytest.mark.parametrize("dimension", [5, TILE, 2 * TILE + 300])
def test_rows_are_a_pure_function_of_their_address(directory, dimension):
    """Whatever range is asked for, with any step, and scaled by one number or one per coordinate."""
    noise = FullNoise(TableSource(1, dimension, 100, 2**20), dimension)
    eps, sigma = all_rows(noise, 2, 100), np.linspace(0.5, 2, dimension).astype(np.float32)
    assert abs(eps.mean()) < 5 / np.sqrt(eps.size)
    assert abs(eps.var() - 1) < 5 * np.sqrt(2 / eps.size)
    for rows in (range(64, 100), range(3, 5), range(10, 30, 2), range(11, 30, 2), range(99, 100)):
        for scale in (0.3, sigma):
            out = np.empty((len(rows), dimension), np.float32)
            noise.write(2, rows, scale, out)
            np.testing.assert_array_equal(out, eps[rows.start : rows.stop : rows.step] * np.float32(scale))
    noise.close()


@pytest.mark.parametrize(("dimension", "rows"), [(1, 300), (7, 130), (1000, 64), (20_000, 5), (3 * TILE, 150)])
def test_weighted_sum_adds_in_a_fixed_order(directory, monkeypatch, dimension, rows):
    """Bit for bit: float32 one row after the other within a run, runs in float64; for any threads and any split."""
    noise = FullNoise(TableSource(1, dimension, rows, 2**17), dimension)
    generator = np.random.default_rng(0)
    weights, squares = (generator.standard_normal(rows).astype(np.float32) for _ in range(2))
    eps, size = all_rows(noise, 3, rows), noise.run_rows
    total, second = np.zeros(dimension), np.zeros(dimension)
    for start in range(0, rows, size):
        partial, of_squares = np.zeros(dimension, np.float32), np.zeros(dimension, np.float32)
        for i in range(start, min(start + size, rows)):
            partial += weights[i] * eps[i]
            of_squares += squares[i] * (eps[i] * eps[i] - 1)
        total, second = total + partial, second + of_squares
    result = noise.weighted_sum(3, weights)
    both = noise.weighted_sums(3, weights, squares)
    if dimension > 1:  # a single column is summed by a loop of its own, in an order as fixed
        np.testing.assert_array_equal(result, total.astype(np.float32))
        np.testing.assert_array_equal(both[1], second.astype(np.float32))
    np.testing.assert_allclose(result, weights.astype(np.float64) @ eps, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(both[0], result)
    monkeypatch.setattr(es.update, "WORTH_THREADS", 1)
    for threads, tiles in itertools.product((1, 2, 3), (1, 5)):
        monkeypatch.setattr(es.update, "threads", lambda threads=threads: threads)
        monkeypatch.setattr(es.update, "TILES", tiles)
        np.testing.assert_array_equal(noise.weighted_sum(3, weights), result)
        np.testing.assert_array_equal(noise.weighted_sums(3, weights, squares)[1], both[1])
    noise.close()


@pytest.mark.parametrize(("dimension", "width"), [(10, 3), (50, 50), (3000, 70)])
def test_a_subset_is_a_window(directory, dimension, width):
    noise = SubsetNoise(TableSource(1, width, 4000, 2**20), dimension, width, seed=1)
    eps = all_rows(noise, 2, 4000)
    touched = eps != 0
    assert (touched.sum(axis=1) == width).all()
    edges = (touched != np.roll(touched, 1, axis=1)).sum(axis=1)
    assert (edges == (0 if width == dimension else 2)).all()  # one piece, around the end if need be
    if dimension <= 50:  # E[eps] = 0, E[eps^2] = 1
        assert (np.abs(eps.mean(axis=0)) < 5 / np.sqrt(4000)).all()
        assert (np.abs((eps**2).mean(axis=0) - 1) < 5 * np.sqrt(3 * dimension / width / 4000)).all()
    starts = touched & ~np.roll(touched, 1, axis=1)
    assert width == dimension or (starts.any(axis=0).sum() > 0.5 * min(dimension, 4000))
    assert not np.array_equal(touched, all_rows(noise, 3, 4000) != 0) or width == dimension
    check_addresses_and_sum(noise, eps, generation=2)
    noise.close()


def check_addresses_and_sum(noise, eps, generation):
    """Any range gives the rows it names; the weighted sum is theirs."""
    for rows in (range(70, 100), range(3, 5), range(10, 30, 2), range(63, 64)):
        out = np.empty((len(rows), noise.dimension), np.float32)
        noise.write(generation, rows, 0.5, out)
        np.testing.assert_allclose(out, 0.5 * eps[rows.start : rows.stop : rows.step], rtol=1e-6)
    weights = np.random.default_rng(0).standard_normal(len(eps)).astype(np.float32)
    expected = weights.astype(np.float64) @ eps
    np.testing.assert_allclose(noise.weighted_sum(generation, weights), expected, rtol=1e-3, atol=1e-3)


def test_perturbations_as_configured():
    assert isinstance(open_noise(ESConfig(pairs=4), 30), FullNoise)
    subset = open_noise(ESConfig(pairs=4, perturb="subset", subset=0.11), 30)
    assert isinstance(subset, SubsetNoise)
    assert subset.width == 4
    prints = {open_noise(ESConfig(pairs=4, perturb=kind), 30).fingerprint for kind in ("full", "subset")}
    assert len(prints) == 2


def test_evaluation_seeds():
    pairs = np.arange(1000, dtype=np.uint64)
    seeds = evaluation_seeds(1, 2, pairs, per_generation=False)
    assert seeds.dtype == np.uint64
    assert len(set(seeds.tolist())) == 1000
    np.testing.assert_array_equal(seeds[500:600], evaluation_seeds(1, 2, pairs[500:600], per_generation=False))
    assert not set(seeds.tolist()) & set(evaluation_seeds(1, 3, pairs, per_generation=False).tolist())
    assert len(set(evaluation_seeds(1, 2, pairs, per_generation=True).tolist())) == 1


def test_evaluation_seeds_are_those_of_seed_generation_and_pair():
    """Their values: a run that goes on under another version must meet the same."""
    expected = {
        (0, 0): [0xD1C0270687984B37, 0x1833A3FC3B33A847, 0xBEDB5BF1CD5EC111],
        (1, 0): [0xC965D6348C188782, 0x2DE5A4E32AE6D264, 0x4F323FFFF89FBA25],
        (0, 1): [0xFAA6282A95DA9F89, 0x27C9219DB08517F0, 0xC1AE2036D5CAA152],
    }
    for (seed, generation), seeds in expected.items():
        assert evaluation_seeds(seed, generation, np.arange(3, dtype=np.uint64), False).tolist() == seeds
        assert evaluation_seeds(seed, generation, np.arange(3, dtype=np.uint64), True).tolist() == seeds[:1] * 3


def test_tables_are_private(directory):
    table = SharedTable(1, SIZE)
    assert os.stat(table.path).st_mode & 0o077 == 0
    table.close()
