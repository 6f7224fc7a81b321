"""Broken scored files and logs of actions: refused in one line, or read for what is in them."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import REFUSED, attempt, fuzz
from hypothesis import given
from hypothesis import strategies as st

from funnel.fusion.scored_log import read_scored
from funnel.off_policy.tuning import FileSettings, OffPolicyTuning

TEXT = st.sampled_from(["", "a", "b", "ü"])
KINDS = {
    pa.int8(): st.integers(-2, 3), pa.int64(): st.integers(-(2**63), 2**63 - 1) | st.integers(0, 3),
    pa.uint64(): st.sampled_from([0, 1, 2**64 - 1]), pa.bool_(): st.booleans(),
    pa.float32(): st.floats(width=32) | st.sampled_from([0.0, 1.0, 0.25]),
    pa.float64(): st.floats() | st.sampled_from([0.0, 1.0, 1e300]), pa.float16(): st.sampled_from([0.0, 0.5]),
    pa.string(): TEXT, pa.large_string(): TEXT, pa.dictionary(pa.int32(), pa.string()): TEXT,
    pa.dictionary(pa.int8(), pa.int64()): st.integers(0, 3),
    pa.binary(): st.just(b"x"), pa.list_(pa.int64()): st.lists(st.integers(0, 2), max_size=2), pa.null(): st.none(),
    pa.date32(): st.dates(), pa.decimal128(9, 2): st.none(),
}  # fmt: skip
PROBABILITY = {pa.float32(): st.floats(0, 1, width=32), pa.float64(): st.floats(0, 1)}
LABEL = {pa.int8(): st.sampled_from([0, 1]), pa.bool_(): st.booleans(), pa.float64(): st.sampled_from([0.0, 1.0])}
ID = {pa.int64(): st.integers(0, 3), pa.string(): TEXT, pa.uint64(): KINDS[pa.uint64()],
      pa.dictionary(pa.int32(), pa.string()): TEXT}  # fmt: skip


@st.composite
def tables(draw, right, least=0, most=10):
    """A table of the right kinds of columns, one of which may be strange, absent or with nulls."""
    rows = draw(st.integers(least, most))
    odd = draw(st.sampled_from([None, None, *right]))
    columns = {}
    for name, kinds in right.items():
        choices = KINDS if name == odd else kinds
        kind = draw(st.sampled_from(list(choices)))
        values = choices[kind] | st.none() if name == odd and draw(st.booleans()) else choices[kind]
        columns[name] = pa.array(draw(st.lists(values, min_size=rows, max_size=rows)), kind)
    if odd and draw(st.integers(0, 4)) == 0:
        columns.pop(odd)
    return pa.table(columns), odd


SCORED = {"pctr": PROBABILITY, "pcvr": PROBABILITY, "pctcvr": PROBABILITY, "click": LABEL, "conversion": LABEL,
          "user": ID, "request": ID, "value": PROBABILITY, "age": {pa.int64(): st.just(7)}}  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzzed") / "file.parquet"


def f32(value):
    return float(np.float32(value))


def groups(keys):
    """Which rows belong together, whatever the groups are called."""
    first = {}
    return [first.setdefault(key, row) for row, key in enumerate(keys)]


def compare_scored(scored, table):
    rows = table.to_pylist()
    assert len(scored.log.reward_C) == len(rows)
    worth = next((name for name in ("reward", "value") if name in table.column_names), None)
    for name, scores_C in zip(scored.log.names, scored.log.scores_MC, strict=True):
        assert [f32(row[name]) for row in rows] == scores_C.tolist()
        assert np.isfinite(scores_C).all()
    rewards = [row["click"] + 10.0 * row["conversion"] * (f32(row[worth]) if worth else 1.0) for row in rows]
    assert [f32(reward) for reward in rewards] == scored.log.reward_C.tolist()
    present = [name for name in ("user", "request") if name in table.column_names]
    keys = [tuple(row[name] for name in present) for row in rows]
    if len(present) == 2:  # without a request a row is one by itself, without a user a request is a user by itself
        keys = [(user, ("row", number) if request is None else request) for number, (user, request) in enumerate(keys)]
        keys = [(("request", request) if user is None else user, request) for user, request in keys]
    assert groups(keys) == groups(scored.log.request_C.tolist())
    assert groups(key[0] for key in keys) == groups(scored.log.user_C.tolist())
    assert len(scored.user_keys_U) == len({key[0] for key in keys})
    assert [f32(row["age"]) for row in rows] == scored.log.features_SC[0].tolist()


@fuzz(60)
@given(tables(SCORED), st.booleans())
def test_strange_scored_files(path, drawn, agree):
    table, odd = drawn
    names = table.column_names
    if agree and odd not in ("click", "conversion"):  # else few tables have a conversion only where there is a click
        table = table.set_column(names.index("conversion"), "conversion", table["click"])
    pq.write_table(table, path)
    scored = attempt(lambda: read_scored(path, 10.0, ("age",)))
    if scored is not REFUSED:
        compare_scored(scored, table)


ROUNDS = {"action": ID | {pa.bool_(): st.booleans()}, "propensity": {pa.float64(): st.floats(0.125, 1)},
          "reward": {pa.float64(): st.floats(-9, 9), pa.int8(): st.integers(0, 3), pa.bool_(): st.booleans()},
          "age": {pa.int64(): st.integers(0, 99), pa.float32(): st.floats(-9, 9, width=32)}, "town": ID}  # fmt: skip


def learnt(path):
    return OffPolicyTuning.open(FileSettings(data=path, features=("age", "town"), smallest_size=1), seed=0)


def compare_rounds(found, table):
    """Actions, propensities and rewards of all parts together, as they stand in the file."""
    rows = table.to_pylist()
    halves = found.parts()
    taken = sorted(
        (str(found.actions[a]), float(p), float(r))
        for half in halves
        for a, p, r in zip(half.action_R, half.propensity_R, half.reward_R, strict=True)
    )
    assert taken == sorted((str(row["action"]), float(row["propensity"]), float(row["reward"])) for row in rows)
    assert found.actions == sorted({row["action"] for row in rows})
    assert all(np.isfinite(half.context_FR).all() for half in halves)
    assert all(math.isfinite(number) for scale in found.scales for number in scale)


@fuzz(30)
@given(tables(ROUNDS, least=8, most=24))
def test_strange_logs_of_actions(path, drawn):
    table, _ = drawn
    pq.write_table(table, path)
    found = attempt(lambda: learnt(path))
    if found is not REFUSED:
        compare_rounds(found, table)


@fuzz(50)
@given(st.data())
def test_damaged_files(path, data):
    rows = 32
    columns = {name: np.linspace(0.1, 0.9, rows, dtype=np.float32) for name in ("pctr", "pcvr", "pctcvr", "value")}
    columns |= {"click": [1, 0] * 16, "conversion": [1, 0, 0, 0] * 8, "user": [1, 1, 2, 2] * 8, "request": ["r"] * rows}
    columns |= {"age": [7] * rows, "action": ["x", "y"] * 16, "town": ["u", "v", "w", "u"] * 8}
    columns |= {"propensity": [0.5] * rows, "reward": [0.0, 1.0] * 16}
    pq.write_table(pa.table(columns), path, write_page_checksum=True)
    raw = bytearray(path.read_bytes())
    if data.draw(st.integers(0, 3)) == 0:
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    else:
        for _ in range(data.draw(st.integers(1, 3))):
            raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    scored = attempt(lambda: read_scored(path, 10.0, ("age",)))
    found = attempt(lambda: learnt(path))
    whole = pa.table(columns)
    if scored is not REFUSED:  # pages have checksums: what is read at all is what was written
        compare_scored(scored, whole)
    if found is not REFUSED:
        compare_rounds(found, whole)


def test_found_pages_read_without_their_checksums(path):
    """A flipped bit in a page of scores was read as another score."""
    columns = {name: np.linspace(0.1, 0.9, 64, dtype=np.float32) for name in ("pctr", "pcvr", "pctcvr")}
    columns |= {"click": [1, 0] * 32, "conversion": [0] * 64, "user": [1, 2] * 32}
    pq.write_table(pa.table(columns), path, write_page_checksum=True, use_dictionary=False, compression="none")
    raw = bytearray(path.read_bytes())
    raw[raw.index(columns["pctr"].tobytes()) + 8] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="its data are corrupt"):
        read_scored(path, 10.0)
