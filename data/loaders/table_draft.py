"""A schema for a table that nobody has described: what each column is, by its name, its type and its values.

What could as well be something else is said to be unsure, with what to change in schema.json if it is wrong.
"""

import dataclasses
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import pyarrow as pa

from data.errors import UserError
from data.fields import CategoricalField, Many
from data.kinds import INTEGERS, id_kind, is_list, is_number, is_text, single
from data.loaders.table_moments import Moments, made_of
from data.loaders.table_profile import LISTED, Column
from data.loaders.table_shape import shape_of
from data.loaders.table_values import EXACT, looks_like
from data.schema import Schema
from data.sources import UTC, Source
from data.transforms import Chain
from data.transforms import words as in_words

ROLES = {
    "click": r"(is_?)?(click|clicked|clicks|clk)(_?label)?|label_?(click|ctr)|ctr_?label",
    "conversion": r"(is_?)?(conversion|converted|conversions|conv|purchase|purchased|bought|buy|ordered|cvr)(_?label)?"
    r"|label_?(conversion|purchase|cvr|conv)|cvr_?label",
    "user": r"(user|uid|member|customer|visitor|buyer)(_?id)?",
    "request": r"request|(request|req|search|query|page_?view|pv|impression|list)_?id",
    "exposure": r"(exposure|row|event|sample|log|impression)_?id",
    "weight": r"(sample_?)?weight",
    "value": r"value_if_converted",
    "reward": r"revenue|reward|gmv|order_?value|amount_?paid|profit|margin",
    "conversion_time": r"(conversion|conv|converted|purchased?|bought|order|ordered)_?(ts|time|timestamp|date|at)",
    "time": r"ts|time|timestamp|(event|log|request|exposure)_?(ts|time|timestamp)|date_?time|dt|date|day",
}
"""Names by which a column's part in the log is known when no option names it."""
AN_ID = re.compile(
    r"(?i:(.*_)?(id|ids|sku|code|category|cat|brand|shop|seller|city|zip|hash)|(categorical|cat|c)?_?\d+(_\d+)*)"
    r"|.*[a-z]I[dD]"
)
"""Whole numbers of such a name are ids: item_id, brand, categorical_7, 109_14."""
PLACE = re.compile(r"(position|pos|rank|slot|place)(_.*)?", re.IGNORECASE)
CATEGORICAL, NUMERIC, DROP = KINDS = ("categorical", "numeric", "drop")
FEW = 100
"""Whole numbers from 0 to less than this are taken for numbers of things or kinds: an embedding each."""
LAST_VALUES = 50


@dataclass(frozen=True)
class Decision:
    """What a column has become."""

    column: str
    what: str
    why: str
    sure: bool = True


@dataclass(frozen=True)
class Draft:
    schema: Schema
    roles: dict[str, str]
    """Columns by their part in the log."""
    numbered: str | None
    """A column to add that numbers the rows, where none is an id of the row."""
    decisions: list[Decision]


def find_roles(types: dict[str, pa.DataType], given: Mapping[str, str]) -> dict[str, str]:
    """{role: column}: the options' columns, else the first of a known name. Raises UserError for one that is absent."""
    found: dict[str, str] = {}
    for role, name in given.items():
        if name not in types:
            raise UserError(f"--{role.replace('_', '-')} {name}: no such column; the table has {', '.join(types)}")
        found[role] = name
    for role in ROLES:
        named = [one for one in types if named_like(role, one) and one not in found.values()]
        single_valued = [one for one in named if not is_list(types[one])]
        if role not in found and single_valued:
            found[role] = single_valued[0]
    check_conversion_time(found, types, given.get("conversion_time"))
    if "click" not in found:
        raise UserError(
            f"no column is named like a click; name it with --click COLUMN; the table has {', '.join(types)}"
        )
    return found


