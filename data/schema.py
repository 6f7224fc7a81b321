"""What the columns of an exposure log mean: schema.json, read, checked and written.

    {"format": "counterpoint.schema", "version": 2, "name": "my log",
     "categorical": [{"name": "user_id", "kind": "hash", "size": 100000},
                     {"name": "channel", "kind": "vocabulary", "vocabulary": ["search", "feed"]},
                     {"name": "hour", "kind": "range", "size": 24},
                     {"name": "item_id", "kind": "hash", "size": 50000, "width": 32},
                     {"name": "history", "share": "item_id", "many": {"pooling": "mean", "max": 50}}],
     "numeric": ["price"], "labels": {"click": "clicked", "conversion": "bought"},
     "exposure": "exposure_id", "user": "user_id", "request": "request_id",
     "weight": null, "value": null, "reward": null, "time": null, "conversion_time": null,
     "instrument": ["hour"], "kinds": {},
     "truth": {"key": "exposure_id", "potential_conversion": "potential_conversion",
               "propensity": "propensity", "conversion_probability": "conversion_probability"}}

`labels` names the columns of outcomes, each 0 or 1, by what a problem calls them. Version 1 had the keys "click" and
"conversion" in their place and is read as well.

`value` is what a conversion would be worth, known before the exposure (a price, a margin): it may be fused and served.
`reward` is what came of it, known afterwards (revenue): it is written beside scores and never reaches a model.
`kinds` says what the ids of a categorical column are, "integers" or "text"; a trained model's schema has it, as
measured, so that no other log is taken for one with the same ids. `statistics` is what the transforms of its numeric
features and its buckets have measured of its training part.

Features are an allow-list: only `categorical` and `numeric` reach a model, and a label among them is an error.
data/fields.py says what a categorical entry may say. A numeric entry is the name of a column or an object of "name",
"from" (data/sources.py, of categorical entries as well) and "transform" (data/transforms.py):

    {"name": "price", "transform": [{"fill": "median"}, {"clip": [0, null]}, "log1p"]}
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.entries import id_kinds, known_statistics, label_columns, numeric_name, without_source
from data.errors import UserError
from data.fields import CategoricalField as CategoricalField
from data.fields import Many as Many
from data.fields import categorical_fields, check_categorical, column_name, expect_keys
from data.files import write_whole
from data.instrument import check_instrument, instrument_names
from data.sources import AGES, BUCKET, Source, raw_columns
from data.transforms import Chain
from data.treatment import TreatmentColumns, outcome_columns, treatment_columns

FORMAT, VERSION = "counterpoint.schema", 2
SCHEMA_FILE = "schema.json"
REQUIRED_KEYS = ("format", "version", "name", "categorical", "numeric", "labels")
VERSION_1_LABELS = ("click", "conversion")
WITHIN = {"conversion": "click"}
"""A label that is 1 only where another one is."""
COLUMN_KEYS = ("exposure", "user", "request", "weight", "value", "reward", "time", "conversion_time")
NEWER = ("reward", "time", "conversion_time")
"""Of these, keys that are left out of schema.json where they name nothing."""
OPTIONAL_KEYS = (*COLUMN_KEYS, "instrument", "kinds", "statistics", "treatment", "outcome", "truth")
TRUTH_KEYS = ("key", "potential_conversion", "propensity", "conversion_probability")


@dataclass(frozen=True)
class TruthColumns:
    """Columns of the truth files: what a log does not show and a simulation or an experiment knows."""

    key: str
    potential_conversion: str
    propensity: str | None = None
    conversion_probability: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in TRUTH_KEYS}


@dataclass(frozen=True)
class Schema:
    """The columns of a log. Raises UserError where a feature is a label, is listed twice or has no values."""

    name: str
    categorical: tuple[CategoricalField, ...]
    numeric: tuple[str, ...]
    labels: Mapping[str, str]
    """Columns of outcomes by what a problem calls them."""
    exposure: str | None = None
    user: str | None = None
    request: str | None = None
    weight: str | None = None
    value: str | None = None
    truth: TruthColumns | None = None
    reward: str | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)
    """INTEGERS or TEXT by categorical feature with table rows of its own; those that are known."""
    sources: Mapping[str, Source] = field(default_factory=dict)
    """By feature that is not the column of its name."""
    transforms: Mapping[str, Chain] = field(default_factory=dict)
    """By numeric feature that is transformed."""
    statistics: Mapping[str, tuple[tuple[float, ...], ...]] = field(default_factory=dict)
    """By feature with measured steps or a measured bucket: the numbers of each step, or the bucket's boundaries."""
    time: str | None = None
    """The moment of the exposure."""
    conversion_time: str | None = None
    """That of its conversion; missing where there is none."""
    instrument: tuple[str, ...] = ()
    """Features that move clicks and, it is declared, not conversions: the click tower alone reads them."""

    treatment: TreatmentColumns | None = None
    """Columns of what was done to the users (data/treatment.py)."""
    outcome: Mapping[str, str] = field(default_factory=dict)
    """Columns of what was measured afterwards, by name."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.categorical) + self.numeric

    @property
    def single(self) -> tuple[CategoricalField, ...]:
        """The categorical fields with one value a row."""
        return tuple(field for field in self.categorical if field.many is None)

    @property
    def many(self) -> tuple[CategoricalField, ...]:
        """The categorical fields with a list of values a row."""
        return tuple(field for field in self.categorical if field.many is not None)

    @property
    def columns(self) -> list[str]:
        """Columns read for training: the features, the labels and, if there is one, the weight."""
        return [*self.features, *self.labels.values(), *([self.weight] if self.weight else [])]

    @property
    def all_columns(self) -> list[str]:
        """`columns` and the identifiers and values beside them, each once."""
        return list(dict.fromkeys([*self.columns, *self.own, *self.measured]))

    @property
    def measured(self) -> tuple[str, ...]:
        """Columns of treatments and outcomes."""
        return (*(self.treatment.columns if self.treatment else ()), *self.outcome.values())

    @property
    def keys(self) -> list[str]:
        """Columns that are read for another reason than that they are features."""
        more = [self.weight] if self.weight else []
        return list(dict.fromkeys([*self.labels.values(), *self.own, *more, *self.measured]))

    @property
    def own(self) -> list[str]:
        """Columns of identifiers, values and moments."""
        names = (self.exposure, self.user, self.request, self.value, self.reward, self.time, self.conversion_time)
        return [name for name in names if name]

    def raw(self, names: Sequence[str]) -> list[str]:
        """The columns of the files behind columns of these names, each once."""
        return raw_columns(self.sources, names)

    def without(self, names: Sequence[str]) -> "Schema":
        """Without these features. Raises UserError where another one shares or asks for one of them."""
        rest: dict[str, Any] = {key: {name: entry for name, entry in getattr(self, key).items() if name not in names}
                for key in ("sources", "transforms", "statistics", "kinds")}  # fmt: skip
        return dataclasses.replace(
            self,
            categorical=tuple(field for field in self.categorical if field.name not in names),
            numeric=tuple(name for name in self.numeric if name not in names),
            instrument=tuple(name for name in self.instrument if name not in names),
            **rest,
        )

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """Features of which something has to be measured that is not yet."""
        chains = [name for name, chain in self.transforms.items() if any(step.measured for step in chain)]
        buckets = [name for name, source in self.sources.items() if source.quantiles]
        return tuple(name for name in chains + buckets if name not in self.statistics)

    @property
    def boundaries(self) -> dict[str, tuple[float, ...]]:
        """Of the buckets that were measured, by feature."""
        return {name: self.statistics[name][0] for name, source in self.sources.items()
                if source.part == BUCKET and name in self.statistics}  # fmt: skip

    def steps(self, name: str) -> tuple[Chain, tuple[tuple[float, ...], ...]]:
        """The transform of a numeric feature and what it has measured."""
        chain = self.transforms.get(name, ())
        return chain, self.statistics.get(name) or tuple(() for _ in chain)

    def entry(self, name: str) -> Any:
        """A numeric feature as schema.json has it."""
        given, chain = self.origin(name), self.transforms.get(name)
        if not given and not chain:
            return name
        return {"name": name, **given, **({"transform": [step.to_json() for step in chain]} if chain else {})}

    def origin(self, name: str) -> dict[str, Any]:
        """The 'from' of a feature's entry, if it has one."""
        return {"from": self.sources[name].to_dict()} if name in self.sources else {}

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "categorical": [
                {
                    **field.to_dict(),
                    **({"from": self.sources[field.name].to_dict()} if field.name in self.sources else {}),
                }
                for field in self.categorical
            ],
            "numeric": [self.entry(name) for name in self.numeric],
            "labels": dict(self.labels),
            **{key: getattr(self, key) for key in COLUMN_KEYS if key not in NEWER or getattr(self, key)},
            **({"instrument": list(self.instrument)} if self.instrument else {}),
            **({"kinds": dict(self.kinds)} if self.kinds else {}),
            **(
                {"statistics": {name: [list(known) for known in entry] for name, entry in self.statistics.items()}}
                if self.statistics
                else {}
            ),
            **({"treatment": self.treatment.to_dict()} if self.treatment else {}),
            **({"outcome": dict(self.outcome)} if self.outcome else {}),
            "truth": self.truth.to_dict() if self.truth else None,
        }

    @classmethod
    def from_dict(cls, value: object, where: str = SCHEMA_FILE) -> "Schema":
        """Check a parsed schema.json; `where` opens the message of every UserError."""
        keys = expect_keys(renewed(value), REQUIRED_KEYS, OPTIONAL_KEYS, where)
        if keys["format"] != FORMAT or keys["version"] != VERSION:
            found = f"format {keys['format']!r} version {keys['version']!r}"
            raise UserError(f"{where}: {found}; this reads {FORMAT!r} version {VERSION}")
        for key in ("categorical", "numeric"):
            if not isinstance(keys[key], list):
                raise UserError(f"{where}: {key!r} must be a list")
        truth = keys.get("truth")
        if truth is not None:
            given = expect_keys(truth, TRUTH_KEYS[:2], TRUTH_KEYS[2:], f"{where}: 'truth'")
            names = {
                key: column_name(given.get(key), f"{where}: truth {key!r}", key in TRUTH_KEYS[2:]) for key in given
            }
            truth = TruthColumns(**names)  # type: ignore[arg-type]
        try:
            sources: dict[str, Source] = {}
            transforms: dict[str, Chain] = {}
            return cls(
                name=column_name(keys["name"], "'name'") or "",
                categorical=categorical_fields([without_source(entry, sources) for entry in keys["categorical"]]),
                numeric=tuple(numeric_name(entry, sources, transforms) for entry in keys["numeric"]),
                labels=label_columns(keys["labels"]),
                **{key: column_name(keys.get(key), repr(key), True) for key in COLUMN_KEYS},
                truth=truth,
                instrument=instrument_names(keys.get("instrument")),
                kinds=id_kinds(keys.get("kinds")),
                sources=sources,
                transforms=transforms,
                statistics=known_statistics(keys.get("statistics")),
                treatment=treatment_columns(keys.get("treatment")),
                outcome=outcome_columns(keys.get("outcome")),
            )
        except UserError as error:
            raise UserError(f"{where}: {error}") from None

    @classmethod
    def from_json(cls, text: str | bytes, where: str = SCHEMA_FILE) -> "Schema":
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not readable as JSON ({error})") from None
        return cls.from_dict(value, where)

    @classmethod
    def load(cls, path: str | Path) -> "Schema":
        """Read schema.json; raise UserError naming the file if it is absent, no JSON or no schema."""
        try:
            text = Path(path).read_bytes()
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; a log directory needs a {SCHEMA_FILE}") from None
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        return cls.from_json(text, str(path))

    def save(self, path: str | Path) -> None:
        write_whole(Path(path), json.dumps(self.to_dict(), indent=1) + "\n")


