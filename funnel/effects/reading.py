"""Treated rows of a log: the columns that its schema names under 'treatment' and 'outcome', checked row by row.

Arrays, so that a system's `read` can hand them on (funnel/fitted.py): x (R, F) float32, treatment (R, T) where vectors
are, arm (R,), propensity (R,) of what the row got, randomised (R,), cost (R,), user (R,) hashed, and each outcome under
"outcome.NAME".
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from data.credentials import shown
from data.encode import one_chunk
from data.errors import UserError
from data.hashing import hash_array
from data.kinds import number
from data.log import Log, Part
from data.schema import Schema

Arrays = Mapping[str, np.ndarray]
EVEN = 0.01
"""How far a propensity may be from that of an even draw, as a share of it: logs round."""


def check_schema(log: Log) -> None:
    """Raise UserError where the log says nothing of treatments and outcomes, or has features of other kinds."""
    schema, where = log.schema, f"{shown(log.location)}/schema.json"
    if schema.treatment is None:
        raise UserError(f"{where}: names no 'treatment' columns: what was done to whom")
    if not schema.outcome:
        raise UserError(f"{where}: names no 'outcome' columns: what came of it")
    if not schema.numeric:
        raise UserError(f"{where}: has no numeric features, which effects are learnt by")


def read_part(log: Log, part: str) -> dict[str, np.ndarray]:
    """The arrays of a part. Raises UserError naming file, column and row for what is missing or cannot be."""
    check_schema(log)
    schema = log.schema
    treatment = schema.treatment
    assert treatment is not None
    names = list(dict.fromkeys([*schema.numeric, *schema.measured, *([schema.user] if schema.user else [])]))
    pieces: dict[str, list[np.ndarray]] = {}
    opened: Part = log.part(part)
    for file in opened.files:
        start = 0
        for index, rows in enumerate(file.row_groups):
            table = log.read_row_group(file, index, names)
            for key, value in arrays_of(table, schema, file.path, start).items():
                pieces.setdefault(key, []).append(value)
            start += rows
    return {key: np.concatenate(each) for key, each in pieces.items()}


def arrays_of(table: pa.Table, schema: Schema, path: str, start: int) -> dict[str, np.ndarray]:
    treatment = schema.treatment
    assert treatment is not None
    found = {"x": np.column_stack([number(table, name).astype(np.float32) for name in schema.numeric])}
    if np.isinf(found["x"]).any():
        row, column = np.argwhere(np.isinf(found["x"]))[0]
        raise UserError(f"{path}: row {start + int(row)}: column {schema.numeric[column]!r} is infinite")
    if treatment.vector:
        found["treatment"] = np.column_stack([known(table, name, path, start) for name in treatment.vector])
    if treatment.arm:
        arm_R = known(table, treatment.arm, path, start)
        wrong = np.flatnonzero((arm_R < 0) | (arm_R != np.floor(arm_R)) | (arm_R > 1e6))
        if len(wrong):
            row = int(wrong[0])
            raise UserError(f"{path}: row {start + row}: column {treatment.arm!r} is {arm_R[row]:g}; arms are numbered "
                            "from 0")  # fmt: skip
        found["arm"] = arm_R.astype(np.int64)
    if treatment.propensity:
        share_R = known(table, treatment.propensity, path, start)
        wrong = np.flatnonzero((share_R <= 0) | (share_R >= 1))
        if len(wrong):
            row = int(wrong[0])
            why = "what happened could not" if share_R[row] <= 0 else "nothing else could happen"
            raise UserError(
                f"{path}: row {start + row}: column {treatment.propensity!r} is {share_R[row]:g}; a propensity lies "
                f"between 0 and 1 ({why})"
            )
        found["propensity"] = share_R
    if treatment.randomised:
        even_R = known(table, treatment.randomised, path, start)
        wrong = np.flatnonzero((even_R != 0) & (even_R != 1))
        if len(wrong):
            row = int(wrong[0])
            raise UserError(f"{path}: row {start + row}: column {treatment.randomised!r} is {even_R[row]:g}, must be 0 "
                            "or 1")  # fmt: skip
        found["randomised"] = even_R == 1
    if treatment.cost:
        cost_R = known(table, treatment.cost, path, start)
        if (cost_R < 0).any():
            row = int(np.argmax(cost_R < 0))
            raise UserError(f"{path}: row {start + row}: column {treatment.cost!r} is {cost_R[row]:g}; a cost is at "
                            "least 0")  # fmt: skip
        found["cost"] = cost_R
    if schema.user:
        found["user"] = hash_array(one_chunk(table, schema.user)).view(np.int64)
    return found | {f"outcome.{name}": known(table, column, path, start) for name, column in schema.outcome.items()}


def known(table: pa.Table, name: str, path: str, start: int) -> np.ndarray:
    """A column without gaps, float64_R."""
    value_R = number(table, name).astype(np.float64)
    wrong = np.flatnonzero(~np.isfinite(value_R))
    if len(wrong):
        row = int(wrong[0])
        what = "missing" if np.isnan(value_R[row]) else "infinite"
        raise UserError(f"{path}: row {start + row}: column {name!r} is {what}")
    return value_R


def outcome_of(arrays: Arrays, weights: Mapping[str, float], where: str = "") -> np.ndarray:
    """The weighted sum of outcomes, (R,). Raises UserError for an outcome that the log does not have."""
    there = [key.removeprefix("outcome.") for key in arrays if key.startswith("outcome.")]
    for name in weights:
        if name not in there:
            raise UserError(f"{where}no outcome {name!r}; the log has {', '.join(there)}")
    return np.sum([weight * arrays[f"outcome.{name}"] for name, weight in weights.items()], 0)


def strategies_of(arrays: Arrays, where: str = "") -> np.ndarray:
    """The vector of each arm, (A, T), from rows that have both. Raises UserError where one arm has two vectors."""
    arm_R = arrays["arm"]
    arms = int(arm_R.max()) + 1
    got_A = np.bincount(arm_R, minlength=arms)
    if not got_A.all():
        raise UserError(f"{where}arm {int(np.argmin(got_A))}: nobody got it, so its effect cannot be learnt; number "
                        "the arms that there are")  # fmt: skip
    if "treatment" not in arrays:
        return np.eye(arms)
    return check_vectors(arrays, where.removesuffix(": "))


def check_vectors(arrays: Arrays, where: str = "") -> np.ndarray:
    """The vector of each arm that rows have, (A, T), nan for others. Raises UserError where one arm has two."""
    if "treatment" not in arrays:
        return np.empty((0, 0))
    arm_R, vectors_RT = arrays["arm"], arrays["treatment"]
    _, first_N = np.unique(arm_R, return_index=True)
    found = np.full((int(arm_R.max()) + 1, vectors_RT.shape[1]), np.nan)
    found[arm_R[first_N]] = vectors_RT[first_N]
    off_R = (np.abs(vectors_RT - found[arm_R]) > 1e-6).any(1)
    if off_R.any():
        row = int(np.argmax(off_R))
        raise UserError(f"{where}{': ' if where else ''}row {row}: arm {arm_R[row]} has two vectors, "
                        f"{found[arm_R[row]].tolist()} and {vectors_RT[row].tolist()}")  # fmt: skip
    return found


def check_free(arrays: Arrays, where: str = "") -> None:
    """Raise UserError where a strategy of amount, interval and number has a bill of 0 and costs something: costs are
    learnt as shares of the bill."""
    if "treatment" not in arrays or arrays["treatment"].shape[1] != 3 or "cost" not in arrays:
        return
    amount_R, _, number_R = arrays["treatment"].T
    free_R = (amount_R * number_R <= 0) & (arrays["cost"] > 0)
    if free_R.any():
        row = int(np.argmax(free_R))
        raise UserError(f"{where}row {row}: costs {arrays['cost'][row]:g}, but its bill, amount times number, is 0; "
                        "where costs are no share of the bill, name no 'vector' under 'treatment'")  # fmt: skip


def check_even(arrays: Arrays, where: str) -> None:
    """Raise UserError where a randomised row's propensity is not that of an even draw among so many arms as there
    are, or among more: whoever learns from these rows takes it that all were equally likely."""
    kept_N = np.flatnonzero(arrays["randomised"])
    if not len(kept_N):
        return
    share_N, arms = arrays["propensity"][kept_N], len(np.unique(arrays["arm"][kept_N]))
    drawn = max(round(1 / float(share_N[0])), arms)
    wrong_N = np.abs(share_N * drawn - 1) > EVEN
    if wrong_N.any():
        n = int(np.argmax(wrong_N))
        raise UserError(f"{where}: row {kept_N[n]}: is randomised with a propensity of {share_N[n]:.6g}; drawn evenly "
                        f"among {drawn} arms it would be {1 / drawn:.6g}")  # fmt: skip


def parsed_weights(words: Sequence[str], option: str = "--outcomes") -> dict[str, float]:
    """("retained=1", "minutes=0.01") as a mapping. Raises UserError for what is no NAME=WEIGHT."""
    found: dict[str, float] = {}
    for word in words:
        name, equals, text = word.partition("=")
        try:
            found[name] = float(text) if equals else 1.0
        except ValueError:
            raise UserError(f"{option} {word}: {text!r} is no number; want NAME=WEIGHT") from None
        if not np.isfinite(found[name]):
            raise UserError(f"{option} {word}: a weight is a finite number")
    return found
