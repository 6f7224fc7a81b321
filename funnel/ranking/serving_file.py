"""serving.json: all that a serving side in another language must know to feed an exported ranker and read its answers.

Which column goes where, how a value becomes an id (with vectors to test an implementation by), what comes out, and real
rows from raw values to probabilities. Numbers beyond 2^53 are strings, as not every JSON reader keeps them.
"""

import datetime
import math
from typing import Any

import numpy as np
import pyarrow as pa

from data.encode import Encoder, Rows
from data.hashing import P, hash_array
from data.schema import CategoricalField, Schema
from funnel.ranking.export import FUSED, VALUE, bag_inputs
from funnel.ranking.serving_transforms import RULES, about
from funnel.tools import Served

HASHES = {
    "arithmetic": "unsigned 64-bit, modulo 2^64; >> is a logical shift; mod is the unsigned remainder",
    "splitmix64(x)": [
        "x = x + 0x9E3779B97F4A7C15",
        "x = (x xor (x >> 30)) * 0xBF58476D1CE4E5B9",
        "x = (x xor (x >> 27)) * 0x94D049BB133111EB",
        "x = x xor (x >> 31)",
    ],
    "integer": "hash(v) = splitmix64(v), v sign-extended to 64 bits if its column is signed",
    "string": [
        "b_0 .. b_(n-1): the bytes of the string in UTF-8, n of them, each 0 .. 255",
        f"s = n + sum over i of (b_i + 1) * P^(i+1), P = {int(P):#018X}".replace("0X", "0x"),
        "hash(v) = splitmix64(s)",
    ],
}
KINDS = {
    "hash": "id = offset + 1 + hash(value) mod size; a missing value: offset",
    "vocabulary": "id = offset + 2 + index of the value in the vocabulary; not in it: offset + 1; missing: offset",
    "range": "id = offset + 2 + value for 0 <= value < size; outside: offset + 1; missing: offset",
}
INTEGERS = (0, 1, -1, 42, 1_000_000_007, 2**63 - 1, -(2**63))
STRINGS = ("", "a", "ab", "ba", "user_42", "straße", "商品", "x" * 40)
BUCKETS = 1000
LOOKED_AT = 1000
"""Rows among which the examples are chosen."""
OUTPUTS = {
    "pctr": "P(click | exposure)",
    "pcvr": "P(conversion | click), over all exposures",
    "pctcvr": "P(click and conversion | exposure) = pctr * pcvr",
}


def describe_inputs(schema: Schema, inputs: tuple[str, ...], numeric: str = "float32") -> list[dict[str, Any]]:
    """The graph's inputs in order, each with the columns that fill it. `numeric`: type of the numeric features."""
    offsets = dict(zip((field.name for field in schema.categorical), Encoder(schema).offsets, strict=True))
    kinds = {field.name: schema.kinds.get(field.share or field.name) for field in schema.categorical}
    single = [
        {**describe_field(field, offsets[field.name], kinds[field.name]), **about(schema, field.name)}
        for field in schema.single
    ]
    changed = ", made of other columns and changed as 'from' and 'transform' say" if schema.transforms else ""
    described: dict[str, dict[str, Any]] = {
        "ids": {"dtype": "int64", "shape": ["batch", len(single)], "columns": single},
        "numeric": {
            "dtype": numeric,
            "shape": ["batch", len(schema.numeric)],
            "columns": [{"column": name, **about(schema, name)} for name in schema.numeric],
            "encoding": f"the raw value{changed}, unscaled (the graph standardises it); a missing value is NaN; no "
            "infinities",
        },
        VALUE: {"dtype": "float32", "shape": ["batch"], "column": schema.value, "encoding": "the raw value"},
    }
    for field in schema.many:
        assert field.many is not None
        ids, begins = bag_inputs(field.name)
        described[ids] = {
            "dtype": "int64",
            "shape": ["values"],
            **describe_field(field, offsets[field.name], kinds[field.name]),
            **about(schema, field.name),
            "last_values_kept": field.many.max,
            "encoding": "the ids of all rows' values, end to end; missing values inside a list are left out",
        }
        described[begins] = {
            "dtype": "int64",
            "shape": ["batch"],
            "column": field.name,
            "encoding": "where each row's values begin, the first at 0; they end where the next row's begin, the last "
            "row's at the number of values; a missing list is empty",
        }
    return [{"name": name, **described[name]} for name in inputs]