def renewed(value: object) -> object:
    """A parsed schema of version 1 as version 2 has it; anything else as it is."""
    if not isinstance(value, dict) or value.get("version") != 1:
        return value
    rest = {key: entry for key, entry in value.items() if key not in VERSION_1_LABELS}
    return {**rest, "version": VERSION, "labels": {label: value.get(label) for label in VERSION_1_LABELS}}


def check_sources(schema: Schema) -> None:
    """Raise UserError where a feature that is made of other columns cannot be that, or hides a column that is read."""
    own = {schema.exposure: "exposure", schema.user: "user", schema.request: "request", schema.weight: "weight",
           schema.value: "value", schema.reward: "reward", schema.time: "time"}  # fmt: skip
    for name, source in schema.sources.items():
        if name in own:
            raise UserError(f"column {name!r} is the {own[name]!r} and cannot be made of {source.column!r}: rename it")
        hidden = [column for column in source.columns if column in schema.sources and column != name]
        if hidden:
            raise UserError(f"column {name!r}: 'from' names {hidden[0]!r}, which is made of another column itself")
    numbers = {field.name for field in schema.categorical if schema.sources.get(field.name, Source("")).part in AGES}
    if numbers:
        raise UserError(f"column {min(numbers)!r}: an age is numeric, not categorical; put it under 'numeric'")
    for name, entry in schema.statistics.items():
        steps = len(schema.transforms.get(name, ())) or 1
        if len(entry) != steps:
            raise UserError(f"'statistics' of {name!r}: {len(entry)} lists of numbers for {steps} steps")


