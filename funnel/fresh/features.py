"""Which columns a nominator sees, and what it must know of the corpus: how often items are taken, IDF of categories.

    IDF_c = log(N items / n items with c)   of every categorical feature of the item but its id

Shapes: N numeric features of the view; M buckets of items; V rows of a field's block in the embedding table.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from data.encode import Encoder, one_chunk
from data.errors import UserError
from data.hashing import hash_array
from data.kinds import number
from data.log import Log, Part
from data.schema import CategoricalField, Schema
from models.sequence_nominator import History
from models.two_tower import Side, TowerConfig

MOST_BUCKETS = 65_536
IDS_HISTORY = ("history_item", "history_category", "history_dwell", "history_gap")


@dataclass(frozen=True)
class NominatorSettings:
    """What is learnt from which columns. A pattern is a column's name, in which * stands for anything."""

    label: str = ""
    """The outcome that says an item was taken, a name of the schema's labels; left out, the first one."""
    query: tuple[str, ...] = ("user_*", "history_category")
    """Patterns of the features that describe who asks."""
    content: tuple[str, ...] = ("item_*", "content_*")
    """Patterns of the features that describe the item; its id and popularity are left out unless --ids is given."""
    item: str = "item_id"
    """Column of the item's id: tells which rows are about one item."""
    popularity: tuple[str, ...] = ("item_popularity",)
    """Patterns of features that say how much an item was taken, such as counts of clicks."""
    ids: bool = False
    """Let the item's tower see its id and popularity too: the network that fresh content loses by."""
    age: str = ""
    """Column of days since the item's upload, by which recall is told apart; left out, it is not."""
    temperature: float = 0.1
    """Of the softmax over items."""
    idf_power: float = 1.0
    """Categories are weighed by IDF to this power; 0: all alike."""
    model: TowerConfig = field(default_factory=TowerConfig)

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UserError(f"temperature must be positive, got {self.temperature}")
        if not self.idf_power >= 0:
            raise UserError(f"idf_power must be at least 0, got {self.idf_power}")

    @property
    def history(self) -> tuple[str, ...]:
        """The aligned lists of a history; empty where there is none."""
        return ()

    @property
    def with_id(self) -> bool:
        return self.ids


@dataclass(frozen=True)
class SequenceSettings(NominatorSettings):
    query: tuple[str, ...] = ("user_*",)
    """Patterns of the features that describe who asks, beside the history."""
    lists: tuple[str, str, str, str] = IDS_HISTORY
    """Aligned lists of the items consumed last, oldest first: ids, categories, dwell and time since, both in steps."""

    @property
    def history(self) -> tuple[str, ...]:
        return self.lists

    @property
    def with_id(self) -> bool:
        return True


@dataclass(frozen=True)
class Views:
    """The schema of the columns that are seen, and where each side's stand in a batch of it."""

    schema: Schema
    query: Side
    item: Side
    history: History | None
    categories: tuple[str, ...]
    """Categorical features of the item that IDF weighs."""


def matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def views(settings: NominatorSettings, schema: Schema, where: str = "schema.json") -> Views:
    """What of the schema a nominator of these settings sees. Raises UserError for patterns that match nothing, for one
    column on both sides, and for a history whose lists the schema lacks."""
    features = schema.features
    hidden = [] if settings.with_id else [settings.item]
    hidden += [] if settings.ids else matching(features, settings.popularity)
    history = list(settings.history)
    for name in history:
        if name not in {one.name for one in schema.many}:
            lists = ", ".join(one.name for one in schema.many) or "none"
            raise UserError(f"{where}: no list {name!r} (--lists); the schema's multi-valued features: {lists}")
    query = [name for name in matching(features, settings.query) if name not in history]
    item = [name for name in matching(features, settings.content) if name not in (*hidden, *history)]
    for what, names, patterns in (("query", [*query, *history], settings.query), ("content", item, settings.content)):
        if not names:
            raise UserError(f"{where}: no feature matches --{what} {' '.join(patterns)}; it has {', '.join(features)}")
    if both := [name for name in query if name in item]:
        raise UserError(f"{where}: {both[0]!r} matches both --query and --content; it can be of one side only")
    if settings.with_id and settings.item not in features:
        raise UserError(f"{where}: no feature {settings.item!r} (--item): the item's id must be one here")
    if settings.with_id and settings.item not in item:
        item.append(settings.item)
    used = {*query, *item, *history}
    kept = [owned(one, schema, used) for one in schema.categorical if one.name in used]
    numeric = tuple(name for name in schema.numeric if name in used)
    seen = dataclasses.replace(
        schema, categorical=tuple(kept), numeric=numeric, labels={}, exposure=None, user=None, request=None,
        weight=None, value=None, reward=None, truth=None, kinds={}
    )  # fmt: skip
    single, many = [one.name for one in seen.single], [one.name for one in seen.many]

    def side(names: Sequence[str]) -> Side:
        return Side(
            tuple(k for k, name in enumerate(single) if name in names),
            tuple(n for n, name in enumerate(numeric) if name in names),
            tuple(m for m, name in enumerate(many) if name in names),
        )

    places = History(*(many.index(name) for name in history)) if history else None
    categorical = {one.name for one in schema.categorical}
    categories = tuple(name for name in item if name in categorical and name != settings.item)
    return Views(seen, side(query), side(item), places, categories)


