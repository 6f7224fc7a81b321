"""Does reading keep up with training? Rows per CPU-second of reading, decoding, hashing and shuffling, and of a step.

    python -m benchmarks.training.data_plane --rows 1000000 --repeats 3

On the generated log and on a wide one (23 id fields, 4 numerics; its strings and ids follow a power law), each with one
thread: (a) Parquet read alone, (b) what TrainStream does, (c) a training step of the default model on batches that lie
ready, and Ray Data doing (b)'s reading, encoding and shuffling. Rates are rows per CPU-second of all threads and
processes involved: on a machine with other work on it the wall clock says more about the others. The parts of (b) are
timed beside it, on the first row groups. A row group that a cut between two lanes falls into is decoded for both: in a
log of so few row groups (b) reads a good share of them twice.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch count cores

import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.settings import training
from data.encode import Encoder, Rows
from data.generate import generate_log
from data.log import Log, open_log
from data.schema import CategoricalField, Schema
from data.world import GeneratedLog
from distributed.config import TrainConfig
from distributed.context import CPU, Context
from distributed.input.shards import lane_slices
from distributed.input.stream import TrainStream
from distributed.training.job import TrainJob
from distributed.training.learner import Learner
from funnel.batch import Batch
from funnel.problem import Problem
from funnel.rows import RowUnits

ROWS_PER_GROUP = 65_536
READ = "(a) Parquet read"
STEPS = 60  # training steps that are timed
BUFFER = 32_768
WIDE = {  # name: distinct values, type
    **{f"id_{n:02d}": (200_000 // (n + 1), "int64") for n in range(9)},
    **{f"name_{n:02d}": (50_000 // (n + 1), "string") for n in range(6)},
    **{f"code_{n}": (2_000, "int32") for n in range(4)},
    **{f"word_{n}": (30, "word") for n in range(4)},
}


@dataclass
class Arguments:
    rows: int = 1_000_000
    """Training rows of each log."""
    repeats: int = 3
    """Times that everything else is measured; medians are reported."""
    ray: bool = True
    """Measure Ray Data too, once for each log."""
    name: str = "data-plane"
    """Name of the result file."""


def main(arguments: Arguments) -> None:
    """Make the logs, measure in turn, write the table."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    torch.set_num_threads(1)
    figures: dict[str, dict[str, list[float]]] = {}
    sizes: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        logs = {
            "generated, zstd": generated(Path(folder) / "generated", arguments.rows),
            "wide, zstd": wide(Path(folder) / "zstd", arguments.rows, "zstd"),
            "wide, snappy": wide(Path(folder) / "snappy", arguments.rows, "snappy"),
        }
        jobs: dict[str, TrainJob] = {}
        for name, log in logs.items():
            rows, again = log.part("train").rows, decoded_again(log)
            sizes[name] = {"rows": rows, "bytes_per_row": bytes_per_row(log), "decoded_again": again}
            jobs[name] = training(Path("/nowhere"), log, {})
        for repeat in range(arguments.repeats):
            for name, log in logs.items():
                for what, found in measure(log, jobs[name], arguments.ray and repeat == 0).items():
                    figures.setdefault(name, {}).setdefault(what, []).append(found)
                print(name, {what: f"{rates[-1]:,.0f}" for what, rates in figures[name].items()}, flush=True)
    table = tables(figures, sizes)
    write_result(arguments.name, {"rows_per_cpu_second": figures, "logs": sizes}, table)


def measure(log: Log, job: TrainJob, ray: bool) -> dict[str, float]:
    """Rows per CPU-second of everything, once."""
    part, config, problem = job.parts["train"], job.config, job.open_problem(CPU)
    stream = TrainStream(problem, log, part, job.sizes["train"], config, Context())
    found = {
        READ: rate(lambda: (table.num_rows for table in log.read(part)), part.rows),
        "(b) TrainStream": rate(lambda: (len(batch) for batch in stream.epoch(0)), part.rows),
        **parts_of_stream(log),
        "(c) training step": steps(problem, config, stream),
    }
    if ray:
        found["Ray Data"] = ray_data(log, config.batch_size)
    return found


