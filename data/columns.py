"""Checks the columns of a log's files by their footers alone: present once, of a fitting type, ids of one kind."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from data.derive import derived_type
from data.errors import UserError
from data.kinds import INTEGERS, TEXT, common_type, id_kind, is_list, is_number, single
from data.schema import SCHEMA_FILE, Schema

TWO_IDS = '7 and "7" are two ids'
FLOAT_IDS = "; where pandas made whole numbers floats, astype('Int64') brings them back"


@dataclass(frozen=True)
class FileColumns:
    """Types of the schema's columns in one file; those of features that are made of others, too."""

    path: str
    types: Mapping[str, pa.DataType]
    absent: tuple[str, ...] = ()
    """Columns of features alone that the file does not have: their types are null."""
    found: tuple[str, ...] = ()
    """All columns of the file."""


@dataclass(frozen=True)
class Kind:
    """What the ids of a column are, and the first file that says so."""

    name: str
    path: str


def check_columns(schema: Schema, found: pa.Schema, path: str) -> FileColumns:
    """Raise UserError naming file and column if a column of the schema is absent, there twice or of a wrong type.

    A column of features alone may be absent: see whole_columns.
    """
    raw, absent = schema.raw(schema.all_columns), []
    may_be_absent = set(raw) - set(schema.raw(schema.keys))
    for name in raw:
        if name not in found.names and name in may_be_absent:
            absent.append(name)
        elif name not in found.names:
            refuse_absent(path, name, found.names)
        elif found.names.count(name) > 1:
            raise UserError(f"{path}: has {found.names.count(name)} columns named {name!r}; rename all but one")
    types = {name: pa.null() if name in absent else found.field(name).type for name in raw}
    types |= {name: derived_type(source, types, path) for name, source in schema.sources.items()}
    for field in schema.categorical:
        kind = types[field.name]
        lists = is_list(kind)
        if lists != (field.many is not None) and id_kind(kind) != "":
            right = "without 'many' must be a single value" if lists else "with 'many' must be lists"
            raise UserError(f"{path}: column {field.name!r} is of type {kind}; a categorical feature {right}")
        fits: tuple[str, ...] = (INTEGERS, TEXT)
        right = "integers or strings"
        if field.kind == "range" or (field.kind == "vocabulary" and not isinstance(field.vocabulary[0], str)):
            fits, right = (INTEGERS,), "integers"
        elif field.kind == "vocabulary":
            fits, right = (TEXT,), "strings"
        right = f"lists of {right}" if field.many else right
        expect_id(fits, path, field.name, kind, right, f"a categorical feature of kind {field.kind!r}")
    for name in filter(None, (*schema.numeric, schema.weight, schema.value, schema.reward)):
        expect(is_number(types[name]), path, name, types[name], "integers or floats", "a number")
    for name in schema.measured:
        expect(is_number(types[name]), path, name, types[name], "integers or floats", "a treatment or an outcome")
    for name in schema.labels.values():
        expect(is_number(types[name]), path, name, types[name], "0 or 1 in integers, booleans or floats", "a label")
    for role, column in (("user", schema.user), ("request", schema.request), ("exposure key", schema.exposure)):
        if column and not (schema.truth and column == schema.exposure):
            expect(not is_list(types[column]), path, column, types[column], "a single value", f"the {role}")
            expect_id((INTEGERS, TEXT), path, column, types[column], "integers or strings", f"the {role}")
    if schema.truth and schema.exposure:
        kind = types[schema.exposure]
        expect_id((INTEGERS,), path, schema.exposure, kind, "integers", "the exposure key that joins a truth")
    return FileColumns(path, types, tuple(absent), tuple(found.names))


def refuse_absent(path: str, name: str, has: Iterable[str], more: str = "") -> None:
    raise UserError(f"{path}: no column {name!r}, which {SCHEMA_FILE} names; it has {', '.join(has)}{more}")


