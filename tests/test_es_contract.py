"""What an objective may not do: reach the engine's state, return what are no returns. And how its faults are said."""

import dataclasses
import re
import sys
import warnings

import numpy as np
import pytest
import ray.cloudpickle
import torch

from data.errors import UserError
from es.config import ESConfig
from es.contract import ObjectiveError
from es.engine import run
from es.objectives.toy import Sphere
from es.wire import unpicklable

# Workers cannot import this file: its objectives travel whole.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

CONFIG = ESConfig(seed=4, pairs=8, generations=3, batch_pairs=2, cpus_per_worker=0.25)


@dataclasses.dataclass(frozen=True)
class Shifted(Sphere):
    """The sphere around 2."""

    def describe(self):
        return {"objective": "shifted"}

    def evaluate_batch(self, theta_PD, seeds_P):
        return super().evaluate_batch(theta_PD - np.float32(2), seeds_P)


class InPlace(Shifted):
    def evaluate_batch(self, theta_PD, seeds_P):
        theta_PD -= 2
        return super().evaluate_batch(theta_PD, seeds_P)


class ThroughTorch(Shifted):
    """torch writes to memory that numpy holds to be read-only."""

    def evaluate_batch(self, theta_PD, seeds_P):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theta = torch.from_numpy(theta_PD)
        theta -= 2
        return -(theta * theta).sum(1)


class SpoilsTheBatchFirst(Shifted):
    """Writes to candidates and seeds through torch, and raises unless a candidate comes alone."""

    def evaluate_batch(self, theta_PD, seeds_P):
        if len(theta_PD) == 1:
            return super().evaluate_batch(theta_PD, seeds_P) + float(seeds_P[0] % np.uint64(7))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.from_numpy(theta_PD).zero_()
            torch.from_numpy(seeds_P.view(np.int64)).zero_()
        raise ArithmeticError("too many at once")


class RaisesOnBatches(SpoilsTheBatchFirst):
    def evaluate_batch(self, theta_PD, seeds_P):
        if len(theta_PD) > 1:
            raise ArithmeticError("too many at once")
        return super().evaluate_batch(theta_PD, seeds_P)


class ChangesNumpy(Shifted):
    """Makes numpy raise on underflow and overflow, which the engine's own arithmetic may meet."""

    def evaluate_batch(self, theta_PD, seeds_P):
        np.seterr(all="raise")
        return super().evaluate_batch(theta_PD, seeds_P)


class KeepsItsReturns(Shifted):
    """Hands out the array that it will write to next time."""

    def initial(self):
        object.__setattr__(self, "kept", {})
        return super().initial()

    def evaluate_batch(self, theta_PD, seeds_P):
        kept = self.kept.setdefault(len(theta_PD), np.empty(len(theta_PD)))
        kept[:] = super().evaluate_batch(theta_PD, seeds_P)
        return kept


class GrowingFacts(Shifted):
    """What it describes itself by is a dict that it changes while it runs."""

    facts: dict = {"objective": "shifted", "calls": 0}  # noqa: RUF012

    def describe(self):
        return self.facts

    def evaluate_batch(self, theta_PD, seeds_P):
        self.facts["calls"] += 1
        return super().evaluate_batch(theta_PD, seeds_P)


@pytest.mark.ray
@pytest.mark.parametrize("workers", [0, 2])
def test_candidates_are_read_only(ray_cluster, workers):
    """What would move theta by 2 in every generation with no word is the objective's error, wherever it runs."""
    with pytest.raises(ObjectiveError, match=r"InPlace.evaluate_batch raised ValueError: .*read-only \(.*: copy what"):
        run(InPlace(4), dataclasses.replace(CONFIG, workers=workers))


@pytest.mark.ray
def test_an_objective_that_writes_all_the_same_moves_nothing(ray_cluster):
    """Candidates, centre and seeds are copies; a candidate that is tried again is what it was."""
    expected = run(Shifted(4), CONFIG)
    found = run(ThroughTorch(4), CONFIG)
    np.testing.assert_array_equal(found.theta, expected.theta)
    assert [line["return.centre"] for line in found.history] == [line["return.centre"] for line in expected.history]
    singly = run(RaisesOnBatches(4), CONFIG)
    np.testing.assert_array_equal(run(SpoilsTheBatchFirst(4), CONFIG).theta, singly.theta)
    there = run(SpoilsTheBatchFirst(4), dataclasses.replace(CONFIG, workers=2))
    np.testing.assert_array_equal(there.theta, singly.theta)


