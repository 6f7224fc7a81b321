"""From a CSV to what a model reads: rows a second of one core, read, looked at, written and encoded.

    OMP_NUM_THREADS=1 python -m benchmarks.training.own_data --rows 1000000

The CSV is drawn: a user, an item, a device, a moment, four numbers of which one may be missing, two labels. Timed are
the blocks of data/loaders/table_files.py alone, beside pyarrow's reader as it is and Python's csv module; then a table
of the same columns encoded by a schema without transforms, and by one with a chain of each kind. One thread everywhere,
the best of --repeats; the file is in the page cache.
"""

import csv
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import tyro

from benchmarks.bench import markdown, write_result
from data.derive import with_derived
from data.encode import Encoder
from data.loaders.table_files import open_table
from data.schema import Schema
from data.transforms import fit

WANTED = 300_000
"""Rows a second of one core that reading a CSV is to reach."""
CHAINS: dict[str, list[Any]] = {
    "no transform": [],
    "clip and log1p": [{"clip": [0, None]}, "log1p"],
    "missing and fill": [{"missing": [9999999]}, {"fill": "median"}],
    "clip_quantiles": [{"clip_quantiles": [0.001, 0.999]}],
    "quantile, uniform": [{"quantile": "uniform"}],
    "quantile, normal": [{"quantile": "normal"}],
}
NUMBERS = ("price", "score", "views", "age")


@dataclass
class Args:
    rows: int = 1_000_000
    repeats: int = 5


def drawn(rows: int) -> pa.Table:
    rng = np.random.default_rng(0)
    moment = np.datetime64("2026-01-01", "s") + rng.integers(0, 8 * 86_400, rows).astype("timedelta64[s]")
    click = rng.random(rows) < 0.1
    return pa.table(
        {
            "ts": moment,
            "user_id": rng.integers(0, 10**6, rows),
            "item_id": pa.array(np.char.add("sku-", rng.integers(0, 50_000, rows).astype(str))),
            "device": pa.array(np.array(["ios", "android", "web"])[rng.integers(0, 3, rows)]),
            "price": pa.array(np.round(np.exp(rng.normal(3, 1, rows)), 2), mask=rng.random(rows) < 0.01),
            "score": np.round(rng.random(rows), 6),
            "views": rng.poisson(3, rows),
            "age": np.round(rng.exponential(30, rows), 3),
            "click": click.astype(np.int8),
            "conversion": (click & (rng.random(rows) < 0.2)).astype(np.int8),
        }
    )


def best(work: Callable[[], object], repeats: int) -> float:
    """Seconds of the quickest of several."""
    found = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


def schema_of(chain: list[Any]) -> Schema:
    """The features of the drawn table, each number with this chain."""
    numeric = [{"name": name, "transform": chain} if chain else name for name in NUMBERS]
    fields = [{"name": "user_id", "kind": "hash", "size": 10**6}, {"name": "item_id", "kind": "hash", "size": 10**5},
              {"name": "device", "kind": "vocabulary", "vocabulary": ["ios", "android", "web"]}]  # fmt: skip
    return Schema.from_dict(
        {"format": "counterpoint.schema", "version": 2, "name": "drawn", "categorical": fields, "numeric": numeric,
         "labels": {"click": "click", "conversion": "conversion"}}
    )  # fmt: skip


def measured(schema: Schema, table: pa.Table) -> Schema:
    """With the statistics of this table."""
    statistics = {}
    for name, chain in schema.transforms.items():
        values_R = table[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
        statistics[name] = fit(chain, values_R)
    return Schema.from_dict({**schema.to_dict(), "statistics": statistics})


def python_csv(path: Path) -> int:
    with path.open(newline="") as file:
        return sum(1 for _ in csv.DictReader(file))


def parts(table: pa.Table) -> pa.Table:
    """An hour and a bucket of each row."""
    hour = {"column": "ts", "part": "hour"}
    price = {"column": "price", "part": "bucket", "boundaries": [5, 10, 20, 40, 80]}
    entries = [{"name": "hour", "kind": "range", "from": hour}, {"name": "level", "kind": "range", "from": price}]
    whole = {**schema_of([]).to_dict(), "categorical": entries}
    return with_derived(table, ["hour", "level"], Schema.from_dict(whole).sources, {}, "drawn")


def main(args: Args) -> None:
    """Measure and write the tables."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    table = drawn(args.rows)
    figures: dict[str, Any] = {"rows": args.rows, "repeats": args.repeats}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "raw.csv"
        pacsv.write_csv(table, path)
        figures["megabytes"] = path.stat().st_size / 1e6
        readers = {
            "this reader (data/loaders/table_files.py)": lambda: sum(
                len(one) for one, _ in open_table(str(path)).blocks()
            ),
            "pyarrow.csv.read_csv, one thread": lambda: pacsv.read_csv(path, pacsv.ReadOptions(use_threads=False)),
        }
        reading = {name: args.rows / best(work, args.repeats) for name, work in readers.items()}
        reading["Python's csv module"] = args.rows / best(lambda: python_csv(path), 1)
    encoding = {}
    for name, chain in CHAINS.items():
        encoder = Encoder(measured(schema_of(chain), table))
        encoding[name] = best(lambda: encoder.encode(table), args.repeats) / args.rows * 1e9  # noqa: B023
    derived = best(lambda: parts(table), args.repeats) / args.rows * 1e9
    figures |= {"rows_per_s": reading, "encode_ns_per_row": encoding, "hour_and_bucket_ns_per_row": derived}
    figures["reaches"] = reading[next(iter(readers))] >= WANTED
    tables = f"A CSV of {args.rows:,} rows, {figures['megabytes']:.0f} MB, 10 columns, one thread.\n\n"
    tables += markdown(["reader", "rows/s"], [[name, f"{rate:,.0f}"] for name, rate in reading.items()])
    tables += "\nEncoding 3 categorical and 4 numeric features, all 4 with the same chain:\n\n"
    rows = [[name, f"{cost:.0f}", f"{(cost - encoding['no transform']) / len(NUMBERS):.0f}"]
            for name, cost in encoding.items()]  # fmt: skip
    tables += markdown(["transform", "ns a row", "ns a value more"], rows)
    tables += f"\nAn hour and a bucket of each row: {derived:.0f} ns a row.\n"
    write_result("own-data", figures, tables)


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
