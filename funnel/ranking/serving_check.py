"""Exported files beside the trained model on real rows: read back, run in batches of several sizes, compared.

R rows, M scores.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch

from data.encode import Encoder, Rows
from data.errors import UserError
from data.log import Log, Part, PartFile
from funnel.graph_files import Graph
from funnel.ranking.export import FUSED, SCORES, VALUE, Ranker, bag_inputs
from funnel.ranking.scoring import score
from funnel.tools import Served

BATCHES = (1, 2, 1000)  # then whatever is left in pieces of the last


@dataclass(frozen=True)
class RealRows:
    """Rows as the log has them, as the encoder makes them, and what the trained model says, float32_R by output."""

    table: pa.Table
    encoded: Rows
    expected: dict[str, np.ndarray]
    value_R: np.ndarray | None

    def inputs(self, ranker: Ranker, rows: slice) -> list[np.ndarray]:
        """What the graph reads for these rows."""
        taken = self.encoded.take(rows)
        numeric_type = np.float64 if ranker.numeric_type == torch.float64 else np.float32
        arrays = {"ids": taken.ids_RK, "numeric": taken.numeric_RN.astype(numeric_type, copy=False)}
        if self.value_R is not None:
            arrays[VALUE] = self.value_R[rows]
        for field, bags in zip(ranker.many, taken.bags, strict=True):
            arrays |= dict(zip(bag_inputs(field), (bags.ids_S, bags.offset_R1[:-1]), strict=True))
        # Writable ones: torch warns of others, and what it warns of would stand among the output.
        return [np.require(arrays[name], requirements=["C", "W"]) for name in ranker.inputs]


def real_rows(ranker: Ranker, policy: Served | None, log: Log, part_name: str, rows: int) -> RealRows:
    """The first rows of the part, scored as jobs.score does."""
    part = first_groups(log.part(part_name), rows)
    names = list(dict.fromkeys([*log.schema.all_columns, *log.schema.raw(log.schema.features)]))
    table = pa.concat_tables(log.read(part, names)).slice(0, rows)
    scores = score(ranker.model, log, part, torch.device("cpu"), ranker.calibration)
    scored = pa.concat_tables(scores).slice(0, rows)
    expected = {name: scored.column(name).to_numpy() for name in SCORES}
    if policy is not None:
        expected[FUSED] = policy.expected(scored)
    value_R = scored.column(VALUE).to_numpy() if VALUE in ranker.inputs else None
    return RealRows(table, Encoder(log.schema).encode(table), expected, value_R)


def first_groups(part: Part, rows: int) -> Part:
    """The part cut behind the row group in which the given number of rows is reached."""
    files: list[PartFile] = []
    for file in part.files:
        kept = 0
        for group_rows in file.row_groups if rows > 0 else ():
            kept += 1
            rows -= group_rows
            if rows <= 0:
                break
        files.append(replace(file, row_groups=file.row_groups[:kept]))
    return replace(part, files=tuple(files))


def compare(graph: Graph, ranker: Ranker, real: RealRows) -> dict[str, float]:
    """Largest difference by output, over batches of 1, 2 and 1000 rows."""
    largest = dict.fromkeys(ranker.outputs, 0.0)
    for rows in batches(len(real.table)):
        found = graph(real.inputs(ranker, rows))
        for name, values_B in zip(ranker.outputs, found, strict=True):
            wanted_B = real.expected[name][rows].astype(np.float64)
            difference_B = np.abs(values_B - wanted_B)
            if name == FUSED:
                difference_B /= np.maximum(1.0, np.abs(wanted_B))
            # A NaN on either side must not pass for equal.
            largest[name] = max(largest[name], float(np.nan_to_num(difference_B, nan=np.inf).max()))
    return largest


def batches(rows: int) -> Iterator[slice]:
    begin, sizes = 0, iter(BATCHES)
    while begin < rows:
        size = next(sizes, BATCHES[-1])
        yield slice(begin, min(begin + size, rows))
        begin += size


def refuse(differences: dict[str, float], name: str, tolerance: float, rows: int) -> None:
    worst = max(differences, key=lambda output: differences[output])
    if differences[worst] > tolerance:
        raise UserError(
            f"{name}: {worst} differs from the trained model's by {differences[worst]:.3g} on {rows} real rows, "
            f"more than --tolerance {tolerance:g}; nothing was written"
        )