@pytest.mark.parametrize("kind", [ChangesNumpy, KeepsItsReturns])
def test_what_an_objective_keeps_or_sets_is_not_the_engines(kind):
    before = np.geterr()
    config = dataclasses.replace(CONFIG, algorithm="snes")
    np.testing.assert_array_equal(run(kind(4), config).theta, run(Shifted(4), config).theta)
    assert np.geterr() == before


def test_a_description_is_that_of_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(GrowingFacts, "facts", {"objective": "shifted", "calls": 0})
    run(GrowingFacts(4), dataclasses.replace(CONFIG, generations=1), out=tmp_path)
    monkeypatch.setattr(GrowingFacts, "facts", {"objective": "shifted", "calls": 0})  # as a new process has it
    assert run(GrowingFacts(4), CONFIG, out=tmp_path).resumed_at == 1


def returning(what):
    class Returns(Sphere):
        def evaluate_batch(self, theta_PD, seeds_P):
            return what(super().evaluate_batch(theta_PD, seeds_P).astype(np.float64))

    return Returns(3)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (lambda r: r + 1j, r"dtype complex128"),
        (lambda r: r > -1, r"dtype bool"),
        (lambda r: [str(x) for x in r], r"dtype <U\d+"),
        (lambda r: [{}] * len(r), r"dtype object \(the first is of type dict\)"),
        (lambda r: [10**400] * len(r), r"dtype object \(the first is of type int\)"),
        (lambda r: [None] * len(r), r"dtype object \(the first is of type NoneType\)"),
        (lambda r: r.astype("datetime64[s]"), r"dtype datetime64\[s\]"),
        (lambda r: r[:, None], r"shape \(4, 1\)"),
        (lambda r: r[:-1], r"shape \(3,\)"),
        (lambda r: 1.0, r"shape \(\)"),
        (lambda r: None, "None"),
        (lambda r: (x for x in r), "a generator"),
        (lambda r: [[1]] + [[1, 2]] * (len(r) - 1), r"a list that is no array of numbers \(.*inhomogeneous.*\)"),
        (lambda r: torch.tensor(r, requires_grad=True), r"a Tensor that is no array of numbers \(.*detach.*\)"),
    ],
)
def test_returns_that_are_none_are_refused(what, said):
    with pytest.raises(ObjectiveError) as caught:
        run(returning(what), CONFIG)
    assert str(caught.value).count("\n") == 0
    assert re.match(rf"Returns.evaluate_batch returned {said}: it must be \(4,\), one real number", str(caught.value))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64, np.longdouble])
def test_real_numbers_of_any_type_are_returns(dtype):
    assert run(returning(lambda r: (r * 64).astype(dtype)), CONFIG).failed_evaluations == 0


def test_what_is_beyond_float64_has_failed():
    with pytest.raises(ObjectiveError, match=r"the objective returned -inf \(first for pair 0\); generation 0: 16 "):
        run(returning(lambda r: r.astype(np.longdouble) * np.longdouble("1e4000")), CONFIG)


def test_a_sys_exit_is_an_error_of_the_objective():
    class Exits(Sphere):
        def evaluate_batch(self, theta_PD, seeds_P):
            sys.exit(3)

    with pytest.raises(ObjectiveError, match=r"^Exits.evaluate_batch raised SystemExit: 3 \(.*test_es_"):
        run(Exits(3), CONFIG)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"initial": None}, r"Odd has no initial\(\): an objective has initial\(\), evaluate_batch"),
        ({"describe": None}, r"Odd has no describe\(\): "),
        ({"describe": lambda self: {"x": np.arange(3)}}, r"Odd.describe\(\) must return plain JSON facts: .*ndarray"),
        ({"describe": lambda self: {"x": float("nan")}}, r"Odd.describe\(\) must return plain JSON facts: "),
        ({"describe": lambda self: [1]}, r"Odd.describe\(\) must return a dict, not a list"),
        ({"initial": lambda self: np.zeros((2, 2))}, r"Odd.initial\(\) must be a non-empty vector .* shape \(2, 2\)"),
        ({"initial": lambda self: [1e300, 1.0]}, r"Odd.initial\(\) must be .* values that are not finite"),
        ({"initial": lambda self: ["a"]}, r"Odd.initial\(\) is no vector of numbers: could not convert"),
        ({"initial": lambda self: {}["x"]}, r"Odd.initial raised KeyError: 'x' \(.*test_es_contract.py:\d+\)$"),
    ],
)
def test_what_an_objective_lacks_is_named_in_one_line(changes, said):
    with pytest.raises(ObjectiveError, match=said) as caught:
        run(type("Odd", (Sphere,), changes)(3), CONFIG)
    assert "\n" not in str(caught.value)