def owned(one: CategoricalField, schema: Schema, used: set[str]) -> CategoricalField:
    """The field with rows of its own if it shares those of a field that is not seen."""
    if one.share is None or one.share in used:
        return one
    owner = next(other for other in schema.categorical if other.name == one.share)
    return dataclasses.replace(owner, name=one.name, many=one.many)


def corpus_facts(settings: NominatorSettings, seen: Views, log: Log, part: Part, label: str) -> dict[str, Any]:
    """{"counts": how often items of each bucket were taken, "items": distinct items, "idf": {field: IDF by row of its
    block}}, from one pass over the training part."""
    encoder = Encoder(seen.schema)
    single = [one.name for one in seen.schema.single]
    many = [one.name for one in seen.schema.many]
    hashes: list[np.ndarray] = []
    taken: list[np.ndarray] = []
    pairs: dict[str, list[np.ndarray]] = {name: [np.empty((0, 2), np.int64)] for name in seen.categories}
    columns = list(dict.fromkeys([*seen.schema.features, settings.item, label]))
    for table in log.read(part, columns):
        hash_R = hash_array(one_chunk(table, settings.item)).view(np.int64)
        rows, taken_R = encoder.encode(table), number(table, label) == 1
        hashes.append(np.unique(hash_R))
        taken.append(hash_R[taken_R])
        for name in seen.categories:
            if name in single:
                found = np.stack([hash_R, rows.ids_RK[:, single.index(name)]], 1)
            else:
                bag = rows.bags[many.index(name)]
                found = np.stack([np.repeat(hash_R, np.diff(bag.offset_R1)), bag.ids_S], 1)
            pairs[name] = [np.unique(np.concatenate([*pairs[name], found]), axis=0)]
    items = len(np.unique(np.concatenate(hashes)))
    buckets = min(MOST_BUCKETS, 1 << int(np.ceil(np.log2(8 * max(items, 1)))))
    bucket = (np.concatenate(taken).view(np.uint64) % np.uint64(buckets)).astype(np.int64)
    idf = {}
    for name in seen.categories:
        begin, size = block(seen, encoder, name)
        idf[name] = inverse_frequency(np.bincount(pairs[name][0][:, 1] - begin, minlength=size), items).tolist()
    return {"counts": np.bincount(bucket, minlength=buckets).tolist(), "items": items, "idf": idf}


def inverse_frequency(with_V: np.ndarray, items: int) -> np.ndarray:
    """IDF of values that so many of the items have; one that none has counts as one that a single item has."""
    return np.log(max(items, 1) / np.maximum(with_V, 1))


def block(seen: Views, encoder: Encoder, name: str) -> tuple[int, int]:
    """Where the rows that a field uses begin in the fused table, and how many there are."""
    fields = seen.schema.categorical
    k = [one.name for one in fields].index(name)
    owner = next(j for j, one in enumerate(fields) if one.name == (fields[k].share or name))
    return encoder.offsets[k], encoder.field_rows[owner]


def importance(seen: Views, idf: Mapping[str, Sequence[float]], power: float) -> np.ndarray:
    """float32, by row of the fused table: IDF^power of the item's categories, on average 1 over the values of a field
    (else the power would change the learning rate too); 1 for everything else."""
    encoder = Encoder(seen.schema)
    weight = np.ones(sum(encoder.field_rows), np.float32)
    for name in seen.categories:
        begin, size = block(seen, encoder, name)
        value_V = np.asarray(idf[name], np.float64) ** power
        weight[begin : begin + size] = value_V / max(float(value_V.mean()), 1e-12)
    return weight