def check_conversion_time(found: dict[str, str], types: Mapping[str, pa.DataType], given: str | None) -> None:
    """A delay needs both ends, and something that is late. Raises UserError where one is absent and the user has named
    the conversion's time; else that is no role, as are texts and numbers of such a name."""
    absent = [role for role in ("time", "conversion") if role not in found]
    if given and absent:
        raise UserError(f"--conversion-time {given}: name the column of the {absent[0]}, too (--{absent[0]})")
    if "conversion_time" in found and not given:
        kind = types[found["conversion_time"]]
        if absent or not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
            del found["conversion_time"]


def named_like(role: str, name: str) -> bool:
    return re.fullmatch(ROLES[role], plainly(name), re.IGNORECASE) is not None


def plainly(name: str) -> str:
    """user_id of "User ID", user.id and user-id."""
    return re.sub(r"\W+", "_", name).strip("_")


def id_columns(roles: Mapping[str, str], kinds: Mapping[str, str], columns: Mapping[str, Column]) -> list[str]:
    """Columns that can be nothing but ids, by their part in the log, as told, or by their name."""
    keys = [roles[role] for role in ("user", "request", "exposure") if role in roles]
    told = [name for name, kind in kinds.items() if kind == CATEGORICAL]
    others = [name for name in columns if AN_ID.fullmatch(plainly(name)) and name not in [*roles.values(), *kinds]]
    return list(dict.fromkeys([*keys, *told, *others]))


def draft(
    name: str,
    columns: dict[str, Column],
    roles: dict[str, str],
    given: Mapping[str, str],
    kinds: Mapping[str, str],
    folders: Collection[str] = (),
    moments: Moments | None = None,
    zone: str = UTC,
    train_days: int = 0,
) -> Draft:
    """The schema of a log with these columns. `roles` as find_roles has them, `given` as the user does: those are sure.
    `kinds`: what the user says of columns, KINDS by name. `folders`: columns that are folders' names. `moments`: what
    is known of the table's moments, told in this time zone; `train_days`: how many days the training part has.

    Raises UserError where no feature is left.
    """
    decisions: list[Decision] = []
    roles = dict(roles)
    if "exposure" in roles and "exposure" not in given and not columns[roles["exposure"]].unique:
        other = roles.pop("exposure")  # the impression_id of a whole page, say
        roles.setdefault("request", other)
    numbered = None
    if "exposure" not in roles:
        numbered = next(name for name in ("exposure_id", "row_id", "exposure_id_of_row") if name not in columns)
    for role, one in roles.items():
        others = [name for name in columns if named_like(role, name) and name not in roles.values()]
        why = "as told" if role in given else "by its name" + (f", as {others[0]!r} might be" if others else "")
        decisions.append(Decision(one, role, why, role in given or not others))
    taken = {role: one for role, one in roles.items() if role != "user"}
    labels: dict[str, str] = {label: roles[label] for label in ("click", "conversion") if label in roles}
    categorical: list[CategoricalField] = []
    lists: list[Column] = []
    numeric: list[str] = []
    sources: dict[str, Source] = {}
    transforms: dict[str, Chain] = {}
    for column in columns.values():
        made = made_of(column.name, moments, zone, train_days, set(columns)) if moments and column.known else None
        if made is not None and column.name == roles.get("time"):
            decisions = [dataclasses.replace(one, why=f"{one.why}; {made.why}" if made.why else one.why)
                         if one.column == column.name and one.what == "time" else one for one in decisions]  # fmt: skip
        if column.name in taken.values() and not (made and column.name == roles.get("time")):
            continue
        told_of = column.name in kinds or column.name in folders or column.only_where() is not None
        if made is not None and not told_of:
            categorical += made.categorical
            numeric += made.numeric
            sources |= made.sources
            transforms |= made.transforms
            if column.name not in taken.values():
                decisions.append(Decision(column.name, "moment" if made.sources else "-", made.why, made.sure))
            continue
        if column.name in taken.values():
            continue
        kind = kinds.get(column.name, "") if column.name else DROP
        if kind == DROP or (not kind and column.name in folders):
            why = "as told" if kind else "a folder's name: when a row was written, not what it is"
            why = why if column.name else "has no name"
            decisions.append(Decision(column.name, "-", why))
            continue
        decision, field = told(column, kind) if kind else judge(column, labels)
        decisions.append(decision)
        if decision.what == "list":
            lists.append(column)
        elif field is not None:
            categorical.append(field)
        elif decision.what == "numeric":
            numeric.append(column.name)
            shape = shape_of(column.name, column.numbers)
            if shape.chain:
                transforms[column.name] = shape.chain
                why = f"{decision.why}; {shape.why}: {in_words(shape.chain)}"
                decisions[-1] = dataclasses.replace(decision, why=why)
    for column in lists:
        field, decision = list_field(column, categorical, columns)
        categorical.append(field)
        decisions = [decision if one.column == column.name and one.what == "list" else one for one in decisions]
    if not categorical and not numeric:
        raise UserError(f"no column is left for a feature: {', '.join(one.column for one in decisions)}")
    if numbered:
        decisions.append(Decision(numbered, "exposure", "added: numbers the rows in the order of the table"))
    waits = "conversion_time" in roles and "conversion" in roles
    schema = Schema(
        name,
        tuple(categorical),
        tuple(numeric),
        labels,
        exposure=roles.get("exposure", numbered),
        sources=sources,
        transforms=transforms,
        time=roles.get("time") if waits else None,
        conversion_time=roles["conversion_time"] if waits else None,
        **{role: roles.get(role) for role in ("user", "request", "weight", "value", "reward")},  # type: ignore[arg-type]
    )
    return Draft(schema, roles, numbered, decisions)


