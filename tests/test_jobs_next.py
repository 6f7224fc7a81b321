"""The last line of fits, operations and experiments: the next command. Features that a fit does not read are named."""

import sys
from pathlib import Path

import numpy as np
import pytest

from data.schema import CategoricalField, Schema
from jobs import experiment, fit, operate
from jobs.experiment.__main__ import following


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


@pytest.mark.parametrize("pairs", [["--pairs", "4"], ["--pairs=4"], []])
def test_an_experiment_goes_on_with_twice_the_pairs(pairs, monkeypatch) -> None:
    words = ["--treatment", "random_slot", *pairs, "--out", "/runs/slot"]
    monkeypatch.setattr(sys, "argv", ["jobs.experiment", *words])
    given = experiment.arguments_of(*words)
    expected = ["experiment", "--treatment", "random_slot", "--out", "/runs/slot", "--pairs", 2 * given.pairs]
    assert following(given) == expected
    assert experiment.arguments_of(*map(str, expected[1:])).pairs == 2 * given.pairs


def test_an_operation_ends_with_its_last_decisions_once_more(tmp_path) -> None:
    given = operate.arguments_of("--out", tmp_path)
    assert operate.following(given) == ("status", tmp_path)
    for day, what in (("00000", "snapshot"), ("00003", "snapshot"), ("00004", "state")):
        (tmp_path / "days" / day / what).mkdir(parents=True)
    replay = ("operate", "--system", "incentives", "--replay", tmp_path / "days" / "00003")
    assert operate.following(given) == replay
    assert operate.following(operate.arguments_of(*replay[1:])) == ()
