"""Late conversions: what is cut at a moment, the losses against their formulas, and what they bring in a world."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from support import config, settings_of, train_here

from data.errors import UserError
from data.generate import generate_days, generate_log
from data.log import Log, open_log
from data.world import GeneratedLog
from distributed.context import CPU
from distributed.finished_run import load_run
from funnel.ranking import evaluating
from funnel.ranking.delays import DELAY, ELAPSED, cut, moment_of
from funnel.ranking.elapsed import known_share, share_at
from funnel.ranking.elapsed_report import elapsed_report, figures, table
from funnel.ranking.problem import EntireSpace
from jobs.evaluate import count_part
from models.objectives.base import Labels, ObjectiveConfig
from models.objectives.delays import DELAYS, RATE, elapsed_time, exponential, fake_negative, log_known, measured
from models.registry import build_objective

DAY = 86_400_000_000


@pytest.fixture(scope="module")
def late_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversions come after four days on average, and training sees eight days."""
    directory = tmp_path_factory.mktemp("logs") / "late"
    shape = {"rows": 20_000, "rows_per_group": 2000, "users": 200, "items": 100}
    known = {"click_rate": 0.4, "conversion_rate": 0.5, "selection": 0.3, "confounding": 0.3}
    generate_log(GeneratedLog(world="aligned", seed=3, delay=4.0, **shape, **known), directory)
    return directory


def table_of(log: Log, part: str = "train") -> pa.Table:
    return pa.concat_tables(list(log.read(log.part(part), log.schema.all_columns)))


def test_the_world_tells_times_and_its_delays_are_as_said(late_log: Path, tmp_path: Path) -> None:
    log = open_log(late_log)
    table = table_of(log)
    time_R, then = table.column("time").cast(pa.int64()).to_numpy(), table.column("conversion_time").cast(pa.int64())
    converted_R = table.column("conversion").to_numpy() > 0
    assert (then.is_valid().to_numpy() == converted_R).all()
    delay_R = (then.to_numpy()[converted_R] - time_R[converted_R]) / 86_400_000
    root_R = np.sqrt(table.column("price").to_numpy(zero_copy_only=False)[converted_R])
    wanted = np.nanmean(delay_R / root_R) * root_R
    known_R = np.isfinite(wanted)
    assert delay_R[known_R].mean() == pytest.approx(wanted[known_R].mean(), rel=0.05)
    assert np.median(delay_R) == pytest.approx(4.0 * np.log(2), rel=0.2)
    first, last = (time_R.min() - 20454 * 86_400_000) / 86_400_000, (time_R.max() - 20454 * 86_400_000) / 86_400_000
    assert 0 <= first < 1
    assert 7 < last <= 8
    generate_days(GeneratedLog(world="aligned", rows=900, delay=1.0, users=50, items=20), 3, tmp_path / "days")
    days = open_log(tmp_path / "days")
    assert [str(table_of(days, name).column("time")[0].as_py())[:10] for name in days.part_names()] == days.part_names()


def test_a_log_without_delays_is_the_same_log(tmp_path: Path) -> None:
    plain = GeneratedLog(world="aligned", rows=600, users=50, items=20)
    generate_log(plain, tmp_path / "plain")
    generate_log(dataclasses.replace(plain, delay=2.0), tmp_path / "late")
    one, two = open_log(tmp_path / "plain"), open_log(tmp_path / "late")
    assert one.schema.time is None
    assert table_of(two).select(table_of(one).column_names).equals(table_of(one))


def test_what_was_known_at_a_moment(late_log: Path) -> None:
    schema = open_log(late_log).schema
    moments = pa.timestamp("us")
    table = pa.table(
        {
            "time": pa.array([0, DAY, 2 * DAY, 5 * DAY, 0]).cast(moments),
            "conversion_time": pa.array([DAY, 4 * DAY, None, 9 * DAY, 3 * DAY]).cast(moments),
        }
    )
    known, elapsed, delay = cut(np.array([1.0, 1.0, 0.0, 1.0, 1.0], np.float32), table, schema, 3 * DAY)
    # known; not known yet; none; of a later day, so final; known at the very moment
    assert known.tolist() == [1, 0, 0, 1, 1]
    assert elapsed[[0, 1, 2, 4]].tolist() == [3, 2, 1, 3]
    assert delay.tolist() == [1, 0, 0, 4, 3]
    with pytest.raises(UserError, match="'conversion_time', is missing or before the exposure in 1 rows"):
        cut(np.ones(5, np.float32), table, schema, 3 * DAY)


