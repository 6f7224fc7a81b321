"""A log with a hidden cause and instruments, from schema.json to the exported file."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support import arguments, error_line, settings_of

from data.encode import Encoder
from data.errors import UserError
from data.generate import generate_log
from data.log import open_log
from data.schema import Schema
from data.world import GeneratedLog, World, address
from distributed.finished_run import load_run
from funnel.batch import Batch
from funnel.problem import Given
from funnel.ranking import hidden_cause, theta
from funnel.ranking.presets import clicks
from funnel.ranking.problem import EntireSpace
from jobs import calibrate, evaluate, export, score, train
from models.hidden_cause import log_clicked_and

JOINT = ("--objective.name", "escm2_joint")


@pytest.fixture(scope="module")
def hidden_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("logs") / "hidden"
    shape = {"rows": 12_000, "rows_per_group": 2000, "users": 200, "items": 100, "click_rate": 0.4}
    generate_log(GeneratedLog(world="instrument", seed=1, conversion_rate=0.4, **shape), directory)
    return directory


@pytest.fixture(scope="module")
def joint(hidden_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("joint") / "run"
    quick = ("--optimizer.learning-rate", 0.03, "--optimizer.embedding", "adam", "--epochs", 2)
    train.run(arguments(hidden_log, out, *JOINT, "--objective.theta", 1.0, *quick))
    return out


def test_the_world_has_its_cause_and_its_instruments(hidden_log: Path) -> None:
    """E[v | click] > 0, and the logits' means over the truth obey the knobs; nothing but presentation moves with it."""
    schema = open_log(hidden_log).schema
    assert schema.instrument == ("channel", "hour", "position")
    assert Schema.from_dict(schema.to_dict()) == schema
    plain = GeneratedLog(world="instrument", users=200, items=100)
    sells = dataclasses.replace(plain, presentation_sells=0.5)
    for config, moves in ((plain, False), (sells, True)):
        world = World(config)
        shown = world.draw_exposures(address(5), 400)
        other = dataclasses.replace(shown, position_R=shown.position_R[::-1], hidden_R=shown.hidden_R)
        one, two = world.scores(shown), world.scores(other)
        assert not np.allclose(one[0], two[0])
        assert np.allclose(one[1], two[1]) is not moves
        still = world.scores(dataclasses.replace(shown, hidden_R=0 * shown.hidden_R))
        for logit, without in zip(one, still, strict=True):
            np.testing.assert_allclose(logit - without, world.knobs["hidden"] * shown.hidden_R, atol=1e-12)


@pytest.mark.slow
def test_scores_are_those_of_the_joint_law(joint: Path, hidden_log: Path, tmp_path: Path) -> None:
    """pctcvr is P(click, conversion), above the product; in the exported graph as well."""
    score.run(score.Arguments(run=joint, data=str(hidden_log), out=tmp_path / "scored.parquet"))
    found = pq.read_table(tmp_path / "scored.parquet")
    pctr, pcvr, pctcvr = (found.column(name).to_numpy() for name in ("pctr", "pcvr", "pctcvr"))
    assert (pctcvr > pctr * pcvr).all()
    log, network = open_log(hidden_log), load_run(joint).network.train()
    rows = Encoder(log.schema).encode(next(log.read(log.part("test"))))
    with torch.no_grad():
        raw = network(Batch.of(rows))
    both = log_clicked_and(raw["ctr"], raw["cvr"], torch.tensor(1.0), torch.ones(len(rows))).exp()
    np.testing.assert_allclose(pctcvr[: len(rows)], both.numpy(), rtol=1e-4)
    summary = json.loads((joint / "summary.json").read_text())
    assert summary["ctcvr.pcoc"] == pytest.approx(
        pctcvr.mean() / found.column("conversion").to_numpy().mean(), rel=1e-4
    )
    told = export.run(export.Arguments(run=joint, data=str(hidden_log), out=tmp_path / "served", formats=("pt2",)))
    assert told is not None
    checked = json.loads((tmp_path / "served" / "serving.json").read_text())["check"]["largest_difference"]["pt2"]
    assert max(checked.values()) < 1e-5


