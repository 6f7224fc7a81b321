"""Experiments: bookkeeping of both designs, effects and intervals by hand, the command and what it refuses."""

import importlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student

from data.errors import Stopped, UserError
from funnel.platform.designs import metrics, run_pair, values
from funnel.platform.experiment import PlatformSimulator, effects, paired
from funnel.platform.figures import DAILY, METRICS
from funnel.platform.population import draw_population
from funnel.platform.settings import PlatformSettings
from funnel.platform.stages import Policies
from funnel.platform.world import World
from funnel.simulator import Compared
from jobs import experiment
from jobs.command import cli

SMALL = PlatformSettings(users=120, items=100, providers=20, uploads=8.0)
WORDS = ("--users", 120, "--items", 100, "--providers", 20, "--uploads", 8, "--days", 2, "--warmup", 1)
SLOT = {"slot": {"kind": "random", "rate": 0.5}}


def compared(design: str, treatment: dict[str, Any]) -> Compared:
    return Compared({}, treatment, design=design, days=2, warmup=1)


@pytest.mark.parametrize("design", ["user", "user_corpus"])
def test_a_against_a_is_nothing(design: str) -> None:
    for name, (base, effect) in values(run_pair(SMALL, compared(design, {}), 0), slice(None)).items():
        assert effect == 0, name
        assert base >= 0


def test_the_co_diverted_arms_are_the_two_halves_alone() -> None:
    """What a pair says of the control is the sum of two worlds, each of half the users and half the providers."""
    tables = run_pair(SMALL, compared("user_corpus", SLOT), 5)
    seed = 5
    total = np.zeros((2, len(DAILY)))
    for half in (0, 1):
        world = World(draw_population(SMALL, seed).part(half, 2), [Policies.of({}, SMALL, seed)])
        world.run(3)
        sums = world.ledger.table()[1:, :, 0]
        total += sums
    same = [place for place, name in enumerate(DAILY) if not name.startswith("discoverable")]
    assert np.array_equal(tables["control"][:, same], total[:, same])
    assert tables["treatment"][:, DAILY.index("slot_exposures")].sum() > 0
    assert tables["control"][:, DAILY.index("slot_exposures")].sum() == 0


def test_the_user_diverted_test_keeps_the_control_in_one_half() -> None:
    tables = run_pair(SMALL, compared("user", SLOT), 1)
    slot = DAILY.index("slot_exposures")
    assert tables["treatment"][:, slot].sum() > 0
    assert all(tables[name][:, slot].sum() == 0 for name in ("control", "beside_control", "beside_treatment"))
    # The half that keeps the control is touched through the corpus alone: it has the same visits.
    visits = DAILY.index("visits")
    assert np.array_equal(tables["beside_control"][:, visits], tables["beside_treatment"][:, visits])
    # On the first day the two worlds have the same corpus and, before anything was shown, the same requests.
    base, effect = values(tables, slice(None))["dwell"]
    dwell = {name: table[:, DAILY.index("dwell")].sum() for name, table in tables.items()}
    by_hand = (dwell["treatment"] - dwell["beside_treatment"]) - (dwell["control"] - dwell["beside_control"])
    assert (base, effect) == (dwell["control"], by_hand)


def test_metrics_by_hand() -> None:
    day = {"dwell": 30.0, "positives": 6, "exposures": 20, "core_positives": 4, "core_exposures": 10, "duic_20": 7}
    table = np.zeros((2, len(DAILY)))
    for name, value in day.items():
        table[:, DAILY.index(name)] = value
    table[1, DAILY.index("duic_20")] = 9
    found = metrics(table)
    assert found.keys() == METRICS.keys()
    assert found["dwell"] == 60
    assert found["good_ctr"] == 0.3
    assert found["good_ctr.core"] == 0.4
    assert found["good_ctr.casual"] == pytest.approx(0.2)
    assert found["duic_at_20"] == 8
    assert found["fresh.dwell"] == 0


