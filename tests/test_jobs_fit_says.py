"""jobs.fit: features that it does not read are named, and its last line is the next command."""

from pathlib import Path

import numpy as np
import pytest

from data.schema import CategoricalField, Schema
from jobs import fit


@pytest.mark.parametrize(
    ("categorical", "said"),
    [
        ((), []),
        (("user_id",), []),  # the user is no feature that effects could miss
        (("user_id", "device"), ["left out: device: what is fitted here reads the numeric features alone"]),
        (tuple("abcdefg"), ["left out: a, b, c, d, e and 2 more: "]),
    ],
)
def test_categorical_features_that_are_not_read_are_named(categorical, said) -> None:
    fields = tuple(CategoricalField(name, "hash", 100) for name in categorical)
    schema = Schema("rewards", fields, ("activity", "age"), {}, user="user_id")
    found = list(fit.unread(schema, {"x": np.zeros((3, 2))}))
    assert len(found) == len(said)
    assert all(line.startswith(start) for line, start in zip(found, said, strict=True))
    assert not list(fit.unread(schema, {"x": np.zeros((3, 5))})), "a system that reads more than the numeric ones"


@pytest.mark.parametrize(
    ("system", "words"),
    [
        ("incentives", ["operate", "--system", "incentives", "--out", Path("/runs/one_daily")]),
        ("exposure", ["evolve", "--objective", "exposure", "--data", "/log", "--out", Path("/runs/one_tuned")]),
        ("up_down", ["report", Path("/runs/one"), "--out", Path("/runs/one/report.html")]),
    ],
)
def test_each_system_leads_on(system, words) -> None:
    given = fit.arguments_of("--system", system, "--data", "/log", "--out", "/runs/one")
    assert list(fit.following(given)) == words
