"""Strategies that come and go: equal random traffic, reviews against references, new ones within what was tried."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from data.errors import UserError
from funnel.effects.dml import DMLSettings, VectorEffects, fit_dml
from funnel.effects.nuisances import NuisanceSettings
from funnel.effects.overlap import beyond
from funnel.effects.rows import TreatedRows
from funnel.incentives.candidates import Asked, NewStrategies, Priced, evolved, proposed
from funnel.incentives.plan import per_user
from funnel.incentives.proposals import PruneRules
from funnel.incentives.review import by_effects, by_means
from funnel.incentives.roster import ProposalSettings, Roster, check_batches, learnable
from funnel.incentives.strategies import bill, grid_arms, six_arms
from funnel.incentives.world import World, WorldSettings
from jobs import operate

LINEAR = NuisanceSettings(learner="linear", basis="linear")


def test_each_strategy_has_the_same_traffic_of_every_slice() -> None:
    """Within rounding on a day, and over as many days as strategies each lane has had every strategy in its slice."""
    roster = Roster.of(six_arms(), ProposalSettings(batch=6, slices=4))
    user_N = np.arange(1003)
    slice_N = np.random.default_rng(0).integers(0, 4, 1003)
    given_DN = np.array([roster.deal(day, user_N, slice_N, 3) for day in range(6)])
    for given_N in given_DN:
        for part in range(4):
            counts = np.bincount(given_N[slice_N == part], minlength=6)
            assert counts.max() - counts.min() <= 1
    assert (np.sort(given_DN, 0) == np.arange(6)[:, None]).all()
    assert (roster.deal(2, user_N, slice_N, 3) == given_DN[2]).all()
    assert (roster.deal(2, user_N, slice_N, 4) != given_DN[2]).any()
    # Of 27 in batches of 8 a day has one batch, with the cheapest in each; in four days all have been tried.
    many = Roster.of(grid_arms(), ProposalSettings(batch=8))
    assert all(many.batch_of(day)[0] == 0 and len(many.batch_of(day)) <= 8 for day in range(9))
    assert sorted(set(np.concatenate([many.batch_of(day) for day in range(4)]).tolist())) == list(range(27))
    for day in range(9):
        given = many.deal(day, user_N, slice_N, 0)
        counts = np.bincount(given, minlength=27)[many.batch_of(day)]
        assert counts.sum() == 1003
        assert counts.max() - counts.min() <= 4  # one of each slice


def test_a_strategy_with_an_hour_of_its_own_is_not_compared_fairly_and_lanes_mend_it() -> None:
    """Who comes late responds more: true gains of the users of a slice differ, those of strategies that rotate do
    not."""
    world = World(WorldSettings(users=40_000), 5)
    user_N = world.present()
    hour_N = world.hours(user_N)
    assert (hour_N >= 0).all()
    assert (hour_N < 24).all()
    slice_N = (hour_N * 4 // 24).astype(int)
    arms_A3 = np.tile([[1.0, 2.0, 3.0]], (4, 1)) * np.linspace(1, 1.0003, 4)[:, None]  # alike
    gain_NA = np.diff(world.truth(user_N, np.array([[0.0, 0, 0], arms_A3[0]])).value(0.01), axis=1)[:, 0]
    fixed = [gain_NA[slice_N == part].mean() for part in range(4)]
    given_N = Roster.of(arms_A3, ProposalSettings(batch=4)).deal(0, user_N, slice_N, 0)
    dealt = [gain_NA[given_N == number].mean() for number in range(4)]
    error = gain_NA.std() / np.sqrt(len(user_N) / 4)
    assert np.ptp(fixed) > 6 * error
    assert np.ptp(dealt) < 4 * error


def test_weak_strategies_make_room_and_numbers_stay() -> None:
    roster = Roster.of(six_arms(), ProposalSettings(batch=8))
    new_M3 = np.array([[1.5, 2.0, 1.0], [1.0, 3.0, 2.0], [0.5, 2.0, 3.0]])
    numbers = roster.replace(11, np.array([3, 5]), new_M3)
    assert numbers.tolist() == [6, 7, 8]
    assert roster.follows[6:] == [3, 5, -1]
    assert roster.born[6:] == [11] * 3
    assert roster.live.tolist() == [0, 1, 6, 8, 2, 7, 4]  # by their bills: 0, 1, 1.5, 1.5, 2, 2, 5.5
    assert (np.diff(bill(roster.vectors_S3[roster.live])) >= 0).all()
    given = roster.deal(11, np.arange(500), np.zeros(500, int), 0)
    assert set(given.tolist()) == set(roster.live.tolist())
    other = Roster.of(six_arms(), ProposalSettings(batch=8))
    other.resume(*roster.state())
    assert other.live.tolist() == roster.live.tolist()
    assert (other.deal(12, np.arange(500), np.zeros(500, int), 0) == roster.deal(12, np.arange(500), np.zeros(500, int),
                                                                                  0)).all()  # fmt: skip


def history(days: int, batches: list[list[int]], seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Random rows by day: outcome = .3 x0 + gain of the strategy + the day's own level + noise."""
    draws, found = np.random.default_rng(seed), []
    for day in range(days):
        batch_K = np.array(batches[day % len(batches)])
        x_RF = draws.normal(size=(400, 2)).astype(np.float32)
        arm_R = draws.choice(batch_K, 400)
        outcome_R = 0.3 * x_RF[:, 0] + GAINS[arm_R] + 0.2 * day + 0.1 * draws.normal(size=400)
        found.append({"x": x_RF, "arm": arm_R, "user": draws.integers(0, 300, 400), "outcome.y": outcome_R,
                      "treatment": six_arms()[arm_R], "batch": batch_K})  # fmt: skip
    return found