def test_effects_by_hand() -> None:
    """Two pairs: 10 -> 11 and 30 -> 31 is +5%; equal relative effects leave no width."""

    def pair(control: float, treatment: float) -> dict[str, np.ndarray]:
        tables = {name: np.zeros((1, len(DAILY))) for name in ("control", "treatment")}
        tables["control"][0, DAILY.index("dwell")] = control
        tables["treatment"][0, DAILY.index("dwell")] = treatment
        return tables

    found = effects([pair(10, 11), pair(30, 31)], slice(None))
    assert found["dwell.control"] == 20
    assert found["dwell.effect"] == pytest.approx(0.05)
    assert found["dwell.effect.low"] < 0.05 < found["dwell.effect.high"]
    assert "likes.effect" not in found
    even = effects([pair(10, 11), pair(30, 33), pair(20, 22), pair(20, 22)], slice(None))
    assert even["dwell.effect.low"] == pytest.approx(0.1)
    assert even["dwell.effect.high"] == pytest.approx(0.1)
    assert "dwell.effect.low" not in effects([pair(10, 11)], slice(None))


def test_a_control_with_next_to_nothing_has_no_interval() -> None:
    """One item under the control of one pair, none under the treatment: -100%, but nothing is sure of that."""
    none = np.zeros(4)
    assert paired(np.array([-1.0, 0, 0, 0]), np.array([1.0, 0, 0, 0])) is None
    # Where the base does not vary it is Student's at least: 1 of 100 +- 3.182 * .41 / 100 of 4 pairs.
    ends = paired(np.array([0.0, 1, 1, 2]), none + 100)
    assert ends is not None
    half = student.ppf(0.975, 3) * np.std([0, 1, 1, 2], ddof=1) / 2 / 100
    assert ends[0] <= 0.01 - half
    assert ends[1] >= 0.01 + half


def test_what_a_paired_t_test_does_not_tell_from_0_is_not_told() -> None:
    """A against A in small counts: 500 tests of 4 pairs whose control counts 1 in every other pair."""
    rng = np.random.default_rng(2)
    told = tests = 0
    for _ in range(500):
        control, treatment = rng.poisson(0.5, (2, 4)).astype(float)
        if control.sum() and (ends := paired(treatment - control, control)):
            tests += 1
            told += not ends[0] <= 0 <= ends[1]
    assert tests > 50
    assert told / tests < 0.07