def describe_field(field: CategoricalField, offset: int, ids: str | None) -> dict[str, Any]:
    values = {"vocabulary": list(field.vocabulary)} if field.kind == "vocabulary" else {"size": field.size}
    last = offset + field.rows - 1
    of = {"values": ids} if ids else {}  # integers or text: as the other, the same value would be another id
    about = {"column": field.name, "kind": field.kind, **of, **values}
    return {**about, "offset": offset, "smallest": offset, "largest": last}


def encodings(schema: Schema) -> dict[str, Any]:
    """The rules from a value to an id or a number, and vectors that an implementation must reproduce."""
    integers = hash_array(pa.array(INTEGERS, pa.int64()))
    strings = hash_array(pa.array(STRINGS, pa.string()))
    pairs = [*zip(map(str, INTEGERS), ["int64"] * len(INTEGERS), integers.tolist(), strict=True)]
    pairs += [*zip(STRINGS, ["string"] * len(STRINGS), strings.tolist(), strict=True)]
    return {
        "kinds": KINDS,
        "hash": HASHES,
        "hash_test_vectors": [
            {"type": kind, "value": value, "hash": f"{hashed:#018x}", f"hash mod {BUCKETS}": hashed % BUCKETS}
            for value, kind, hashed in pairs
        ],
        **({"from_and_transform": RULES} if schema.transforms or schema.sources else {}),
    }


def describe_outputs(policy: Served | None) -> list[dict[str, Any]]:
    """The graph's outputs in order; that of a policy is the last of them."""
    described: list[dict[str, Any]] = [{"name": name, "is": text} for name, text in OUTPUTS.items()]
    if policy is not None:
        described.append({"name": FUSED, **policy.describe()})
    return [{"name": one.pop("name"), "dtype": "float32", "shape": ["batch"], **one} for one in described]


def example_rows(
    schema: Schema,
    table: pa.Table,
    encoded: Rows,
    value_R: np.ndarray | None,
    expected: dict[str, np.ndarray],
    numeric: str = "float32",
    rows: int = 3,
) -> list[dict[str, Any]]:
    """Real rows, end to end: raw values by column, what goes into the graph, what must come out of it.

    Of the first rows those whose multi-valued fields hold most values: an empty history shows a reader nothing.
    """
    looked = range(min(LOOKED_AT, table.num_rows))
    held = [sum(len(bags.take(slice(row, row + 1)).ids_S) for bags in encoded.bags) for row in looked]
    places = sorted(sorted(looked, key=lambda row: -held[row])[:rows])
    columns = [
        *schema.raw(schema.features),
        *([schema.value] if value_R is not None and schema.value in table.column_names else []),
    ]
    raw = table.select(columns).take(places).to_pylist()
    numeric_RN = encoded.numeric_RN.astype(numeric)
    examples = []
    for row, values in zip(places, raw, strict=True):
        inputs: dict[str, Any] = {"ids": encoded.ids_RK[row].tolist(), "numeric": numeric_RN[row].tolist()}
        if value_R is not None:
            inputs[VALUE] = float(value_R[row])
        for field, bags in zip(schema.many, encoded.bags, strict=True):
            inputs[bag_inputs(field.name)[0]] = bags.take(slice(row, row + 1)).ids_S.tolist()
        outputs = {name: float(array[row]) for name, array in expected.items()}
        examples.append({key: plain(entry) for key, entry in
                         {"values": values, "inputs": inputs, "outputs": outputs}.items()})  # fmt: skip
    return examples


def plain(value: Any) -> Any:
    """A value as JSON has it: NaN as null, integers beyond 2^53 as strings, moments as ISO text."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    if isinstance(value, datetime.date | datetime.datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int) and abs(value) > 2**53:
        return str(value)
    return value