def test_facts_are_of_what_was_known(late_log: Path) -> None:
    log = open_log(late_log)
    facts = moment_of("train", log, log.part("train"))
    table = table_of(log)
    time_R, then = table.column("time").cast(pa.int64()).to_numpy() * 1000, table.column("conversion_time")
    assert facts["as_of"] == time_R.max()
    known = (then.cast(pa.int64()).fill_null(2**50).to_numpy() * 1000 <= time_R.max()).sum()
    assert facts["conversion_rate"] == pytest.approx(known / (table.column("click").to_numpy() > 0).sum())
    assert known < 0.75 * (table.column("conversion").to_numpy() > 0).sum()
    everything = moment_of("2040-01-01", log, log.part("train"))
    assert everything["conversion_rate"] > 1.3 * facts["conversion_rate"]
    with pytest.raises(UserError, match="as_of 2020-01-01: before the last exposure"):
        moment_of("2020-01-01", log, log.part("train"))


def test_ages_show_which_conversions_were_missing(late_log: Path) -> None:
    """Every click of the part is in one age; the older, the more was known; what was to be expected came."""
    log = open_log(late_log)
    told = elapsed_report(log, log.part("train"), None)
    rows = table_of(log)
    clicked = rows.column("click").to_numpy() > 0
    assert sum(age["clicks"] for age in told["ages"]) == clicked.sum()
    assert told["known"] + told["after"] == rows.column("conversion").to_numpy().sum()
    assert sum(age["known"] for age in told["ages"]) == told["known"]
    assert sum(age["after"] for age in told["ages"]) == told["after"]
    shares = [age["share"] for age in told["ages"]]
    assert shares == sorted(shares)
    assert told["ages"][0]["importance"] == pytest.approx(1 / shares[0])
    found = figures(told)
    assert found["delays.share_after"] > 0.3
    # of the delays of at most eight days; those of dear items are longer, and some of all are
    assert 0.6 * found["delays.share_after"] < found["delays.share_after_expected"] < found["delays.share_after"] + 0.05
    assert len(table(told).rows) == 8
    later = elapsed_report(log, log.part("train"), int(2e15))
    assert figures(later)["delays.share_after"] == 0


B = torch.tensor([-1.0, 0.5, 2.0, -0.3], dtype=torch.float64)
RATES = torch.tensor([0.0, -1.0, 0.7, -2.0], dtype=torch.float64)
ELAPSED_B = torch.tensor([0.5, 3.0, 8.0, 2.0], dtype=torch.float64)


def test_exponential_is_the_density_of_what_is_known() -> None:
    """All that can be seen of a click by now, the delay of its conversion or none, integrates to 1."""
    p, rate = B.sigmoid(), RATES.exp()
    none = torch.zeros_like(B)
    silent = (-exponential(B, RATES, none, ELAPSED_B, none)).exp()
    torch.testing.assert_close(silent, 1 - p + p * (-rate * ELAPSED_B).exp())
    for row in range(4):
        d = torch.linspace(0, float(ELAPSED_B[row]), 20_001, dtype=torch.float64)
        one = torch.ones_like(d)
        density = (-exponential(B[row] * one, RATES[row] * one, one, ELAPSED_B[row] * one, d)).exp()
        assert torch.trapezoid(density, d).item() + silent[row].item() == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(log_known(RATES, ELAPSED_B).exp(), 1 - (-rate * ELAPSED_B).exp())


def test_fake_negatives_have_their_minimum_at_the_true_rate() -> None:
    """A click that converts with probability p gives a negative always and a positive with p; at sigmoid(b) = p the
    expected gradient is 0."""
    for p in (0.05, 0.4, 0.8):
        b = torch.logit(torch.tensor([p], dtype=torch.float64)).requires_grad_()
        (p * fake_negative(b, torch.ones(1)) + (1 - p) * fake_negative(b, torch.zeros(1))).sum().backward()
        assert b.grad is not None
        # d/db of p (1 + p) log f + (1 - p)(1 + p) log(1 - f): p (1 + p)(1 - p) = (1 - p)(1 + p) p
        assert b.grad.item() == pytest.approx(0, abs=1e-12)


def test_elapsed_time_has_its_minimum_at_the_true_rates() -> None:
    """Over all that can become of a click (early, late, never), at the true p, p_dp and p_rn, gradients are 0; one that
    has not waited adds nothing, and one that is not mature teaches the two towers nothing."""
    early, late = 0.2, 0.15
    true = torch.tensor([early + late, late, (1 - early - late) / (1 - early)], dtype=torch.float64)
    point = torch.logit(true).requires_grad_()
    label, delay = torch.tensor([1.0, 1.0, 0.0]).double(), torch.tensor([0.5, 3.0, 0.0]).double()
    chance = torch.tensor([early, late, 1 - early - late], dtype=torch.float64)

    def loss(age: float) -> torch.Tensor:
        logits = {"late": point[1].expand(3), "never": point[2].expand(3)}
        ages = torch.full((3,), age, dtype=torch.float64)
        return (chance * elapsed_time(logits, point[0].expand(3), label, ages, delay, 1.0, 4.0)).sum()

    (gradient,) = torch.autograd.grad(loss(10.0), point)
    torch.testing.assert_close(gradient, torch.zeros(3).double(), atol=1e-12, rtol=0)
    (gradient,) = torch.autograd.grad(loss(2.0), point, allow_unused=True)
    assert gradient[1:].tolist() == [0, 0]
    assert loss(0.5).item() == 0