def test_a_calibration_for_clicks_puts_the_cause_into_pcvr(joint: Path, hidden_log: Path, tmp_path: Path) -> None:
    calibrate.run(calibrate.arguments_of("--run", str(joint), "--space", "click"))
    score.run(score.Arguments(run=joint, data=str(hidden_log), out=tmp_path / "scored.parquet"))
    found = pq.read_table(tmp_path / "scored.parquet")
    pctr, pcvr, pctcvr = (found.column(name).to_numpy() for name in ("pctr", "pcvr", "pctcvr"))
    np.testing.assert_allclose(pctcvr, pctr * pcvr, rtol=1e-4)
    calibrate.run(calibrate.arguments_of("--run", str(joint), "--method", "none"))
    with pytest.raises(UserError, match="--space entire: the model has a hidden cause"):
        calibrate.run(calibrate.arguments_of("--run", str(joint), "--space", "entire"))


@pytest.mark.slow
def test_evaluate_says_what_instruments_tell(
    joint: Path, hidden_log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = evaluate.run(evaluate.Arguments(run=joint, data=str(hidden_log), part="train", replicates=40))
    assert told["cause.theta.low"] < told["cause.theta"] < told["cause.theta.high"]
    assert told["cause.exclusion.low"] < told["cause.exclusion"] < told["cause.exclusion.high"]
    held = told["cause.exclusion.low"] <= 0 <= told["cause.exclusion.high"]
    error = (told["cause.theta.high"] - told["cause.theta.low"]) / (2 * hidden_cause.Z95)
    assert told["cause.claimed"] is (held and not hidden_cause.unclaimed(told["cause.theta"], error))
    assert ("cause.claimed" in told["absent"]) is not told["cause.claimed"]
    said = " ".join(capsys.readouterr().out.split())
    assert "hidden cause of click and conversion: theta" in said
    assert ("nothing is claimed" in said) is not told["cause.claimed"]
    page = (joint / "evaluations" / "train" / "report.html").read_text()
    assert "Does a hidden cause drive clicks and conversions?" in page


def test_theta_may_be_learnt(hidden_log: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train.run(arguments(hidden_log, run, *JOINT))
    network: Any = load_run(run).network
    assert 0 < network.cause.theta.item() < 3


@pytest.mark.slow
def test_theta_is_estimated_within_one_command(
    hidden_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """OUT/first is a click model; its estimate is held, said with its interval, and the same when the run is
    continued; 0 where nothing is claimed."""
    rates = ("--optimizer.learning-rate", 0.03, "--optimizer.embedding", "adam")
    run, quick = tmp_path / "run", (*rates, "--epochs", 2, "--objective.theta", "estimated")
    train.run(arguments(hidden_log, run, *JOINT, *quick))
    summary = json.loads((run / "summary.json").read_text())
    before = load_run(run / "first").settings
    assert (before.objective.name, before.model.crossing) == ("naive", clicks()["model.crossing"])
    told = evaluate.run(evaluate.Arguments(run=run / "first", data=str(hidden_log), part="train", replicates=40))
    assert summary["cause.theta"] == pytest.approx(told["cause.theta"], abs=1e-6)
    assert summary["cause.theta.low"] < summary["cause.theta"] < summary["cause.theta.high"]
    held = load_run(run).network.cause.theta.item()  # type: ignore[union-attr, operator]
    wanted = summary["cause.theta"] if summary["cause.claimed"] else 0.0
    assert held == pytest.approx(wanted, abs=1e-3)
    said = " ".join(capsys.readouterr().out.split())
    assert "hidden cause: " in said
    assert ("nothing is claimed" in said) is not summary["cause.claimed"]
    monkeypatch.setattr(theta, "decide", lambda seen, unseen: ({"clicks": 3, "claimed": False}, "the clicks are few"))
    none = tmp_path / "none"
    train.run(arguments(hidden_log, none, *JOINT, "--epochs", 1, "--objective.theta", "estimated"))
    assert load_run(none).network.cause.theta.item() == 0  # type: ignore[union-attr, operator]
    assert json.loads((none / "summary.json").read_text())["absent"]["cause.claimed"] == "the clicks are few"
    assert "nothing is claimed, as the clicks are few; theta is held at 0" in " ".join(capsys.readouterr().out.split())
    weighed = tmp_path / "weighed"
    words = ("--preset", "instruments", "--given", f"propensities={run / 'first'}")
    train.run(train.arguments_of("--data", str(hidden_log), "--out", str(weighed), "--workers", "0", *words))
    assert load_run(weighed).settings.objective.name == "escm2_joint_ips"
    assert json.loads((weighed / "summary.json").read_text())["propensity.effective_share"] < 1


def test_a_shrunken_theta_lies_between_0_and_the_estimate(monkeypatch: pytest.MonkeyPatch, hidden_log: Path) -> None:
    """Held though its interval covers 0; never where the instruments fail or the error is wide, and 0 where it is below
    its error."""
    assert theta.shrunk(1.0, 0.5) == pytest.approx(0.75)
    assert theta.shrunk(-1.0, 0.5) == pytest.approx(-0.75)
    assert theta.shrunk(0.3, 0.4) == 0 == theta.shrunk(0.0, 0.4)
    found = {
        "clicks": 9,
        "instrument": 1.0,
        "theta": 0.7,
        "theta.low": 0.7 - 1.96 * 0.2,
        "theta.high": 0.7 + 1.96 * 0.2,
    }
    wide = {**found, "theta.low": 0.7 - 1.96 * 0.4, "theta.high": 0.7 + 1.96 * 0.4}
    log = open_log(hidden_log)
    parts = {name: log.part(name) for name in ("train", "valid")}
    settings = settings_of({"objective.name": "escm2_joint", "objective.theta": "shrunk"}).settings
    wanted = theta.first(settings)
    assert wanted is not None
    first, preset = wanted
    assert preset in EntireSpace.presets
    facts = EntireSpace.prepare(first, log, parts)
    problem = EntireSpace(first, log.schema, facts)
    before = Given(problem, problem.network().eval(), Path())
    drawn_in = 0.7 * (1 - (0.2 / 0.7) ** 2)
    for figures_of, reason, held in (
        (found, hidden_cause.COVERED, drawn_in),
        (wide, hidden_cause.COVERED, 0.0),
        (wide, "", 0.7 * (1 - (0.4 / 0.7) ** 2)),
        (found, "they are not valid", 0.0),
    ):
        monkeypatch.setattr(theta, "decide", lambda seen, unseen, told=(figures_of, reason): told)
        told, figures, words = theta.settled(settings, before, log, parts)
        assert told.objective.theta == pytest.approx(held, abs=1e-3)
        assert figures.get("absent") == ({"cause.claimed": reason} if reason else None)
        assert ("nothing is claimed" in words) is bool(reason)


def test_an_estimate_needs_instruments_and_final_labels(hidden_log: Path, small_log: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="theta estimated: the schema declares no 'instrument'"):
        train.run(arguments(small_log, tmp_path / "run", *JOINT, "--objective.theta", "estimated"))
    settings = settings_of({"objective.name": "escm2_joint", "objective.theta": "estimated"}).settings
    log = open_log(hidden_log)
    parts = {name: log.part(name) for name in ("train", "valid")}
    facts = EntireSpace.prepare(settings, log, parts)
    with pytest.raises(UserError, match="takes a training before this one"):
        EntireSpace(settings, log.schema, facts).network()
    with pytest.raises(UserError, match="with as_of it would see later conversions"):
        EntireSpace.prepare(dataclasses.replace(settings, as_of="train"), log, parts)


def test_an_instrument_that_is_none_is_refused(
    hidden_log: Path, joint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = open_log(hidden_log).schema.to_dict()
    for names, words in (
        (["weather"], "'weather', which is no feature"),
        (["hour", "hour"], "'hour' twice"),
        ("hour", "must be a list"),
        ([feature["name"] for feature in entry["categorical"]] + entry["numeric"], "names every feature"),
    ):
        with pytest.raises(UserError, match=words):
            Schema.from_dict({**entry, "instrument": names})
    plain = tmp_path / "plain"
    plain.mkdir()
    for part in ("train", "valid", "test"):
        (plain / part).symlink_to(hidden_log / part)
    (plain / "schema.json").write_text(json.dumps({**entry, "instrument": [], "truth": None}))
    words = ("--data", plain, "--out", tmp_path / "next", "--workers", 0, "--start-from", joint, *JOINT)
    words += ("--model.embedding-width", 4, "--model.backbone.expert-hidden", 8, "--model.tower-hidden", 4)
    assert "its model has instruments (channel, hour, position); --data has none" in error_line(
        train, words, monkeypatch, capsys
    )
