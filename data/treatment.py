"""Columns of a log in which users were treated: what was done to them, and what came of it.

    "treatment": {"arm": "arm", "vector": ["amount", "interval", "number"], "propensity": "propensity",
                  "randomised": "randomised", "cost": "bill"},
    "outcome": {"retained": "retained", "minutes": "minutes"}

`arm` numbers the strategies from 0, the cheapest first; `vector` are the numbers of a strategy (or, without an arm, a
treatment of its own, such as shares of exposure); `propensity` is how likely the arm was where it was drawn,
`randomised` is 1 where it was drawn regardless of the user, `cost` is what the treatment came to. An outcome is what
was measured afterwards. None of these can be a feature.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data.errors import UserError
from data.fields import column_name, expect_keys

SINGLE = ("arm", "propensity", "randomised", "cost")


@dataclass(frozen=True)
class TreatmentColumns:
    arm: str | None = None
    vector: tuple[str, ...] = ()
    propensity: str | None = None
    randomised: str | None = None
    cost: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        single = (getattr(self, key) for key in SINGLE)
        return tuple(dict.fromkeys([*(name for name in single if name), *self.vector]))

    def to_dict(self) -> dict[str, Any]:
        return {"arm": self.arm, "vector": list(self.vector), **{key: getattr(self, key) for key in SINGLE[1:]}}


def treatment_columns(value: object) -> TreatmentColumns | None:
    """The checked 'treatment'. Raises UserError for an object that names neither an arm nor a vector."""
    if value is None:
        return None
    keys = expect_keys(value, (), ("vector", *SINGLE), "'treatment'")
    vector = keys.get("vector") or []
    if not isinstance(vector, list):
        raise UserError("treatment 'vector' must be a list of columns")
    names = tuple(column_name(each, "treatment 'vector'") or "" for each in vector)
    if len(set(names)) < len(names):
        raise UserError("treatment 'vector' names a column twice")
    single: dict[str, Any] = {key: column_name(keys.get(key), f"treatment {key!r}", True) for key in SINGLE}
    if not names and not single["arm"]:
        raise UserError("'treatment' names neither an 'arm' nor a 'vector'")
    return TreatmentColumns(vector=names, **single)


def outcome_columns(value: object) -> Mapping[str, str]:
    """The checked 'outcome'."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError('\'outcome\' must be an object of name: column, such as {"retained": "retained"}')
    return {str(name): column_name(column, f"outcome {name!r}") or "" for name, column in value.items()}