def rate(work: Callable[[], Iterator[int]], rows: int) -> float:
    """Rows per CPU-second of this process; the work must give each row once."""
    before = time.process_time()
    given = sum(work())
    seconds = time.process_time() - before
    assert given == rows, (given, rows)
    return rows / seconds


def parts_of_stream(log: Log, groups: int = 4) -> dict[str, float]:
    """The stages of (b) one by one, on the first row groups: encoding (its fields by kind), shuffling, cutting."""
    part, encoder = log.part("train"), Encoder(log.schema)
    tables = [log.read_row_group(file, index) for file, index in list(part.row_groups())[:groups]]
    rows = sum(table.num_rows for table in tables)
    encoded = [encoder.encode(table) for table in tables]
    orders = [np.random.default_rng(0).permutation(len(own)) for own in encoded]
    shuffled = [own.take(order) for own, order in zip(encoded, orders, strict=True)]
    return {
        "encode": rate(lambda: (len(encoder.encode(table)) for table in tables), rows),
        "shuffle": rate(lambda: (len(own.take(order)) for own, order in zip(encoded, orders, strict=True)), rows),
        "batches": rate(lambda: (sum(map(len, batches(own))) for own in shuffled), rows),
    }


def batches(rows: Rows, lanes: int = 8, size: int = 128) -> Iterator[Batch]:
    """Batches of `lanes` pieces each, as TrainStream puts them together."""
    step = lanes * size
    for begin in range(0, len(rows), step):
        cuts = range(begin, min(begin + step, len(rows)), size)
        yield RowUnits.join([RowUnits(rows.take(slice(cut, min(cut + size, len(rows))))) for cut in cuts]).batch()


def decoded_again(log: Log) -> float:
    """Rows of row groups that two lanes share, which are decoded for each, by all rows."""
    group_rows = tuple(rows for file in log.part("train").files for rows in file.row_groups)
    lanes = lane_slices(group_rows, TrainConfig().stream.lanes, 0, 0)
    return sum(group_rows[piece.group] for lane in lanes for piece in lane) / sum(group_rows) - 1


def steps(problem: Problem, config: TrainConfig, stream: TrainStream) -> float:
    """Rows per CPU-second of training steps on batches that lie ready."""
    learner = Learner(problem, config, Context(), stream.steps)
    waiting = stream.epoch(0)
    ready = [next(waiting) for _ in range(STEPS + 5)]
    waiting.close()  # type: ignore[attr-defined]
    for step, batch in enumerate(ready[:5]):
        learner.step(batch, step)
    before = time.process_time()
    for step, batch in enumerate(ready[5:]):
        learner.step(batch, step + 5)
    return sum(len(batch) for batch in ready[5:]) / (time.process_time() - before)


def ray_data(log: Log, batch_size: int) -> float:
    """The same reading, encoding and in-buffer shuffle through Ray Data: rows per CPU-second of all its processes."""
    import ray

    schema = log.schema
    encoder = Encoder(schema)

    def encode(table: pa.Table) -> dict[str, np.ndarray]:
        rows = encoder.encode(table)
        return {"ids": rows.ids_RK, "numeric": rows.numeric_RN, **rows.labels}

    def read(name: str) -> int:
        dataset = ray.data.read_parquet([file.path for file in log.part(name).files])
        dataset = dataset.select_columns(schema.columns).map_batches(encode, batch_format="pyarrow", batch_size=None)
        batches = dataset.iter_torch_batches(batch_size=batch_size, local_shuffle_buffer_size=BUFFER)
        return sum(len(batch["click"]) for batch in batches)

    if not ray.is_initialized():
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        ray.data.DataContext.get_current().enable_progress_bars = False
    read("valid")  # its processes are started and have imported what they need
    before = tree_seconds()
    given = read("train")
    assert given == log.part("train").rows
    return given / (tree_seconds() - before)


