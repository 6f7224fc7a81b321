"""RecFlow [ICLR 2025, CC BY-SA 4.0]: what every stage of Kuaishou's cascade left out, as a stage log for pre-ranking.

Input: the folder all_stage (one .feather a day; .parquet and .csv of the same columns do as well), or some of its days.
The last day is the test part and the one before it valid; with fewer than three days requests are split by a hash.

A row becomes one item of a request. RecFlow has neither clicks nor purchases nor other scenarios: `click` is its
effective_view (30% watched), `purchase` its long_view (all watched), and nothing is known elsewhere, so that jobs.train
--problem prerank needs --labels in and --stop-metric isph. An item is of the last stage that it reached: RecFlow's rows
of a request are brought together, flags made so that an item leaves at one stage, and requests of which nothing was
shown are left out.
Shapes: R rows.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.feather as paf
import pyarrow.parquet as pq

from data.errors import UserError
from data.filesystems import UNREADABLE, first_line
from data.loaders.common import PARTS, Progress, clean_labels, hash_split, silent
from data.schema import CategoricalField, Schema
from data.write import PartFacts, PartWriter, new_log

KINDS = (".feather", ".parquet", ".csv")
FEATURES = {
    "user_id": "user_id", "user_device": "device_id", "user_age": "age", "user_gender": "gender",
    "user_province": "province", "item_id": "video_id", "item_author": "author_id",
    "item_category": "category_level_one", "item_subcategory": "category_level_two", "item_upload_type": "upload_type",
}  # fmt: skip
"""Our names of the categorical columns, and RecFlow's."""
SIZES = {"user_id": 1 << 17, "user_device": 1 << 17, "item_id": 1 << 22, "item_author": 1 << 20}
"""Rows of the hashed tables; 1,024 for the others."""
FLAGS = ("realshow", "rerank_pos", "rerank_neg", "rank_pos", "rank_neg", "coarse_neg", "prerank_neg")
OTHERS = ("request_id", "request_timestamp", "upload_timestamp", "duration", "rank_index", "rerank_index",
          "playing_time", "effective_view", "long_view", "like", "follow", "forward", "comment")  # fmt: skip


def recflow_schema() -> Schema:
    categorical = tuple(CategoricalField(name, "hash", SIZES.get(name, 1024)) for name in FEATURES)
    labels = {"click": "effective_view", "conversion": "long_view"}
    return Schema("recflow", categorical, ("item_log_duration", "item_age"), labels, user="user_id",
                  request="request_id")  # fmt: skip


def load_recflow(
    source: str | Path, out: str | Path, seed: int = 0, progress: Progress = silent
) -> dict[str, PartFacts]:
    """Write the log. Raises UserError: no files, a file that is broken or lacks a column, a part that stays empty."""
    source = Path(source)
    if not source.exists():
        raise UserError(f"{source}: no such file or directory")
    found = [source] if source.is_file() else sorted(path for path in source.iterdir() if path.suffix in KINDS)
    if not found:
        raise UserError(f"{source}: holds no {', '.join(KINDS)} files")
    schema = recflow_schema()
    by_day = len(found) >= 3
    with new_log(out, schema) as directory:
        writers = {name: PartWriter(directory, name, schema) for name in PARTS}
        for number, path in enumerate(found):
            table, dropped = stage_rows(read(path), path, schema)
            if by_day:
                name = PARTS[max(number - len(found) + 3, 0)]
                pieces = {name: table}
            else:
                part_R = hash_split(table.column("request_id").combine_chunks(),
                                    {"train": 0.8, "valid": 0.1, "test": 0.1}, seed)  # fmt: skip
                pieces = {name: table.filter(pa.array(part_R == k)) for k, name in enumerate(PARTS)}
                name = PARTS[0]
            writers[name].facts.dropped += dropped
            for part, rows in pieces.items():
                writers[part].write(rows)
            progress(table.num_rows + dropped)
        facts = {name: writer.close() for name, writer in writers.items()}
    for name, fact in facts.items():
        if not fact.rows:
            raise UserError(f"{source}: no rows for part {name!r}: too few requests with something shown")
    return facts