class WithLock(Sphere):
    def initial(self):
        import threading

        object.__setattr__(self, "lock", threading.Lock())
        return super().initial()


@pytest.mark.ray
def test_an_objective_that_cannot_be_sent_names_the_attribute(ray_cluster):
    with pytest.raises(ObjectiveError, match=r"^WithLock cannot be sent to workers: its attribute 'lock': Type"):
        run(WithLock(3), dataclasses.replace(CONFIG, workers=1))
    assert unpicklable(Sphere(3)) is None
    assert run(WithLock(3), CONFIG).generations == 3


FAR = [("sigma", 1e18), ("sigma", 1e30), ("learning_rate", 1e30)]


@pytest.mark.parametrize(
    "changes",
    [
        {"algorithm": algorithm, "shaping": shaping, setting: value}
        for algorithm in ("openai_es", "pgpe", "snes", "xnes", "cma", "ars")
        for shaping in (None, "raw")
        for setting, value in FAR
        if not (shaping and algorithm in ("xnes", "cma")) and (algorithm, setting) != ("cma", "learning_rate")
    ],
    ids=lambda changes: "-".join(str(value) for value in changes.values()),
)
def test_theta_that_leaves_the_numbers_is_a_line_and_the_last_checkpoint_stays(tmp_path, changes):
    config = dataclasses.replace(CONFIG, generations=40, checkpoint_every=1, **changes)
    metrics, checkpoint = tmp_path / "metrics.jsonl", tmp_path / "checkpoint.safetensors"
    said = ""
    try:
        assert np.isfinite(run(Wide(4), config, out=tmp_path).theta).all()
    except UserError as error:
        said = str(error)
    assert "\n" not in said
    assert not metrics.exists() or not re.search("NaN|Infinity", metrics.read_text())
    if "no longer finite" in said:
        assert "lower --learning-rate" in said
        assert ("the checkpoint after" if checkpoint.exists() else "nothing is saved yet") in said


@dataclasses.dataclass(frozen=True)
class Wide(Sphere):
    """In float64: far away it is large, and a number."""

    def describe(self):
        return {"objective": "wide"}

    def evaluate_batch(self, theta_PD, seeds_P):
        return -(theta_PD.astype(np.float64) ** 2).sum(axis=1)


def test_a_theta_that_is_not_finite_names_generation_and_settings(tmp_path):
    """Raw returns of 1e200: the step is infinite. What was saved before is what the run can go on from."""

    class Cliff(Wide):
        def evaluate_batch(self, theta_PD, seeds_P):
            returns_P = super().evaluate_batch(theta_PD, seeds_P)
            return returns_P * (1e200 if (returns_P > -3.0).any() else 1.0)

    config = ESConfig(pairs=8, generations=40, shaping="raw", optimizer="sgd", learning_rate=0.02, checkpoint_every=1)
    with pytest.raises(UserError, match=r"^theta is no longer finite after generation \d+: lower --learning-rate") as e:
        run(Cliff(4), config, out=tmp_path)
    assert "(it is 0.02) or --sigma (it is 0.1), or have the returns ranked" in str(e.value)
    generation = int(str(e.value).split("generation ")[1].split(":")[0])
    assert f"the checkpoint after {generation} generations is whole" in str(e.value)
    with pytest.raises(UserError, match=rf"no longer finite after generation {generation}:"):
        run(Cliff(4), config, out=tmp_path)
    assert run(Cliff(4), dataclasses.replace(config, generations=generation), out=tmp_path).generations == generation


def test_figures_of_huge_returns_are_numbers():
    result = run(returning(lambda r: r * 1e307), dataclasses.replace(CONFIG, generations=1))
    line, small = result.history[0], run(Sphere(3), dataclasses.replace(CONFIG, generations=1)).history[0]
    for key in ("return.mean", "return.std", "return.best"):
        assert line[key] == pytest.approx(small[key] * 1e307, rel=1e-6)