def told(column: Column, kind: str) -> tuple[Decision, CategoricalField | None]:
    """A feature of the kind that the user says. Raises UserError where the column's values cannot be that."""
    value = single(column.type)
    if kind == NUMERIC:
        if is_list(column.type) or not is_number(column.type):
            raise UserError(f"--numeric {column.name}: the column is of type {column.type}, not of numbers")
        return Decision(column.name, "numeric", "as told"), None
    if id_kind(column.type) in (None, ""):
        raise UserError(
            f"--categorical {column.name}: the column is of type {column.type}; ids are whole numbers or text"
        )
    if is_list(column.type):
        return Decision(column.name, "list", ""), None
    if is_text(value):
        return text_field(column, column.distinct.count())
    size = hash_size(column.distinct.count())
    return Decision(column.name, "hash", "as told"), CategoricalField(column.name, "hash", size)


def judge(column: Column, labels: Mapping[str, str]) -> tuple[Decision, CategoricalField | None]:
    """What a column that has no part in the log is as a feature."""
    name, kind, distinct = column.name, single(column.type), column.distinct.count()

    def left_out(why: str, sure: bool = True) -> tuple[Decision, None]:
        return Decision(name, "-", why, sure), None

    if column.known == 0:
        return left_out("never there")
    label = column.only_where()
    if label is not None:
        return left_out(f"there, and not 0, only where {labels.get(label, label)!r} is 1: an outcome", sure=False)
    if is_list(column.type):
        if id_kind(column.type) in (None, ""):
            return left_out(f"lists of {kind}: not of ids")
        return Decision(name, "list", ""), None
    large = pa.types.is_floating(kind) and column.whole and EXACT <= column.least <= column.greatest
    if large:
        why = (
            f"whole numbers as floats, such as {column.greatest:.17g}, which lose digits: --text {name} if they are ids"
        )
        return left_out(why, sure=False)
    if not is_list(column.type) and not (is_text(kind) or is_number(column.type)):
        return left_out(f"of type {kind}, which is not read: write numbers, text or lists of ids")
    if column.constant:
        return left_out("always the same")
    if column.unique and column.whole and (is_text(kind) or pa.types.is_integer(kind)):
        return left_out("another value in every row", sure=False)
    if is_text(kind):
        decision, field = text_field(column, distinct)
        meant = "" if AN_ID.fullmatch(plainly(name)) or named_like("user", name) else looks_like(column.texts)
        return dataclasses.replace(decision, why=f"{decision.why}; {meant}", sure=False) if meant else decision, field
    if pa.types.is_boolean(kind):
        return Decision(name, "range", "yes or no"), CategoricalField(name, "range", 2)
    if pa.types.is_integer(kind):
        return whole_field(column, distinct)
    return Decision(name, "numeric", f"{column.least:,.6g} to {column.greatest:,.6g}"), None


