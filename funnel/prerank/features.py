"""Which features stand on which side of the two towers."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from data.errors import UserError
from data.schema import Schema
from funnel.prerank.settings import PreRankSettings
from models.two_tower import Side


@dataclass(frozen=True)
class Sides:
    query: Side
    item: Side
    item_features: tuple[str, ...]


def sides(settings: PreRankSettings, schema: Schema, where: str = "schema.json") -> Sides:
    """Raises UserError for patterns that match nothing, or one feature on both sides."""
    names = {}
    for option, patterns in (("query", settings.query), ("item", settings.item)):
        names[option] = [name for name in schema.features if any(fnmatchcase(name, one) for one in patterns)]
        if not names[option]:
            have = ", ".join(schema.features)
            raise UserError(f"{where}: no feature matches --{option} {' '.join(patterns)}; it has {have}")
    if both := [name for name in names["query"] if name in names["item"]]:
        raise UserError(f"{where}: {both[0]!r} matches both --query and --item; it can be of one side only")
    return Sides(side(schema, names["query"]), side(schema, names["item"]), tuple(names["item"]))


def side(schema: Schema, names: Sequence[str]) -> Side:
    """Places of these features among those of each kind."""

    def places(all_names: Sequence[str]) -> tuple[int, ...]:
        return tuple(place for place, name in enumerate(all_names) if name in names)

    single, many = [one.name for one in schema.single], [one.name for one in schema.many]
    return Side(places(single), places(schema.numeric), places(many))