GAINS = np.array([0.0, 0.1, 0.25, 0.2, 0.6, 0.5])


def test_rows_say_how_likely_each_strategy_was_on_their_day() -> None:
    rows, ids_A = learnable(history(4, [[0, 1, 2], [0, 4, 5]]), np.array([0, 5, 4, 2, 1, 3]), np.ones(6), True)
    assert ids_A.tolist() == [0, 5, 4, 2, 1]  # in the order asked for; nobody got 3
    assert rows["shares"].sum(1) == pytest.approx(1)
    assert rows["shares"][0].tolist() == pytest.approx([1 / 3, 0, 0, 1 / 3, 1 / 3])
    assert rows["shares"][400].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0, 0])
    assert (rows["shares"][np.arange(len(rows["arm"])), rows["arm"]] > 0).all()
    np.testing.assert_array_equal(six_arms()[ids_A][rows["arm"]], rows["treatment"])
    pooled, _ = learnable(history(4, [[0, 1, 2], [0, 4, 5]]), np.arange(6), np.ones(6), False)
    assert np.ptp(pooled["shares"], 0).max() == 0
    assert pooled["shares"][0] == pytest.approx(np.bincount(pooled["arm"]) / 1600)
    few, ids_A = learnable(history(4, [[0, 1, 2], [0, 4, 5]]), np.arange(6), np.where(np.arange(6) > 4, 900, 1), True)
    assert ids_A.tolist() == [0, 1, 2, 4]  # 5 is new and has too few
    assert few["shares"][-1].tolist() == pytest.approx([0.5, 0, 0, 0.5])
    with pytest.raises(UserError, match="no day has random rows of two strategies"):
        learnable(history(2, [[0, 1, 2]]), np.arange(6), np.array([1, 900, 900, 1, 1, 1]), True)


def test_a_review_by_means_is_least_squares_with_days_and_finds_what_is_beaten() -> None:
    days = history(6, [[0, 1, 2, 3], [0, 4, 5]])
    ids_A = np.array([0, 1, 2, 3, 4, 5])
    cost_A = bill(six_arms())
    found = by_means(days, {"y": 1.0}, ids_A, cost_A, 1.96, 30)
    arm_R = np.concatenate([each["arm"] for each in days])
    day_R = np.repeat(np.arange(6), 400)
    design = np.column_stack([np.eye(6)[arm_R][:, 1:], np.concatenate([each["x"] for each in days]), np.eye(6)[day_R]])
    reference = np.linalg.lstsq(design, np.concatenate([each["outcome.y"] for each in days]), rcond=None)[0]
    np.testing.assert_allclose(found.gain_A[1:], reference[:5], atol=1e-4)
    np.testing.assert_allclose(found.gain_A, GAINS, atol=0.05)
    assert found.gain_A[0] == 0
    assert found.error_A[0] == 0
    # 3 brings less than 2 for more money, 5 less than 4; 1 is cheaper than what beats it.
    assert found.weak_ids.tolist() == [3, 5]
    assert by_means(days, {"y": 1.0}, ids_A, cost_A, 1.96, 10_000).weak_ids.tolist() == []
    told = found.told(six_arms(), 1.96)
    assert told[3]["weak"]
    assert told[3]["high"] - told[3]["low"] == pytest.approx(2 * 1.96 * found.error_A[3])