def test_measured_is_the_law_of_what_is_known() -> None:
    """Both outcomes have the probabilities p F and 1 - p F, also where all is known by now, or nothing is."""
    known = torch.tensor([0.3, 0.8, 1.0, 1e-7], dtype=torch.float64)
    p = B.sigmoid()
    torch.testing.assert_close((-measured(B, torch.ones(4), known)).exp(), p * known.clamp(min=1e-6))
    torch.testing.assert_close((-measured(B, torch.zeros(4), known)).exp(), 1 - p * known)
    logit = torch.tensor([40.0, -40.0]).requires_grad_()
    measured(logit, torch.zeros(2), torch.ones(2)).sum().backward()
    torch.testing.assert_close(logit.grad, torch.tensor([1.0, 0.0]))


def test_the_share_that_is_known_is_that_of_all_delays() -> None:
    """Young exposures show short delays alone: the plain share of what is known is far too high, F is right."""
    rng = np.random.default_rng(0)
    age, delay = rng.uniform(0, 8, 20_000), rng.exponential(2.0, 20_000)
    seen = delay <= age
    at = np.array([0.5, 1.0, 2.0, 4.0, 6.0])
    truth = (1 - np.exp(-at / 2)) / (1 - np.exp(-4))
    np.testing.assert_allclose(share_at(known_share(delay[seen], age[seen]), at), truth, atol=0.02)
    assert (delay[seen][:, None] <= at).mean(0)[1] > truth[1] + 0.08
    # by hand: two of two at risk at 3 and above are left by half, of two at 2 by half again; ties go together
    curve = known_share(np.array([1.0, 1.0, 2.0, 3.0]), np.array([1.5, 4.0, 2.5, 4.0]))
    assert share_at(curve, np.array([1.0, 2.0, 3.0, 9.0])).tolist() == [0.25, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("delay", ["none", "exponential", "measured", "fake_negative", "elapsed"])
def test_the_ctcvr_term_goes_by_the_law_of_the_delay(delay: str) -> None:
    """Over what can become of an exposure (no click; early, late, never of a click), at the true q, p and delays the
    expected slope in the logits is 0, though a part of the conversions is not known yet; without a delay's law it is
    not, except for fake negatives, whose labels are final."""
    q, early, late, age, window = 0.3, 0.2, 0.15, 5.0, 1.0
    p = early + late
    rate = torch.tensor(0.4, dtype=torch.float64)
    share = {"exponential": 1 - float((-rate * age).exp()), "measured": 0.7}.get(delay, 1.0)
    point = torch.tensor([q, p], dtype=torch.float64).logit().requires_grad_()
    chance = torch.tensor([1 - q, q * early * share, q * late * share, q * (1 - p * share)], dtype=torch.float64)
    click = torch.tensor([0.0, 1.0, 1.0, 1.0]).double()
    label, delays = torch.tensor([0.0, 1.0, 1.0, 0.0]).double(), torch.tensor([0.0, 0.5, 3.0, 0.0]).double()
    towers = {RATE: rate.log(), "late": torch.tensor(late).double().logit()}
    towers["never"] = torch.tensor((1 - p) / (1 - early)).double().logit()
    known = torch.full((4,), 0.7, dtype=torch.float64)

    def slope(kind: str) -> torch.Tensor:
        objective = build_objective(ObjectiveConfig("escm2_ips", delay=kind, delay_window=window, clip=0.0), 0.3)
        logits = {"ctr": point[0].expand(4), "cvr": point[1].expand(4), **{k: v.expand(4) for k, v in towers.items()}}
        labels = Labels(click, label, None, torch.full((4,), age).double(), delays, known)
        (found,) = torch.autograd.grad((chance * objective.ctcvr_terms(logits, labels)).sum(), point)
        return found

    torch.testing.assert_close(slope(delay), torch.zeros(2).double(), atol=1e-9, rtol=0)
    if delay in ("exponential", "measured"):
        assert slope("none").abs().max() > 0.01


@pytest.mark.parametrize("name", ["naive", "escm2_ips", "escm2_snips"])
def test_delays_are_weighed_as_any_loss(name: str) -> None:
    """The CVR term is the sum of 1/q times the delayed loss of each click, over its own denominator."""
    objective = build_objective(ObjectiveConfig(name, delay="exponential", clip=0.0), 0.3)
    click, label = torch.tensor([1.0, 1.0, 0.0, 1.0]).double(), torch.tensor([1.0, 0.0, 0.0, 0.0]).double()
    delay = torch.tensor([0.3, 0.0, 0.0, 0.0]).double()
    a = torch.tensor([0.1, -1.0, 0.4, -2.0], dtype=torch.float64)
    logits, labels = {"ctr": a, "cvr": B, RATE: RATES}, Labels(click, label, None, ELAPSED_B, delay)
    term = objective(logits, labels, objective.totals(logits, labels))["cvr"]
    loss = exponential(B, RATES, label, ELAPSED_B, delay)
    weight = click if name == "naive" else click / a.sigmoid()
    below = {"naive": click.sum(), "escm2_ips": torch.tensor(4.0), "escm2_snips": weight.sum()}[name]
    assert term.item() == pytest.approx(((weight * loss).sum() / below).item())


def test_what_cannot_be_is_refused(late_log: Path, small_log: Path) -> None:
    log = open_log(late_log)
    parts = {name: log.part(name) for name in ("train", "valid")}
    for values, words in (
        ({"objective.delay": "exponential"}, "objective.delay exponential: needs as_of"),
        (
            {"objective.delay": "exponential", "objective.name": "esmm", "as_of": "train"},
            "means nothing to objective esmm",
        ),
        ({"as_of": "soon"}, "column 'as_of' holds 'soon', which is no time"),
    ):
        with pytest.raises(UserError, match=words):
            EntireSpace.prepare(settings_of(values).settings, log, parts)
    plain = open_log(small_log)
    with pytest.raises(UserError, match="as_of train: the schema names no 'time'"):
        EntireSpace.prepare(settings_of({"as_of": "train"}).settings, plain, {n: plain.part(n) for n in parts})
    leak = {**log.schema.to_dict(), "numeric": ["conversion_time"]}
    with pytest.raises(UserError, match="known only afterwards"):
        type(log.schema).from_dict(leak)


@pytest.mark.slow
def test_a_training_learns_what_conversions_come_to(late_log: Path, tmp_path: Path) -> None:
    """On final labels of later days: naive on what was known is far too low, exponential delays are nearly right."""
    shared = {"as_of": "train", "objective__name": "naive", "epochs": 3}
    known = train_here(tmp_path / "known", late_log, config(**shared))
    waits = train_here(tmp_path / "waits", late_log, config(**shared, objective__delay="exponential"))
    assert known["cvr.click.pcoc"] < 0.8
    assert 0.9 < waits["cvr.click.pcoc"] < 1.15
    window = {"objective__delay_window": 2.0, "objective__delay_mature": 6.0}
    elapsed = train_here(tmp_path / "elapsed", late_log, config(**shared, objective__delay="elapsed", **window))
    assert known["cvr.click.pcoc"] + 0.05 < elapsed["cvr.click.pcoc"] < 1.15
    assert load_run(tmp_path / "elapsed").problem.facts["tasks"] == ["ctr", "cvr", *DELAYS["elapsed"]]
    run = load_run(tmp_path / "waits")
    assert run.problem.facts["tasks"] == ["ctr", "cvr", RATE]
    log = open_log(late_log)
    units = run.problem.encode(table_of(log).select(run.problem.columns))
    batch = units.batch()
    assert {ELAPSED, DELAY} <= set(batch.labels)
    with torch.no_grad():
        rate = run.network(batch)[RATE].exp()
    assert (1 / rate).median().item() == pytest.approx(4.0, rel=0.35)
    (tmp_path / "kept").mkdir()
    asked = evaluating.prepare(run.given, lambda role: None, log, "train", [], False, 40, 0)
    figures_, curves = asked.run(tmp_path / "kept", CPU, count_part, lambda text: None)
    assert figures_["delays.share_after"] > 0.3
    shown = evaluating.results({**figures_, "part": "train"}, curves)
    assert [one.title for one in shown][1:] == ["Late conversions, by age of the click"]
    measured_ = train_here(tmp_path / "measured", late_log, config(**shared, objective__delay="measured"))
    assert known["cvr.click.pcoc"] + 0.05 < measured_["cvr.click.pcoc"] < 1.15
    both = train_here(tmp_path / "both", late_log, config(**shared | {"objective__name": "escm2_snips"},
                                                           objective__delay="measured"))  # fmt: skip
    assert known["ctcvr.pcoc"] + 0.05 < both["ctcvr.pcoc"] < 1.2
