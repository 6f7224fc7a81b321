"""How far a later part of a log is from the one that is trained on, column by column.

    PSI = sum over bins (q - p) ln(q / p)        p, q: shares of the bin in the one part and in the other

the population stability index [Siddiqi 2006; the symmetric Kullback-Leibler divergence of Jeffreys 1946]: below 0.1
little has changed, above 0.25 much. Bins are tenths of the numbers, the commonest ids and the others, and missing.
Samples of some 30 thousand rows a part decide it. Two parts of n and m rows that nothing tells apart have a PSI of
about (1/n + 1/m) times a chi-squared variable: what is called much begins so much higher for small parts. Shapes: R
rows, F fused embedding rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.encode import Encoder
from data.kinds import number
from data.log import Log, Part
from data.reading import ordered_tables
from data.suspects import sample

LITTLE, MUCH = 0.1, 0.25
TENTHS, COMMON = 10, 50
UNSEEN = 0.1
"""Share of a later part's ids that training has not seen, from which on it is worth a line."""


@dataclass(frozen=True)
class Drift:
    """One feature: PSI against train, and for ids the share of rows (or list entries) whose id train does not have."""

    column: str
    psi: float
    unseen: float | None = None
    chance: float = 0.0
    """A PSI that parts of these sizes pass in one of a thousand cases though nothing has changed."""


def drifts(log: Log, train: Part, other: Part) -> list[Drift]:
    """Of every feature, the largest PSI first."""
    schema, encoder = log.schema, Encoder(log.schema)
    one, two = (sample(log, part)[0] for part in (train, other))
    pieces = 1 / independent(log, train, one.num_rows) + 1 / independent(log, other, two.num_rows)
    found = [Drift(name, numeric_psi(one, two, name), None, by_chance(TENTHS, pieces)) for name in schema.numeric]
    first, second = encoder.encode(one), encoder.encode(two)
    seen_F = seen_rows(log, train, encoder)
    begins = dict(zip((field.name for field in schema.categorical), encoder.offsets, strict=True))
    for k, field in enumerate(schema.single):
        ids = (first.ids_RK[:, k], second.ids_RK[:, k])
        chance = by_chance(min(len(np.unique(ids[0])), COMMON + 1), pieces)
        found.append(Drift(field.name, id_psi(*ids), unseen(ids[1], begins[field.name], seen_F), chance))
    for field, bags, others in zip(schema.many, first.bags, second.bags, strict=True):
        told = (id_psi(bags.ids_S, others.ids_S), unseen(others.ids_S, begins[field.name], seen_F))
        found.append(Drift(field.name, *told, by_chance(min(len(np.unique(bags.ids_S)), COMMON + 1), pieces)))
    return sorted(found, key=lambda one: -one.psi)


def drift_warnings(found: list[Drift], part: str) -> Iterator[str]:
    """One line for each feature that has changed much, or whose ids are new."""
    for one in found:
        much = MUCH + one.chance
        if one.psi > much:
            yield f"column {one.column!r}: {part} is far from train (PSI {one.psi:.2f}, much is above {much:.2f})"
        if one.unseen is not None and one.unseen > UNSEEN:
            yield f"column {one.column!r}: {one.unseen:.0%} of {part} has ids that are not in train"


def independent(log: Log, part: Part, rows: int) -> float:
    """How many rows of a sample say something of their own: those of a request have much in common (the hour, the
    user). How long requests are is told by the first row group."""
    if log.schema.request is None or not rows:
        return max(rows, 1)
    file, index = next(part.row_groups())
    column = log.read_row_group(file, index, [log.schema.request])[log.schema.request]
    return max(1.0, rows * pc.count_distinct(column, mode="all").as_py() / max(len(column), 1))


def by_chance(bins: int, pieces: float) -> float:
    """The 99.9% quantile of chi-squared with bins - 1 degrees of freedom [Wilson and Hilferty 1931], times `pieces`."""
    degrees = max(bins - 1, 1)
    spread = 2 / (9 * degrees)
    return float(pieces * degrees * (1 - spread + 3.09 * np.sqrt(spread)) ** 3)


def numeric_psi(one: pa.Table, two: pa.Table, name: str) -> float:
    values, others = (number(table, name, wide=True) for table in (one, two))
    known = values[np.isfinite(values)]
    edges = np.unique(np.quantile(known, np.arange(1, TENTHS) / TENTHS)) if len(known) else np.empty(0)

    def bins(values_R: np.ndarray) -> np.ndarray:
        return np.where(np.isfinite(values_R), np.searchsorted(edges, values_R, side="right"), len(edges) + 1)

    return psi(*(np.bincount(bins(each), minlength=len(edges) + 2) for each in (values, others)))


def id_psi(one_R: np.ndarray, two_R: np.ndarray) -> float:
    values, counts = np.unique(one_R, return_counts=True)
    common = np.sort(values[np.argsort(-counts, kind="stable")[:COMMON]])

    def bins(ids_R: np.ndarray) -> np.ndarray:
        place = np.searchsorted(common, ids_R)
        known = (place < len(common)) & (common[np.minimum(place, len(common) - 1)] == ids_R) if len(common) else False
        return np.where(known, place, len(common))

    return psi(*(np.bincount(bins(each), minlength=len(common) + 1) for each in (one_R, two_R)))


def psi(one: np.ndarray, two: np.ndarray) -> float:
    """Of counts by bin; half a row more in each, so that an empty bin is no infinity."""
    p, q = ((counts + 0.5) / (counts + 0.5).sum() for counts in (one, two))
    return float(((q - p) * np.log(q / p)).sum())


def seen_rows(log: Log, train: Part, encoder: Encoder) -> np.ndarray:
    """bool_F: rows of the embedding table that some row of train reads."""
    seen_F = np.zeros(max(1, sum(encoder.field_rows)), bool)
    columns = [field.name for field in log.schema.categorical]
    for table in ordered_tables(log, train, list(log.schema.columns)) if columns else ():
        rows = encoder.encode(table)
        seen_F[rows.ids_RK.ravel()] = True
        for bags in rows.bags:
            seen_F[bags.ids_S] = True
    return seen_F


def unseen(ids_R: np.ndarray, begin: int, seen_F: np.ndarray) -> float:
    """Share of the ids that are there (row 0 of a field is a missing one) which train does not have."""
    there = ids_R[ids_R != begin]
    return float((~seen_F[there]).mean()) if len(there) else 0.0