@pytest.fixture(scope="module")
def fitted() -> tuple[VectorEffects, np.ndarray]:
    """DML on 27 strategies whose mean effect is .1 amount (1 + .2 interval), half as large for x0 < 0."""
    draws, arms_A3 = np.random.default_rng(0), grid_arms()
    x_RF = draws.normal(size=(9000, 2)).astype(np.float32)
    arm_R = draws.integers(0, 27, 9000)
    effect_R = 0.1 * arms_A3[arm_R, 0] * (1 + 0.2 * arms_A3[arm_R, 1]) * np.where(x_RF[:, 0] > 0, 1, 0.5)
    rows = TreatedRows(x_RF, effect_R + 0.1 * draws.normal(size=9000), arm_R, arms_A3,
                       propensity_RA=np.full((9000, 27), 1 / 27))  # fmt: skip
    return fit_dml(rows, DMLSettings(basis="linear", folds=2), LINEAR), x_RF[:600]


def test_a_review_by_effects_compares_vectors_by_the_error_of_their_difference(fitted) -> None:
    model, x_NF = fitted
    arms_A3, ids_A = grid_arms(), np.arange(27)
    found = by_effects(model, x_NF, arms_A3, ids_A, np.full(27, 300), bill(arms_A3), 1.96, 30)
    average_A2 = model.average(x_NF, arms_A3)
    np.testing.assert_allclose(found.gain_A, average_A2[:, 0], atol=1e-9)
    np.testing.assert_allclose(found.error_A, average_A2[:, 1], atol=1e-9)
    for a in (5, 20):  # against another baseline than the first
        beaten = [b for b in range(27) if bill(arms_A3)[b] <= bill(arms_A3)[a] and found.gain_A[b] - found.gain_A[a] > (
            1.96 * np.sqrt(2) * model.average(x_NF, arms_A3, arms_A3[a])[b, 1])]  # fmt: skip
        assert found.weak_A[a] == bool(beaten)
    # What counts is the amount: dear by their number alone is weak.
    assert found.weak_A[(arms_A3[:, 0] == 0.3) & (arms_A3[:, 2] == 6.0)].all()
    assert not found.weak_A[0]
    few = by_effects(model, x_NF, arms_A3, ids_A, np.where(ids_A == 12, 5, 300), bill(arms_A3), 1.96, 30)
    late = by_effects(model, x_NF, arms_A3, ids_A, np.full(27, 300), bill(arms_A3), 1.96, 30, ids_A != 12)
    lines = [one.told(arms_A3, 1.96)[12] for one in (few, late)]  # late: fitted before there were enough rows
    assert [(one["weak"], one["rows"], "gain" in one) for one in lines] == [(False, 5, False), (False, 300, False)]


def asked(fitted: tuple[VectorEffects, np.ndarray], **more: object) -> Asked:
    model, x_NF = fitted
    arms_A3 = grid_arms()
    kept = {"menu_A3": arms_A3[[0, 5, 14]], "tried_B3": arms_A3, "ever_S3": arms_A3, **more}
    return Asked(model, x_NF, np.full(len(x_NF), 0.6), **kept, budget=1.0, seed=4, maximise=operate.maximised,  # type: ignore[arg-type]
                 **({} if "settings" in kept else {"settings": ProposalSettings(by="grid")}))  # fmt: skip


def test_new_strategies_add_most_and_stay_within_what_was_tried(fitted) -> None:
    rules = PruneRules(largest_bill=4.0, most_a_day=5.0)
    own = asked(fitted, settings=ProposalSettings(by="grid", reach=1.25, rules=rules))
    found_M3, source = proposed(own, 3)
    assert source == "grid"
    assert 1 <= len(found_M3) <= 3
    assert (bill(found_M3) <= 4).all()
    assert (found_M3[:, 2] <= 5).all()
    assert (found_M3 <= grid_arms().max(0) * 1.25 + 1e-9).all()
    assert not beyond(own.model.treatment, grid_arms(), found_M3, 1.25**4).any()
    width = own.box()[1] - own.box()[0]
    assert (Asked.apart(found_M3, grid_arms(), width) >= rules.distance).all()
    # What the first adds at the price of money: the formula, and more than a thousand random vectors within the rules.
    menu_NA, cost_NA = own.value(own.menu_A3), own.cost(own.menu_A3)
    price = per_user(menu_NA, cost_NA, 1.0).allocation.price_M[0]
    best_N = (menu_NA - price * cost_NA).max(1)
    surplus_N = own.value(found_M3[:1])[:, 0] - price * own.cost(found_M3[:1])[:, 0]
    priced = Priced.of(own, own.menu_A3)
    assert priced.added(own, found_M3)[0] == pytest.approx(np.maximum(surplus_N - best_N, 0).mean())
    low_3, high_3 = own.box()
    random_C3 = np.random.default_rng(0).uniform(low_3, high_3, (1000, 3))
    random_C3 = random_C3[own.fit(random_C3) & own.within(random_C3)]
    assert priced.added(own, found_M3)[0] > np.quantile(priced.added(own, random_C3), 0.97)
    assert proposed(own, 0)[0].shape == (0, 3)
    same, _ = proposed(own, 3)
    np.testing.assert_array_equal(same, found_M3)
    none = replace(own, settings=ProposalSettings(by="grid", rules=PruneRules(largest_bill=0.01)))
    assert len(proposed(none, 3)[0]) == 0


