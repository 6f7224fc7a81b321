"""Values of a team's own table as a log has them: labels 0 and 1, ids whole numbers, no infinite amounts.

Shapes: R rows of a block.
"""

from collections.abc import Collection, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.encode import one_chunk
from data.errors import UserError
from data.kinds import is_text, number
from data.loaders.table_profile import Column

YES, NO = ("1", "1.0", "yes", "y", "true", "t"), ("0", "0.0", "no", "n", "false", "f")
"""Texts that are labels, in any case."""
EXACT = 2**53
"""Whole numbers below it are exact as floats."""


def label(table: pa.Table, roles: Mapping[str, str], role: str, path: str, start: int = 0) -> np.ndarray:
    """bool_R of 0 and 1 in integers, floats, booleans or text, or of yes and no, true and false; a missing conversion
    is 0 where there was no click. `start`: rows of the file before these.

    Raises UserError naming file, column, row and value for anything else.
    """
    name = roles[role]
    column = one_chunk(table, name)
    try:
        values_R = number(pa.table({name: from_words(column)}), name)
    except pa.ArrowException:
        raise UserError(f"{path}: column {name!r} is of type {column.type}; a label is 0 or 1") from None
    missing_R = np.isnan(values_R)
    if role == "conversion" and missing_R.any():
        values_R = np.where(missing_R & ~label(table, roles, "click", path, start), 0, values_R)
    wrong = np.flatnonzero((values_R != 0) & (values_R != 1))
    if len(wrong):
        row = int(wrong[0])
        value = column[row].as_py()
        found = "missing" if value is None else repr(value)
        raise UserError(
            f"{path}: column {name!r} is {found} in row {start + row}, which is no {role} label: want 0 or 1"
        )
    return values_R == 1


def from_words(column: pa.Array) -> pa.Array:
    """Texts as 1 and 0, and as 2 what is neither; other types as they are."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not is_text(kind):
        return column
    text = pc.utf8_lower(pc.utf8_trim_whitespace(column.cast(pa.large_string())))
    yes, no = (pc.is_in(text, pa.array(words, pa.large_string())) for words in (YES, NO))
    known = pc.if_else(yes, 1, pc.if_else(no, 0, 2))
    return pc.if_else(text.is_valid(), known, pa.scalar(None, pa.int64()))


def float_ids(columns: Mapping[str, Column], ids: Collection[str]) -> list[str]:
    """Columns among `ids` that are whole numbers as floats, as pandas writes them where one is missing.

    Raises UserError where they are too large for a float to tell them apart.
    """
    found = [columns[name] for name in ids if pa.types.is_floating(columns[name].type) and columns[name].whole]
    found = [column for column in found if column.least <= column.greatest]
    for column in found:
        if max(-column.least, column.greatest) >= EXACT:
            raise UserError(
                f"column {column.name!r} holds whole numbers too large for its type ({column.greatest:.17g}): two ids "
                f"become one; write them as text (of a CSV: --text {column.name})"
            )
    return [column.name for column in found]


def mended(table: pa.Table, ids: Collection[str], infinite: Collection[str]) -> pa.Table:
    """With these columns as int64, and those without infinite values, both missing where there is no number."""
    for name in (*ids, *infinite):
        values_R = one_chunk(table, name).to_numpy(zero_copy_only=False)
        known_R = np.isfinite(values_R)
        kind = np.int64 if name in ids else values_R.dtype
        column = pa.array(np.where(known_R, values_R, 0).astype(kind), mask=~known_R)
        table = table.set_column(table.column_names.index(name), name, column)
    return table


LOOKS = (
    (
        r"^\s*[-+]?\d{1,3}(\.\d{3})*,\d+\s*$|^\s*[-+]?\d+,\d+\s*$",
        "looks like numbers with a decimal comma: --decimal ,",
    ),
    (r"^\s*[-+]?[\d.]+([eE][-+]?\d+)?\s*$", "looks like numbers, not all of them"),
    (r"^[^\w\[{]*\s*[-+]?\d[\d.,' ]*\s*[^\w\]}]*$", "looks like amounts: write bare numbers"),
    (r"^\s*\[.*\]\s*$", "looks like lists, which a CSV has not: write Parquet"),
)
"""What texts may be meant to be."""
MOSTLY = 0.9


def looks_like(texts: pa.Array) -> str:
    """What most of these texts seem to be meant as, with an example of those that are not it; "" of other texts."""
    for pattern, what in LOOKS if len(texts) else ():
        fits = pc.match_substring_regex(texts, pattern)
        if pc.mean(fits).as_py() >= MOSTLY:
            others = texts.filter(pc.invert(fits))
            return what + (f", but for {others[0].as_py()[:30]!r}" if len(others) else "")
    return ""