@pytest.mark.parametrize("pairs", [2, 3, 16])
def test_intervals_cover_what_many_pairs_say(pairs: int) -> None:
    """Of normal pairs the 95% interval holds the truth as often as it says, within what 400 trials can tell."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        base = rng.normal(100, 5, pairs)
        change = base * 0.02 + rng.normal(0, 1, pairs)
        tables = []
        for control, effect in zip(base, change, strict=True):
            one = {name: np.zeros((1, len(DAILY))) for name in ("control", "treatment")}
            one["control"][0, 5], one["treatment"][0, 5] = control, control + effect
            tables.append(one)
        found = effects(tables, slice(None))
        name = next(metric for metric, (above, _) in METRICS.items() if above == DAILY[5])
        held += found[f"{name}.effect.low"] <= 0.02 <= found[f"{name}.effect.high"]
    assert held / 400 > 0.92


def arguments(out: Path, *words: object) -> experiment.Arguments:
    made: experiment.Arguments = experiment.arguments_of("--out", out, *WORDS, *words)
    return made


@pytest.mark.slow
def test_a_python_call_is_the_command(tmp_path: Path) -> None:
    words = [str(word) for word in WORDS]
    keywords = {name.removeprefix("--").replace("-", "_").replace(".", "__"): value
                for name, value in zip(words[::2], words[1::2], strict=True)}  # fmt: skip
    found = experiment.experiment(tmp_path / "call", treatment="random_slot", pairs=2, **keywords)
    summary = experiment.run(arguments(tmp_path / "command", "--treatment", "random_slot", "--pairs", 2))
    assert found.path == tmp_path / "call"
    timed = {"experiment.seconds"}
    assert {key: found.figures[key] for key in found.figures.keys() - timed} == {
        key: summary[key] for key in summary.keys() - timed
    }
    assert summary["pairs"] == 2
    with pytest.raises(UserError, match="treatment"):
        experiment.experiment(tmp_path / "none")


@pytest.mark.slow
def test_the_command_goes_on_and_takes_more_pairs(tmp_path: Path) -> None:
    policy = tmp_path / "mine.json"
    policy.write_text(json.dumps(SLOT))
    first = experiment.run(arguments(tmp_path / "run", "--treatment", policy, "--pairs", 2))
    out = tmp_path / "run"
    kept = (out / "pairs" / "00000.json").read_bytes()
    (out / "pairs" / "00001.json").unlink()
    (out / "summary.json").unlink()
    again = experiment.run(arguments(out, "--treatment", policy, "--pairs", 2))
    cost = "experiment.seconds"
    assert {**again, cost: 0} == {**first, cost: 0}
    more = experiment.run(arguments(out, "--treatment", policy, "--pairs", 3))
    assert more["pairs"] == 3
    assert (out / "pairs" / "00000.json").read_bytes() == kept
    page = (out / "report.html").read_text()
    assert "dwell by day" in page
    with pytest.raises(UserError, match="holds another run"):
        experiment.run(arguments(out, "--treatment", policy, "--pairs", 3, "--seed", 1))
    with pytest.raises(UserError, match=r"slot\.kind was 'random', now 'fresh'"):
        experiment.run(arguments(out, "--treatment", "fresh", "--pairs", 3))


def test_a_signal_stops_it_though_ray_brings_handlers_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 143, and what is finished stays: our handler is set after Ray's, which aborts."""
    before = signal.getsignal(signal.SIGTERM)
    conducting = importlib.import_module("jobs.experiment.conduct")

    def run_pairs(simulator: Any, pairs: Any, workers: int, stopped: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        yield 0, simulator.run(0)
        os.kill(os.getpid(), signal.SIGTERM)
        if stopped():
            raise Stopped("stopped with 2 pairs to run")

    monkeypatch.setattr(conducting, "connect", lambda cpus: signal.signal(signal.SIGTERM, signal.SIG_IGN))
    monkeypatch.setattr(conducting, "run_pairs", run_pairs)
    try:
        with pytest.raises(SystemExit) as caught:
            experiment.run(arguments(tmp_path / "run", "--treatment", "random_slot", "--pairs", 3, "--workers", 1))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught.value.code == 143
    assert [path.name for path in (tmp_path / "run" / "pairs").iterdir()] == ["00000.json"]
    assert not (tmp_path / "run" / "summary.json").exists()


@pytest.mark.ray
def test_any_number_of_workers_gives_the_same_bits(tmp_path: Path, ray_cluster: None) -> None:
    words = ("--treatment", "random_slot", "--pairs", 3)
    for workers in (0, 1, 2):
        experiment.run(arguments(tmp_path / str(workers), *words, "--workers", workers))
    for name in ("course.json", *(f"pairs/{pair:05d}.json" for pair in range(3))):
        texts = [(tmp_path / str(workers) / name).read_bytes() for workers in (0, 1, 2)]
        assert texts[0] == texts[1] == texts[2], name


@pytest.mark.parametrize(
    ("policy", "words", "line"),
    [
        ({"slot": {"kind": "random", "rate": -0.1}}, (), "slot: rate is -0.1, must lie in 0..1"),
        ({"slot": {"kind": "random", "graduaton": 9}}, (), "unknown key 'graduaton'; did you mean graduation?"),
        ({"ranker": {}}, (), "unknown key 'ranker'"),
        ({"slot": {"kind": "mine.slot:Slot"}}, (), "names code"),
        ({"slot": {"kind": "random", "place": 10}}, (), "policy.json: slot: place is 10, must lie in -1..9"),
        ({"fusion": {"popularity": float("nan")}}, (), "policy.json: fusion: popularity is nan, must be a finite"),
        ({"matching": {"popularity": float("inf")}}, (), "matching: popularity is inf, must be a finite number"),
        ({"slot": {"kind": "random", "nominees": 10**9}}, (), "nominees is 1000000000, must lie in 1..10000"),
        ({"slot": {"kind": "fresh", "nominees": 10**8, "kept": 10}}, (), "must lie in 1..10000"),
        ({"slot": {"kind": "fresh", "idf_power": 1e6}}, (), "idf_power is 1000000.0, must be at most 100"),
        ({"matching": {"length": 10**9}}, (), "length is 1000000000, must be at most 10000"),
        ({"slot": {"kind": "os:system"}}, (), "os:system is no policy: a class with settings_type is wanted"),
        ({"slot": {"kind": "randon"}}, (), "policy.json: no kind of slot 'randon': did you mean random?"),
        ({"fusion": {"noise": -1}}, (), "policy.json: fusion: noise is -1.0, must be at least 0"),
        ({}, ("--visits", 0), "visits is 0.0, must be a finite number above 0"),
        ({}, ("--users", 1), "cannot be split into 2 arms"),
        ({}, ("--users", 2, "--pairs", 8), "2 users are too few: the split of pair"),
        ({}, ("--providers", 2, "--pairs", 8), "2 providers are too few: the split of pair"),
        ({}, ("--users", 2, "--pairs", 8, "--design", "user"), "leaves an arm without any"),
        ({}, ("--providers", 1), "needs at least 2"),
        ({}, ("--slots", 61), "a page cannot be filled"),
        ({}, ("--fresh-days", "nan"), "fresh_days is nan, must be a finite number above 0"),
        ({}, ("--core-activity", "inf"), "core_activity is inf, must be a finite number above 0"),
        ({}, ("--design", "user_korpus"), "did you mean user_corpus?"),
        ({}, ("--control", "plan"), "did you mean plain?"),
        ({}, ("--pairs", 0), "error: --pairs is 0"),
        ({}, ("--users", 10**13), "users is 10000000000000, must be at most 100000000"),
        ({}, ("--world", "platfrm"), "no world 'platfrm': did you mean platform?"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    tmp_path: Path, policy: dict[str, Any], words: tuple[object, ...], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps(policy))
    out = tmp_path / "run"
    given = [str(word) for word in ("--out", out, "--treatment", path, *words)]
    with pytest.raises(SystemExit) as caught:
        cli.main(experiment.run, experiment.options, "", words=given)
    said = capsys.readouterr().err
    assert caught.value.code == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert line in said
    assert not out.exists()


def test_the_policy_of_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/platform.md shows a slot of one's own: a file names it, the command line trusts it."""
    page = (Path(__file__).resolve().parent.parent / "docs" / "platform.md").read_text()
    code = page.split("```python\n# mine.py\n")[1].split("```")[0]
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    policy, out = tmp_path / "mine.json", tmp_path / "run"
    policy.write_text('{"slot": {"kind": "mine:Newest", "rate": 0.5}}')
    words = ["--out", out, *WORDS, "--treatment", policy, "--pairs", 1, "--trust", "mine:Newest"]
    cli.main(experiment.run, experiment.options, "", words=[str(word) for word in words])
    tables = json.loads((out / "pairs" / "00000.json").read_text())
    place = tables["names"].index("slot_exposures")
    assert sum(day[place] for day in tables["treatment"]) > 0 == sum(day[place] for day in tables["control"])


def test_a_simulator_says_what_it_runs() -> None:
    simulator = PlatformSimulator.open(SMALL, compared("user", SLOT))
    policies = simulator.facts()["policies"]
    whole = {"kind": "random", "rate": 0.5, "place": -1, "nominees": 10, "graduation": 50}
    assert policies["treatment"]["slot"] == whole
    assert policies["control"]["slot"] == {"kind": "none"}
    json.dumps(simulator.facts())