def test_evolution_starts_from_the_grid_and_adds_more(fitted) -> None:
    own = asked(fitted, settings=ProposalSettings(by="evolution"))
    start_M3, _ = proposed(asked(fitted), 2)
    moved_M3 = evolved(own, start_M3)
    priced = Priced.of(own, own.menu_A3)
    assert priced.added_together(own, moved_M3) > priced.added_together(own, start_M3) * 1.01
    assert own.fit(moved_M3).all()
    assert own.within(moved_M3).all()
    np.testing.assert_array_equal(proposed(own, 2)[0], moved_M3)  # the same bits
    objective = NewStrategies(own, start_M3)
    np.testing.assert_allclose(objective.vectors(objective.initial()), start_M3, rtol=1e-5)
    far = objective.initial() + 50.0  # every number at its largest: dearer than the rules let it
    assert objective.evaluate_batch(far[None], np.zeros(1, np.uint64)).tolist() == [0.0]


def test_what_cannot_be_told_apart_yet_is_varied_first(fitted) -> None:
    """A ladder moves one number: its effects say nothing of amounts and intervals, so that these are tried."""
    ladder_A3 = six_arms()
    own = asked(fitted, menu_A3=ladder_A3, tried_B3=ladder_A3, ever_S3=ladder_A3)
    assert not own.told_apart()
    found_M3, source = proposed(own, 2)
    assert source == "farthest"
    assert len(np.unique(np.concatenate([ladder_A3[1:], found_M3])[:, :2], axis=0)) == 3
    assert asked(fitted).told_apart()


SMALL = ("--effects.nuisances.trees", "10", "--effects.dml.folds", "2", "--effects.dml.richest", "linear")
WORDS = ("--world.users", "1500", "--warmup", "3", "--refit", "3", "--explore", "0.4", "--gate.days", "2",
         "--gate.share", "0.2", "--proposals.by", "grid", "--proposals.every", "3", "--proposals.level", "0.05",
         *SMALL)  # fmt: skip


@pytest.fixture(scope="module")
def renewed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("renewal") / "daily"
    operate.run(operate.arguments_of("--out", out, "--days", "13", *WORDS))
    return out


def lines_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "days.jsonl").read_text().splitlines()]


def snapshot(out: Path, day: int) -> tuple[dict[str, np.ndarray], dict]:
    place = out / "days" / f"{day:05d}" / "snapshot"
    return load_file(place / "arrays.safetensors"), json.loads((place / "facts.json").read_text())


def test_an_operation_replaces_weak_strategies_and_gives_new_ones_once_they_were_tried(renewed: Path) -> None:
    lines = lines_of(renewed)
    reviews = {line["day"]: line["strategies"] for line in lines if "strategies" in line}
    assert sorted(reviews) == [3, 6, 9, 12]
    dropped, born = {}, {}
    for day, records in reviews.items():
        dropped |= {one["strategy"]: day for one in records if one.get("dropped")}
        born |= {one["strategy"]: day for one in records if "new" in one}
    assert dropped
    assert born
    assert all(one["weak"] for records in reviews.values() for one in records if one.get("dropped"))
    fitted = [line["day"] for line in lines if line.get("fitted")]
    given_ever = set()
    for day in range(3, 13):
        arrays, facts = snapshot(renewed, day)
        numbers = np.array(facts["numbers"])
        given = set(numbers[arrays["arm_N"]].tolist())
        given_ever |= given
        assert not [number for number in given if dropped.get(number, 99) <= day]
        # A new strategy is known once effects were fitted after it had random traffic.
        assert all(any(born[number] < fit <= day for fit in fitted) for number in numbers.tolist() if number in born)
        assert arrays["cost_NA"][np.arange(len(arrays["arm_N"])), arrays["arm_N"]].sum() <= facts["budget"]
        assert "the same strategies for all" in operate.run(
            operate.arguments_of("--replay", renewed / "days" / f"{day:05d}"))["message"]  # fmt: skip
    assert given_ever & set(born)
    assert (renewed / "report.html").read_text().count("replaced by") >= 1
    summary = json.loads((renewed / "summary.json").read_text())
    assert summary["strategies.dropped"] == len(dropped)
    assert summary["strategies.new"] == len(born)
    assert f"{len(dropped)} weak strategies dropped, {len(born)} new ones" in summary["message"]
    trials = [line for line in lines if line.get("gate.cost") is not None]
    assert trials
    assert all(line["gate.difference"] == pytest.approx(line["gate.outcome"] - line["gate.price"] * line["gate.cost"])
               for line in trials)  # fmt: skip