def read(path: Path) -> pa.Table:
    """The file's table. Raises UserError naming the file, and a column that it lacks."""
    try:
        if path.suffix == ".feather":
            table = paf.read_table(path)
        else:
            table = pq.read_table(path) if path.suffix == ".parquet" else pacsv.read_csv(path)
    except UNREADABLE as error:
        raise UserError(f"{path}: cannot be read ({first_line(error)})") from None
    for name in (*FEATURES.values(), *FLAGS, *OTHERS):
        if name not in table.column_names:
            raise UserError(f"{path}: no column {name!r}; want RecFlow's all_stage columns")
    return table.replace_schema_metadata(None)


def stage_rows(table: pa.Table, path: Path, schema: Schema) -> tuple[pa.Table, int]:
    """(the rows of a file as a stage log has them, how many were left out)."""
    rows = table.num_rows
    table = table.take(pc.sort_indices(table.column("request_id")))
    flag = {name: pc.fill_null(table.column(name), 0).to_numpy() == 1 for name in FLAGS}
    shown_R = flag["realshow"]
    request_R = table.column("request_id").to_numpy()
    kept_R = np.isin(request_R, np.unique(request_R[shown_R]))
    first_R = np.ones(len(request_R), bool)
    item_R = table.column("video_id").to_numpy()
    # Of an item that stands in a request more than once, the row that got furthest.
    reach_R = np.select(list(reached(flag)), np.arange(4, 0, -1), 0)
    order_R = np.lexsort((-reach_R, item_R, request_R))
    same_R = (request_R[order_R][1:] == request_R[order_R][:-1]) & (item_R[order_R][1:] == item_R[order_R][:-1])
    first_R[order_R[1:][same_R]] = False
    table = table.filter(pa.array(kept_R & first_R))
    flag = {name: mask_R[kept_R & first_R] for name, mask_R in flag.items()}
    columns = {ours: table.column(theirs) for ours, theirs in FEATURES.items()}
    columns |= {name: table.column(name) for name in OTHERS}
    duration_R = table.column("duration").cast(pa.float64(), safe=False).to_numpy()
    days_R = (number(table, "request_timestamp") - number(table, "upload_timestamp")) / 86_400_000
    columns["item_log_duration"] = pa.array(np.log1p(np.maximum(duration_R, 0)).astype(np.float32))
    columns["item_age"] = pa.array(days_R.astype(np.float32))
    columns |= {name: pa.array(mask_R.astype(np.int8)) for name, mask_R in one_stage(flag).items()}
    for name in schema.labels.values():
        columns[name] = pc.fill_null(columns[name], 0).cast(pa.int8())
    written, _ = clean_labels(pa.table(columns), schema, path)
    return written, rows - written.num_rows


def number(table: pa.Table, name: str) -> np.ndarray:
    found: np.ndarray = table.column(name).cast(pa.float64(), safe=False).to_numpy()
    return found


def reached(flag: dict[str, np.ndarray]) -> Iterator[np.ndarray]:
    """bool_R of the stages, the last one first."""
    yield flag["realshow"]
    yield flag["rerank_pos"] | flag["rerank_neg"]
    yield flag["rank_pos"] | flag["rank_neg"]
    yield flag["coarse_neg"] | flag["prerank_neg"]


def one_stage(flag: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The flags so that an item leaves the cascade at one stage, and what was shown was ranked and on the page."""
    shown, later, ranked, _ = reached(flag)
    on_page = flag["rerank_pos"] | shown
    ranked = ranked | later | shown
    first = (flag["rank_pos"] | on_page) & ranked
    return {
        "realshow": shown,
        "rerank_pos": on_page,
        "rerank_neg": flag["rerank_neg"] & ~on_page,
        "rank_pos": first,
        "rank_neg": ranked & ~first,
        "coarse_neg": flag["coarse_neg"] & ~ranked & ~flag["prerank_neg"],
        "prerank_neg": flag["prerank_neg"] & ~ranked,
    }
