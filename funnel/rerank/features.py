"""Which columns of a log of sessions the list scorer sees, by patterns over the schema's features."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from data.errors import UserError
from data.schema import CategoricalField, Schema
from models.list_scorer import ListScorerConfig
from models.two_tower import Side


@dataclass(frozen=True)
class RerankSettings:
    """What is learnt from which columns. A pattern is a column's name, in which * stands for anything."""

    query: tuple[str, ...] = ("user_*", "intent", "page", "hour")
    """Patterns of the features that describe who asks."""
    item: tuple[str, ...] = ("item_*", "price", "content_*", "rank_*")
    """Patterns of the features that describe an item, the ranker's scores among them."""
    left_out: tuple[str, ...] = ("user_id", "item_id", "item_provider")
    """Patterns of features that are left out: ids make a file too large for a phone, and say nothing of what is new."""
    view: str = "effective_view"
    """Column that is 1 where an item was watched as it should be."""
    like: str = "like"
    """Column that is 1 where it was liked."""
    next: str = "has_next"
    """Column that is 1 where the user looked at another item after it."""
    feedback: tuple[str, ...] = ("click", "effective_view", "like", "dwell")
    """Columns that say what came of an item that was watched, as features of what comes after it; log(1 + x) is taken.
    None: the items alone."""
    order: str = ""
    """Column that rises within a session; left out, the schema's exposure. Sessions out of order are refused."""
    like_weight: float = 1.0
    """Weight of the like's loss beside the other two."""
    alpha: float = 1.0
    """Weight of an effective view in the list reward that is shown."""
    beta: float = 4.0
    """Weight of a like in it."""
    model: ListScorerConfig = field(default_factory=ListScorerConfig)

    def __post_init__(self) -> None:
        for name in ("like_weight", "alpha", "beta"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise UserError(f"{name} is {getattr(self, name)}, must be a finite number of at least 0")

    @property
    def labels(self) -> tuple[str, str, str]:
        return self.view, self.like, self.next


@dataclass(frozen=True)
class Views:
    """The schema of the features that are seen, and where each side's stand in a batch of it."""

    schema: Schema
    query: Side
    item: Side


def matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def views(settings: RerankSettings, schema: Schema, where: str = "schema.json") -> Views:
    """What of the schema is seen. Raises UserError for patterns that match nothing, and for a column on both sides."""
    usual = RerankSettings.left_out
    for pattern in settings.left_out:
        if pattern not in usual and not matching(schema.features, [pattern]):
            raise UserError(f"{where}: no feature matches --left-out {pattern}; it has {', '.join(schema.features)}")
    out = {one.name for one in schema.many} | set(matching(schema.features, settings.left_out))
    features = [name for name in schema.features if name not in out]
    sides = {"query": matching(features, settings.query), "item": matching(features, settings.item)}
    for what, names in sides.items():
        if not names:
            patterns = " ".join(getattr(settings, what))
            raise UserError(f"{where}: no feature matches --{what} {patterns}; it has {', '.join(features)}")
    if both := [name for name in sides["query"] if name in sides["item"]]:
        raise UserError(f"{where}: {both[0]!r} matches both --query and --item; it can be of one side only")
    for name in sides["item"]:
        if name in settings.labels or name in settings.feedback:
            raise UserError(f"{where}: {name!r} is what came of an item: it cannot be a feature of the item itself")
    used = {*sides["query"], *sides["item"]}
    kept = tuple(owned(one, schema, used) for one in schema.single if one.name in used)
    numeric = tuple(name for name in schema.numeric if name in used)
    seen = dataclasses.replace(
        schema, categorical=kept, numeric=numeric, labels={}, exposure=None, user=None, request=None,
        weight=None, value=None, reward=None, truth=None, kinds={}
    )  # fmt: skip
    single = [one.name for one in seen.single]

    def side(names: Sequence[str]) -> Side:
        return Side(
            tuple(k for k, name in enumerate(single) if name in names),
            tuple(n for n, name in enumerate(numeric) if name in names),
            (),
        )

    return Views(seen, side(sides["query"]), side(sides["item"]))


def owned(one: CategoricalField, schema: Schema, used: set[str]) -> CategoricalField:
    """The field with rows of its own if it shares those of a field that is not seen."""
    if one.share is None or one.share in used:
        return one
    owner = next(other for other in schema.categorical if other.name == one.share)
    return dataclasses.replace(owner, name=one.name)
