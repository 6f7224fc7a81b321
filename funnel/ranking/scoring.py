"""A trained model applied to a log: probabilities of every exposure, one row group after the other.

funnel/tools.py: Scoring.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch

from data.encode import Encoder
from data.errors import UserError
from data.kinds import cast_table, number, one_chunk
from data.labels import checked_labels
from data.log import Log, Part, grown_columns
from data.reading import ordered_tables
from funnel.figures.slices import check_type, plain
from funnel.network import BatchNetwork
from funnel.problem import Given
from funnel.ranking.calibration import Calibration
from funnel.ranking.counts import predict
from funnel.tools import Scores
from funnel.trained_log import for_scoring
from models.hidden_cause import log_both

SCORES = ("pctr", "pcvr", "pctcvr")
WRITTEN = ("exposure_id", "user", "request", "click", "conversion", *SCORES, "value", "reward", "weight")
"""What a file of scores calls its own columns."""


def score_part(run: Given, log: Log, part: str, device: torch.device, raw: bool, keep: Sequence[str] = ()) -> Scores:
    """pctr, pcvr and pctcvr of a part beside labels, keys and the columns to `keep`, calibrated unless `raw`."""
    calibration = None if raw else Calibration.load(run.directory, run.checksum)
    method = calibration.about.get("method", "none") if calibration else "none"
    log = for_scoring(log, run.problem.schema)
    rows, network = log.part(part), run.network.to(device)
    assert isinstance(network, BatchNetwork)
    warnings = list(grown_columns({part: rows}))
    for name in keep:
        if name in WRITTEN:
            raise UserError(f"--keep {name}: the file of scores has a column of that name already")
        check_type(log, rows, name, "--keep")
    tables = score(network, log, rows, device, calibration, keep)
    if log.schema.value and "conversion" in log.schema.labels:
        tables = watched_value(tables, log.schema.value, warnings)
    return Scores(rows, tables, {"calibration": method}, warnings)


def watched_value(tables: Iterator[pa.Table], column: str, warnings: list[str]) -> Iterator[pa.Table]:
    """The tables, and a line among the warnings if the value is there only where there was a conversion."""
    there = elsewhere = rows = conversions = 0
    for table in tables:
        value_R = np.nan_to_num(table.column("value").to_numpy())
        conversion_R = table.column("conversion").to_numpy()
        rows, conversions = rows + len(value_R), conversions + int(conversion_R.sum())
        there += int(np.count_nonzero(value_R))
        elsewhere += int(np.count_nonzero(value_R[conversion_R == 0]))
        yield table
    if not elsewhere and (conversions / max(rows, 1)) ** there < 1e-6:
        warnings.append(
            f"column {column!r}, the 'value', is there, and not 0, only where there was a conversion: name what is "
            "known only afterwards under 'reward'"
        )


def score(
    network: BatchNetwork,
    log: Log,
    part: Part,
    device: torch.device,
    calibration: Calibration | None = None,
    keep: Sequence[str] = (),
) -> Iterator[pa.Table]:
    """Tables of exposure_id, user, request (where the schema names them), click, conversion, pctr, pcvr, pctcvr, value,
    reward, weight (where it names them), and the columns to `keep`.

    One table a row group, read ahead: memory is flat in the number of rows. All have the same types, whichever files
    the rows come from. Raises UserError naming file and row of a label that is none.
    """
    schema = log.schema
    encoder = Encoder(schema)
    keys = {"exposure_id": schema.exposure, "user": schema.user, "request": schema.request}
    begins = {file.path: 0 for file in part.files}
    read = list(dict.fromkeys([*schema.all_columns, *keep]))
    for (file, _), table in zip(part.row_groups(), ordered_tables(log, part, read), strict=True):
        labels = checked_labels(schema, table, file.path, begins[file.path])
        begins[file.path] += table.num_rows
        logits = predict(network, encoder.encode(table), device)
        if calibration is not None:
            logits = calibration.apply(logits)
        probabilities = {
            "pctr": logits["ctr"].sigmoid(),
            "pcvr": logits["cvr"].sigmoid(),
            "pctcvr": log_both(logits).exp(),
        }
        own = cast_table(table.select(list(dict.fromkeys(filter(None, keys.values())))), part.types, file.path)
        columns = {name: own.column(source) for name, source in keys.items() if source}
        columns |= {name: pa.array(labels[name].astype(np.int8)) for name in ("click", "conversion") if name in labels}
        columns |= {name: pa.array(values.numpy().astype(np.float32)) for name, values in probabilities.items()}
        for name, source in (("value", schema.value), ("reward", schema.reward), ("weight", schema.weight)):
            if source:
                columns[name] = pa.array(number(table, source), from_pandas=True)
        columns |= {name: plain(one_chunk(table, name)) for name in keep}
        yield pa.table(columns)