def whole_columns(files: Sequence[FileColumns]) -> None:
    """Raise UserError for a column that no file has, or that files lose. In the order of their paths a log may grow
    one: it is missing in all rows of the files before."""
    for name in dict.fromkeys(name for file in files for name in file.absent):
        having = [index for index, file in enumerate(files) if name not in file.absent]
        first = having[0] if having else 0
        lacking = next((file for file in files[first:] if name in file.absent), None)
        if lacking is not None:
            more = f"; {files[first].path} before it has one: a log may gain a column, not lose it" if having else ""
            refuse_absent(lacking.path, name, (one for one in lacking.found if one != name), more)


def expect_id(fits: Sequence[str], path: str, name: str, kind: pa.DataType, right: str, role: str) -> None:
    floats = FLOAT_IDS if pa.types.is_floating(single(kind)) else ""
    expect(id_kind(kind) in (*fits, ""), path, name, kind, right, role, floats)


def expect(fits: bool, path: str, name: str, kind: pa.DataType, right: str, role: str, more: str = "") -> None:
    if not fits:
        raise UserError(f"{path}: column {name!r} is of type {kind}; {role} must be {right}{more}")


def one_kind(schema: Schema, files: Iterable[FileColumns]) -> dict[str, Kind]:
    """What the ids of each column are in all these files; columns that share table rows count as one.

    Raises UserError naming file and column where a file has another kind than those before it, or than the model that
    the schema comes from (Schema.kinds).
    """
    known: dict[str, Kind] = {name: Kind(kind, "") for name, kind in schema.kinds.items()}
    for file in files:
        for name, owner in id_columns(schema):
            kind = id_kind(file.types[name])
            if not kind:
                continue
            before = known.setdefault(owner, Kind(kind, file.path))
            if before.name != kind:
                raise UserError(f"{file.path}: column {name!r} holds {kind}, {elsewhere(before, owner, name, file)}")
            if not before.path:
                known[owner] = Kind(kind, file.path)
    return known


def elsewhere(before: Kind, owner: str, name: str, file: FileColumns) -> str:
    if not before.path:
        return f"the model was trained on {before.name}; {TWO_IDS}: write {before.name} here as well"
    if owner != name and before.path == file.path:
        return f"and {owner!r}, whose table rows it shares, {before.name}; {TWO_IDS}: write both columns in one type"
    return f"but {before.name} in {before.path}; {TWO_IDS}: write the column in one type"


def id_columns(schema: Schema) -> Iterator[tuple[str, str]]:
    """(column, whose kind it must have) of the categorical features, the user, the request and the exposure key."""
    features = {field.name for field in schema.categorical}
    for field in sorted(schema.categorical, key=lambda field: field.share is not None):
        yield field.name, field.share or field.name
    for name in dict.fromkeys((schema.user, schema.request, schema.exposure)):
        if name and name not in features:
            yield name, name


def feature_kinds(schema: Schema, parts: Iterable[Mapping[str, Kind]]) -> dict[str, str]:
    """{categorical feature with rows of its own: INTEGERS or TEXT}, to be kept with a model, of the kinds of all parts.

    Raises UserError naming file and column where two parts differ.
    """
    known: dict[str, Kind] = {}
    for kinds in parts:
        for name, kind in kinds.items():
            before = known.setdefault(name, kind)
            if before.name != kind.name:
                file = FileColumns(kind.path, {})
                raise UserError(f"{kind.path}: column {name!r} holds {kind.name}, "
                                f"{elsewhere(before, name, name, file)}")  # fmt: skip
    return {field.name: known[field.name].name for field in schema.categorical if field.name in known}


def common_types(schema: Schema, files: Sequence[FileColumns]) -> dict[str, pa.DataType]:
    """One type for each column of the schema that all files' rows fit into, for whoever joins them in one table."""
    names = dict.fromkeys([*schema.all_columns, *schema.raw(schema.all_columns)])
    found = {}
    for name in names:
        kinds = [file.types[name] for file in files]
        is_id = name in schema.all_columns
        try:
            found[name] = common_type(kinds)
        except TypeError:
            if is_id:
                raise
            found[name] = kinds[0]  # a moment, say: nobody joins it but to look at it
    return found