def check_fields(schema: Schema) -> None:
    if not schema.features:
        raise UserError("no features: list columns under 'categorical' or 'numeric'")
    repeated = sorted({name for name in schema.features if schema.features.count(name) > 1})
    if repeated:
        raise UserError(f"feature {repeated[0]!r} is listed twice")
    forbidden: dict[str, str] = {}
    for label, column in schema.labels.items():
        if column in forbidden:
            other = next(name for name, one in schema.labels.items() if one == column)
            raise UserError(f"'{other}' and '{label}' are the same column {column!r}")
        forbidden[column] = f"the {label} label"
    if schema.weight:
        forbidden[schema.weight] = "the row weight"
    if schema.exposure:
        forbidden[schema.exposure] = "the exposure key"
    if schema.reward:
        forbidden[schema.reward] = "the reward, which is known only afterwards,"
    forbidden |= dict.fromkeys(schema.measured, "a treatment or an outcome")
    if schema.conversion_time:
        forbidden[schema.conversion_time] = "the conversion's time, which is known only afterwards,"
    for key, name in schema.truth.to_dict().items() if schema.truth else ():
        if name is not None:
            forbidden.setdefault(name, f"the truth column {key!r}")
    leaks = [name for name in [*schema.features, *schema.raw(schema.features)] if name in forbidden]
    if leaks:
        raise UserError(f"column {leaks[0]!r} is {forbidden[leaks[0]]} and cannot be a feature")
    check_sources(schema)
    if schema.reward and schema.reward == schema.value:
        raise UserError(f"'value' and 'reward' are the same column {schema.value!r}; one is known before, one after")
    if schema.truth and schema.exposure is None:
        raise UserError("'truth' is joined by the exposure key: name its column under 'exposure'")
    check_categorical(schema.categorical)
    check_instrument(schema.instrument, schema.categorical, schema.numeric)
