"""The Speed Dating Experiment [Fisman, Iyengar, Kamenica, Simonson, QJE 2006]: exposures that nobody selected.

In a wave everybody meets everybody. An exposure is one person (user) facing another (item); click = the own yes,
conversion = both say yes. The partner's answer is recorded whether or not the user said yes, so the potential
conversion of every exposure is known: `truth.parquet`, for evaluation and never a feature.

Input: a directory with log.parquet (exposure_id, wave, user_id, item_id, pair_*, user_*, item_*, click, conversion)
and truth.parquet (exposure_id, potential_conversion). People of one wave meet only each other, so a wave is never in
two parts, and ids and the wave itself are no features: those of the test part were never seen.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import UserError
from data.filesystems import UNREADABLE
from data.loaders.common import PARTS, Progress, silent
from data.schema import CategoricalField, Schema, TruthColumns
from data.truth import truth_from_tables
from data.write import PartFacts, PartWriter, new_log, truth_table

TRUTH_COLUMNS = TruthColumns("exposure_id", "potential_conversion")
NO_FEATURES = ("exposure_id", "wave", "user_id", "item_id", "click", "conversion")
# The questionnaire's coded answers; everything else is a number or a rating.
CODED = {"pair_gender": range(2), "goal": range(1, 7), "date": range(1, 8), "go_out": range(1, 8)}


def load_speed_dating(
    source: str | Path, out: str | Path, folds: int = 7, fold: int = 0, seed: int = 0, progress: Progress = silent
) -> dict[str, PartFacts]:
    """Turn the two files into a log with truth at `out`, split by wave (see split_waves).

    Raises UserError: a file or column absent, an exposure without truth, no such fold, an `out` that is not empty.
    """
    source = Path(source)
    table = read(source / "log.parquet", NO_FEATURES)
    truth = truth_from_tables(
        [read(source / "truth.parquet", ("exposure_id", "potential_conversion"))],
        TRUTH_COLUMNS,
        str(source / "truth.parquet"),
    )
    schema = speed_dating_schema(table.column_names)
    for field in schema.categorical:
        at = table.column_names.index(field.name)
        table = table.set_column(at, field.name, table.column(at).cast(pa.int8()))
    exposure_R, wave_R = table.column("exposure_id").to_numpy(), table.column("wave").to_numpy()
    potential_R = truth.potential_R[truth.lookup(exposure_R)]
    waves, rows = np.unique(wave_R, return_counts=True)
    split = split_waves(waves, rows, folds, fold, seed)
    facts = {}
    with new_log(out, schema) as directory:
        for part in PARTS:
            here_R = np.flatnonzero(np.isin(wave_R, split[part]))
            with PartWriter(directory, part, schema, rows_per_file=2048, rows_per_group=512) as writer:
                writer.write(table.take(here_R), truth_table(schema, exposure_R[here_R], potential_R[here_R]))
            facts[part] = writer.facts
            progress(len(here_R))
    return facts


def split_waves(waves: np.ndarray, rows: np.ndarray, folds: int, fold: int, seed: int) -> dict[str, tuple[int, ...]]:
    """Deal waves to folds of nearly equal rows; fold `fold` is the test part, the next one valid, the others train.

    Large waves first, each to the fold with the fewest rows; the seed varies the order. Over fold = 0 .. folds-1 every
    wave is tested once.
    """
    if not 3 <= folds <= len(waves):
        raise UserError(f"folds is {folds}, must be 3 .. {len(waves)} (the number of waves)")
    if not 0 <= fold < folds:
        raise UserError(f"fold is {fold}, must be 0 .. {folds - 1}")
    varied = rows * np.random.default_rng(seed).uniform(0.9, 1.1, len(rows))
    fold_of, filled = np.empty(len(waves), int), np.zeros(folds)
    for wave in np.argsort(-varied):
        fold_of[wave] = filled.argmin()
        filled[fold_of[wave]] += rows[wave]
    valid = (fold + 1) % folds
    chosen = {"train": ~np.isin(fold_of, (fold, valid)), "valid": fold_of == valid, "test": fold_of == fold}
    return {part: tuple(int(wave) for wave in waves[chosen[part]]) for part in PARTS}


def speed_dating_schema(columns: list[str]) -> Schema:
    """Every pair_, user_ and item_ column is a feature; ids, the wave and the labels are not."""
    features = [name for name in columns if name not in NO_FEATURES and name.startswith(("pair_", "user_", "item_"))]
    coded = {name: CODED.get(name) or CODED.get(name.split("_", 1)[1]) for name in features}
    return Schema(
        name="speed_dating",
        categorical=tuple(
            CategoricalField(name, "vocabulary", vocabulary=tuple(codes)) for name, codes in coded.items() if codes
        ),
        numeric=tuple(name for name, codes in coded.items() if not codes),
        labels={"click": "click", "conversion": "conversion"},
        exposure="exposure_id",
        user="user_id",
        request="user_id",
        truth=TRUTH_COLUMNS,
    )


def read(path: Path, needed: tuple[str, ...]) -> pa.Table:
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UNREADABLE as error:
        raise UserError(f"{path}: not a whole parquet file ({str(error).splitlines()[0]})") from None
    absent = [name for name in needed if name not in table.column_names]
    if absent:
        raise UserError(f"{path}: no column {absent[0]!r}")
    return table.replace_schema_metadata(None)