def text_field(column: Column, distinct: int) -> tuple[Decision, CategoricalField]:
    name = column.name
    if column.values is not None and len(column.values) <= LISTED:
        values = tuple(
            str(value) for value, _ in sorted(column.values.items(), key=lambda item: (-item[1], str(item[0])))
        )
        return (
            Decision(name, "vocabulary", f"{len(values)} values"),
            CategoricalField(name, "vocabulary", vocabulary=values),
        )
    size = hash_size(distinct)
    return Decision(name, "hash", f"some {distinct:,} values"), CategoricalField(name, "hash", size)


def whole_field(column: Column, distinct: int) -> tuple[Decision, CategoricalField | None]:
    """Whole numbers: ids, a few kinds, or an amount; names decide, and what they leave open is unsure."""
    name, low, high = column.name, column.least, column.greatest
    span = f"{low:,.0f} to {high:,.0f}, {distinct:,} values"
    if AN_ID.fullmatch(plainly(name)):
        return Decision(name, "hash", span), CategoricalField(name, "hash", hash_size(distinct))
    if PLACE.fullmatch(plainly(name)):
        size = int(min(max(high + 1, 1), 1000))
        why = f"{span}; known only once the list is ranked: serve it as missing, or leave it out"
        return Decision(name, "range", why, sure=False), CategoricalField(name, "range", size)
    if low >= 0 and high < FEW:
        why = f"{span}; --numeric if it is an amount"
        return Decision(name, "range", why, sure=False), CategoricalField(name, "range", int(high) + 1)
    return Decision(name, "numeric", f"{span}; --categorical if it is an id", sure=False), None


def list_field(
    column: Column, fields: list[CategoricalField], columns: dict[str, Column]
) -> tuple[CategoricalField, Decision]:
    """A list of ids: it shares the rows of the feature whose values it lists, or has rows of its own."""
    name, most = column.name, min(column.longest, LAST_VALUES)
    why = f"up to {column.longest} values a row"
    kind = id_kind(column.type)
    shared = [
        (column.distinct.overlap(columns[field.name].distinct), field)
        for field in fields
        if field.many is None and field.kind == "hash" and id_kind(columns[field.name].type) == kind
    ]
    share, owner = max(shared, key=lambda pair: pair[0], default=(0.0, None))
    if owner is not None and share > 0.5:
        many = Many("attention", most, owner.name)
        return owner.shared(name, many), Decision(name, "list", f"{why}, of {owner.name!r}; the last {most} are read")
    distinct = column.distinct.count()
    many = Many("mean", most)
    if column.values is not None and len(column.values) <= LISTED:
        values = sorted(column.values, key=str)
        listed = tuple(int(value) if kind == INTEGERS else str(value) for value in values)  # type: ignore[call-overload]
        field = CategoricalField(name, "vocabulary", vocabulary=listed, many=many)
    else:
        field = CategoricalField(name, "hash", hash_size(distinct), many=many)
    return field, Decision(name, "list", f"{why}, {distinct:,} different ones; the last {most} are read")


def hash_size(distinct: int) -> int:
    """Rows for so many values and a quarter more, in two digits: half of the values collide with none at 1.4 times."""
    wanted = max(100.0, 1.25 * distinct)
    unit = 10 ** (math.floor(math.log10(wanted)) - 1)
    return int(math.ceil(wanted / unit) * unit)