def tree_seconds() -> float:
    """CPU-seconds of this process and all its descendants, dead ones that were waited for included."""
    ticks = os.sysconf("SC_CLK_TCK")
    parents, seconds = {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry.name)] = int(fields[1])
        seconds[int(entry.name)] = sum(map(int, fields[11:15])) / ticks
    mine, found = {os.getpid()}, {os.getpid()}
    while found:
        found = {child for child, parent in parents.items() if parent in found}
        mine |= found
    return sum(seconds[pid] for pid in mine)


def generated(directory: Path, rows: int) -> Log:
    generate_log(
        GeneratedLog(
            world="aligned", rows=rows * 5 // 4, rows_per_group=ROWS_PER_GROUP, rows_per_file=4 * ROWS_PER_GROUP
        ),
        directory,
    )
    return open_log(directory)


def wide(directory: Path, rows: int, compression: str) -> Log:
    """23 id fields, 4 numerics, labels at random; the parts train and valid."""
    schema = Schema(
        name="wide",
        categorical=tuple(
            CategoricalField(name, "vocabulary", vocabulary=tuple(f"word-{n}" for n in range(count)))
            if kind == "word"
            else CategoricalField(name, "range" if kind == "int32" else "hash", count)
            for name, (count, kind) in WIDE.items()
        ),
        numeric=tuple(f"number_{n}" for n in range(4)),
        labels={"click": "click", "conversion": "conversion"},
    )
    for part, size in (("train", rows), ("valid", 20_000)):
        (directory / part).mkdir(parents=True)
        for number, begin in enumerate(range(0, size, 4 * ROWS_PER_GROUP)):
            table = wide_table(min(4 * ROWS_PER_GROUP, size - begin), [number, size])
            path = directory / part / f"part-{number:05d}.parquet"
            pq.write_table(table, path, row_group_size=ROWS_PER_GROUP, compression=compression)
    schema.save(directory / "schema.json")
    return open_log(directory)


def wide_table(rows: int, seed: list[int]) -> pa.Table:
    rng = np.random.default_rng(seed)
    columns: dict[str, pa.Array] = {}
    for name, (count, kind) in WIDE.items():
        value_R = np.minimum((count * rng.random(rows) ** 3).astype(np.int64), count - 1)
        if kind in ("string", "word"):
            texts = np.array([f"{'word' if kind == 'word' else 'some-name-of'}-{n}" for n in range(count)])
            columns[name] = pa.array(texts[value_R])
        else:
            columns[name] = pa.array(value_R, kind)
    for n in range(4):
        columns[f"number_{n}"] = pa.array(rng.lognormal(size=rows).astype(np.float32))
    click_R = rng.random(rows) < 0.1
    columns["click"] = pa.array(click_R.astype(np.int8))
    columns["conversion"] = pa.array((click_R & (rng.random(rows) < 0.2)).astype(np.int8))
    return pa.table(columns)


def bytes_per_row(log: Log) -> float:
    part = log.part("train")
    return sum(Path(file.path).stat().st_size for file in part.files) / part.rows


def tables(figures: dict[str, dict[str, list[float]]], sizes: dict[str, dict[str, float]]) -> str:
    rows = []
    for what in next(iter(figures.values())):
        cells = []
        for own in figures.values():
            low, high = min(own[what]), max(own[what])
            cells.append(f"{statistics.median(own[what]):,.0f} ({low:,.0f} to {high:,.0f})")
        rows.append([what, *cells])
    ratios = [
        statistics.median(b / c for b, c in zip(own["(b) TrainStream"], own["(c) training step"], strict=True))
        for own in figures.values()
    ]
    rows.append(["(b) / (c)", *(f"{ratio:.1f}" for ratio in ratios)])
    size = ", ".join(
        f"{name}: {own['rows']:,} rows of {own['bytes_per_row']:.0f} bytes, {own['decoded_again']:.0%} twice in (b)"
        for name, own in sizes.items()
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    note = f"Rows per CPU-second, median (range); {size}. Peak memory of the benchmark {peak:.1f} GiB.\n\n"
    return note + markdown(["", *figures], rows)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
