"""What the Parquet types of a column may be, and how columns of different writers become the few types that are read.

An id has one kind everywhere: 7 and "7" are hashed to other rows of a table, so whole numbers in one file and text in
another are two vocabularies. Within a kind any type will do: writers differ in width, in dictionaries and in decimals.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.types as pat

from data.errors import UserError

INTEGERS, TEXT = "integers", "text"


def id_kind(kind: pa.DataType) -> str | None:
    """INTEGERS or TEXT of an id column, or of a list of ids; "" where all are missing; None: neither can be an id."""
    value = single(kind)
    if pat.is_null(value):
        return ""
    if pat.is_integer(value) or pat.is_boolean(value) or (pat.is_decimal(value) and value.scale <= 0):
        return INTEGERS
    return TEXT if is_text(value) else None


def is_number(kind: pa.DataType) -> bool:
    """Whether a numeric feature, a label or a weight may have this type: any number, boolean, or all missing."""
    value = kind.value_type if pat.is_dictionary(kind) else kind
    number = pat.is_integer(value) or pat.is_floating(value) or pat.is_decimal(value)
    return bool(number or pat.is_boolean(value) or pat.is_null(value))


def single(kind: pa.DataType) -> pa.DataType:
    """The type of the values of a list or dictionary, else the type itself."""
    value = kind.value_type if is_list(kind) else kind
    return value.value_type if pat.is_dictionary(value) else value


def is_list(kind: pa.DataType) -> bool:
    lists = pat.is_list(kind) or pat.is_large_list(kind) or pat.is_fixed_size_list(kind)
    return bool(lists or pat.is_list_view(kind) or pat.is_large_list_view(kind))


def is_text(kind: pa.DataType) -> bool:
    """Strings of any layout; bytes too, as some writers leave out that they are UTF-8."""
    text = pat.is_string(kind) or pat.is_large_string(kind) or pat.is_string_view(kind)
    return bool(text or pat.is_binary(kind) or pat.is_large_binary(kind) or pat.is_binary_view(kind))


def read_type(kind: pa.DataType) -> pa.DataType:
    """What a column of this type becomes when it is read: booleans, integers, floats, strings, dictionaries and lists
    of them stay as they are; decimals become int64 or float64, other text strings, nothing but nulls int64."""
    if is_list(kind):
        value = read_type(kind.value_type)
        views = pat.is_list_view(kind) or pat.is_large_list_view(kind)
        return pa.large_list(value) if views or value != kind.value_type else kind
    if pat.is_dictionary(kind):
        value = read_type(kind.value_type)
        return kind if value == kind.value_type else value
    if pat.is_null(kind):
        return pa.int64()
    if pat.is_decimal(kind):
        return pa.int64() if kind.scale <= 0 else pa.float64()
    return pa.large_string() if is_text(kind) and not (pat.is_string(kind) or pat.is_large_string(kind)) else kind


def as_read(table: pa.Table, where: str, floats: Iterable[str] = ()) -> pa.Table:
    """The table with every column of its read_type; decimals among `floats` become float64 whatever their scale.

    Raises UserError naming the column where a value does not fit, such as a decimal of more than 64 bits.
    """
    floats, types = set(floats), {}
    for field in table.schema:
        wanted = pa.float64() if field.name in floats and pat.is_decimal(field.type) else read_type(field.type)
        if wanted != field.type:
            types[field.name] = wanted
    return cast_table(table, types, where) if types else table


def converted(column: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    """The column as this type, checked: a whole number stays that number."""
    kind = column.type
    if column.null_count == len(column):
        return pa.chunked_array([pa.nulls(len(column), wanted)])
    if pat.is_dictionary(kind):
        column = column.cast(kind.value_type)
    if pat.is_boolean(column.type) and not pat.is_boolean(wanted):
        column = column.cast(pa.int8())
    if pat.is_integer(column.type) and pat.is_floating(wanted):
        return column.cast(wanted, safe=False)  # a number, which may be rounded; ids do not become floats
    return column.cast(wanted)


def common_type(kinds: Sequence[pa.DataType]) -> pa.DataType:
    """One type that columns of all these types fit into. Raises TypeError where there is none."""
    there = list(dict.fromkeys(read_type(kind) for kind in kinds if not pat.is_null(kind)))
    if len(there) <= 1:
        return there[0] if there else pa.int64()
    if any(is_list(kind) for kind in there):
        if not all(is_list(kind) for kind in there):
            raise TypeError("lists and single values")
        return pa.large_list(common_type([kind.value_type for kind in there]))
    values = [single(kind) for kind in there]
    if all(pat.is_string(value) or pat.is_large_string(value) for value in values):
        return pa.large_string()
    if all(pat.is_integer(value) or pat.is_boolean(value) for value in values):
        whole = [value for value in values if pat.is_integer(value)]
        return pa.uint64() if whole and all(pat.is_unsigned_integer(value) for value in whole) else pa.int64()
    if all(is_number(value) for value in values):
        return pa.float64()
    raise TypeError(" and ".join(map(str, there)))


def cast_table(table: pa.Table, types: Mapping[str, pa.DataType], where: str) -> pa.Table:
    """The table with these types, by column, any of which may hold nulls: so all such tables join to one.

    Raises UserError where a value does not fit.
    """
    for index, field in enumerate(table.schema):
        wanted = types.get(field.name, field.type)
        if wanted != field.type:
            try:
                table = table.set_column(index, field.name, converted(table.column(index), wanted))
            except pa.ArrowException as error:
                reason = str(error).splitlines()[0]
                raise UserError(f"{where}: column {field.name!r} does not fit {wanted} ({reason})") from None
    return pa.table(table.columns, names=table.column_names)


def number(table: pa.Table, name: str, wide: bool = False) -> np.ndarray:
    """float32_R (float64_R if `wide`) of a column of numbers or booleans, NaN where missing."""
    column = table.column(name)
    if pat.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pat.is_boolean(column.type):
        column = column.cast(pa.int8())
    values = column.cast(pa.float64() if wide else pa.float32(), safe=False)
    return (values.fill_null(float("nan")) if values.null_count else values).to_numpy()


def one_chunk(table: pa.Table, name: str) -> pa.Array:
    """A column of the table in one piece."""
    combined = table.column(name).combine_chunks()
    return pa.concat_arrays(combined.chunks) if isinstance(combined, pa.ChunkedArray) else combined
