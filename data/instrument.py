"""The key `instrument` of schema.json: features that move clicks and not conversions (a position, an hour, a channel).

    "instrument": ["position", "hour"]

The click tower alone reads them (models/instrument.py). That they do not move conversions is a claim of whoever writes
the schema: jobs.evaluate tests what the log can say against it.
"""

from collections.abc import Sequence

from data.errors import UserError
from data.fields import CategoricalField, column_name


def instrument_names(value: object) -> tuple[str, ...]:
    """The checked entry. Raises UserError unless it is a list of names."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise UserError("'instrument' must be a list of features, such as [\"position\"]")
    return tuple(column_name(name, "a name under 'instrument'") or "" for name in value)


def check_instrument(names: Sequence[str], categorical: Sequence[CategoricalField], numeric: Sequence[str]) -> None:
    """Raise UserError for an instrument that is no feature or that other features read, and where no other is left."""
    features = [*(field.name for field in categorical), *numeric]
    read_by = {field.many.query: field.name for field in categorical if field.many and field.many.query}
    for name in names:
        if name not in features:
            raise UserError(f"'instrument' names {name!r}, which is no feature; there are {', '.join(features)}")
        if names.count(name) > 1:
            raise UserError(f"'instrument' names {name!r} twice")
        if read_by.get(name, name) not in names:
            raise UserError(
                f"'instrument' names {name!r}, which weighs {read_by[name]!r}: conversions would depend on it"
            )
    if features and len(names) == len(features):
        raise UserError("'instrument' names every feature: conversions need some of their own")
