"""Shares of exposure from a log whose schema says what they are.

    "treatment": {"vector": ["film", "food", "game"]},  "outcome": {"watch": "watch_minutes"}

The numeric features describe the user; several outcomes are added up by weights. Columns "best.NAME", where a
simulation wrote them, are the shares that are best for each row: only evaluation sees them.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from data.credentials import shown
from data.errors import UserError
from data.kinds import number
from data.log import Log, open_parquet
from funnel.effects.reading import outcome_of, parsed_weights, read_part
from funnel.exposure.shares import ShareRows

BEST = "best."


def read_shares(log: Log, part: str) -> dict[str, np.ndarray]:
    """funnel/effects/reading.py's arrays of a part, and "best" (R, K) where the log has it.

    Raises UserError, naming file and column, for a log without shares.
    """
    treatment = log.schema.treatment
    if treatment is None or not treatment.vector:
        where = f"{shown(log.location)}/schema.json"
        raise UserError(f"{where}: names no shares; they stand under 'treatment' as \"vector\": [column, ...]")
    arrays = read_part(log, part)
    wanted, opened = [f"{BEST}{name}" for name in treatment.vector], log.part(part)
    with open_parquet(log.filesystem, opened.files[0].path) as file:
        there = set(file.schema_arrow.names)
    if there.issuperset(wanted):
        pieces = [
            np.column_stack([number(log.read_row_group(file, index, wanted), name) for name in wanted])
            for file, index in opened.row_groups()
        ]
        arrays["best"] = np.concatenate(pieces).astype(np.float64)
    return arrays


def rows_of(
    arrays: Mapping[str, np.ndarray],
    features: Sequence[str],
    categories: Sequence[str],
    weights: Sequence[str] = (),
    where: str = "shares",
) -> ShareRows:
    """Checked rows. weights: NAME=WEIGHT of outcomes; none: the log's only one."""
    named = parsed_weights(weights)
    if not named:
        there = [key.removeprefix("outcome.") for key in arrays if key.startswith("outcome.")]
        if len(there) != 1:
            raise UserError(f"{where}: {len(there)} outcomes, {', '.join(there)}: say which, --outcomes NAME=WEIGHT")
        named = {there[0]: 1.0}
    return ShareRows(
        arrays["x"].astype(np.float64),
        arrays["treatment"].astype(np.float64),
        outcome_of(arrays, named),
        tuple(features),
        tuple(categories),
        arrays.get("best"),
        where,
    )