def test_strategies_that_are_hardly_tried_are_told(tmp_path: Path) -> None:
    """27 strategies and few users: those that have stood for a week are told, not those of the first day."""
    words = ("--world.users", "600", "--strategies", "grid", "--effects.arms.smallest-arm", "46", *SMALL)
    operate.run(operate.arguments_of("--out", tmp_path / "run", "--days", "5", *words))
    line = lines_of(tmp_path / "run")[4]
    few = [str(one["strategy"]) for one in line["strategies"] if one["rows"] < 46]
    assert 0 < len(few) < 27
    assert not any("too little random traffic" in text for text in line["alerts"])
    operate.run(operate.arguments_of("--out", tmp_path / "run", "--days", "12", *words))
    line = lines_of(tmp_path / "run")[11]
    few = [str(one["strategy"]) for one in line["strategies"] if one["rows"] < 46]
    assert few
    text = "strategies" if len(few) > 1 else "strategy"
    assert f"{text} {', '.join(few)}: too little random traffic to be judged, below 46 rows" in line["alerts"]


def test_it_goes_on_to_the_same_strategies_after_any_end(renewed: Path, tmp_path: Path) -> None:
    out = tmp_path / "daily"
    for days in ("4", "7", "13"):
        operate.run(operate.arguments_of("--out", out, "--days", days, *WORDS))
    assert (out / "days.jsonl").read_text() == (renewed / "days.jsonl").read_text()
    names = [f"days/{day:05d}/snapshot/arrays.safetensors" for day in range(3, 13)]
    assert all((out / name).read_bytes() == (renewed / name).read_bytes() for name in names)


def test_settings_of_proposals_that_cannot_be_are_one_line(tmp_path: Path) -> None:
    for words, message in (
        (("--proposals.batch", "1"), "proposals.batch is 1, must be at least 2"),
        (("--proposals.every", "0"), "proposals.every is 0, must be at least 1"),
        (("--proposals.slices", "5"), "proposals.slices is 5, must divide the 24 hours"),
        (("--proposals.level", "0"), "proposals.level is 0.0, must be a finite number above 0"),
        (("--proposals.reach", "0.5"), r"proposals.reach is 0.5, must lie in \[1, 4\]"),
        (("--proposals.reach", "2"), "proposals.reach has no effect with proposals.by none"),
        (("--proposals.rules.distance", "0.1"), "proposals.rules has no effect with proposals.by none"),
        (("--proposals.rules.largest-bill", "0"), "largest_bill is 0.0, must be a finite number above 0"),
        (("--strategies", "grid", "--proposals.batch", "4"),
         "27 strategies in batches of 4 take 9 days in turn, more than warmup, 4: raise proposals.batch or warmup"),
        (("--proposals.by", "guess"), "proposals.by"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message) as found:
            operate.arguments_of("--out", "x", *words)
        assert "\n" not in str(found.value)
    for option in (("--proposals.batch", "6"), ("--proposals.slices", "2")):
        with pytest.raises(UserError, match=f"{option[0][2:]} has no effect with data: random traffic is the log's"):
            operate.arguments_of("--data", tmp_path, "--out", "x", *option)
    for words, message in (
        (("--effects.dml.features", "44"), "dml.features: column 44, but there are 10 numeric features, from 0"),
        (("--effects.outcomes", "clicks=1"), "outcomes: no outcome 'clicks'; the log has retained, minutes"),
    ):
        with pytest.raises(UserError, match=message):
            operate.run(operate.arguments_of("--out", tmp_path / "run", *words))
    assert not (tmp_path / "run").exists()
    check_batches(ProposalSettings(batch=8), 27, 4)
