"""Figures of a scored part against scikit-learn and slow references, intervals against a known distribution."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ks_2samp
from sklearn.metrics import log_loss, roc_auc_score

from funnel.figures.grouped_auc import auc_by_user
from funnel.figures.slices import Slicing
from funnel.ranking.calibration import Calibration, Calibrator
from funnel.ranking.evaluation import Scored, activity_figures, figures_of, slice_figures
from funnel.ranking.scored_part import CLICK, CONVERSION, POTENTIAL, ScoredPart


def population(users: int, seed: int, shift: float = 0.0) -> dict[str, np.ndarray]:
    """Users with 1 to 40 exposures and tastes of their own; logits miss the users' part of the truth."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users, dtype=np.uint64) * 7919, rng.integers(1, 41, users))
    taste = np.repeat(rng.normal(0, 0.7, users), np.unique(user, return_counts=True)[1])
    ctr, fit = rng.normal(-1.5, 1, len(user)), rng.normal(0, 1, len(user))
    cvr = -1 + fit + 0.5 * ctr
    click = rng.random(len(user)) < 1 / (1 + np.exp(-(ctr + taste)))
    potential = rng.random(len(user)) < 1 / (1 + np.exp(-(cvr + taste)))
    return {"user": user, "ctr": np.round(ctr, 2), "cvr": np.round(cvr + shift, 2), "click": click,
            "conversion": click & potential, "potential": potential}  # fmt: skip


def kept(
    data: dict[str, np.ndarray],
    folder: Path,
    buckets: int = 1,
    users: bool = True,
    truth: bool = True,
    pieces: int = 3,
    slicings: tuple[Slicing, ...] = (),
    codes: np.ndarray | None = None,
) -> ScoredPart:
    part = ScoredPart(folder, buckets, users, truth, list(slicings))
    rows = np.zeros(len(data["user"]), part.dtype)
    rows["user"] = data["user"] if users else 0
    rows["ctr"], rows["cvr"] = data["ctr"], data["cvr"]
    rows["labels"] = data["click"] * CLICK + data["conversion"] * CONVERSION + data["potential"] * POTENTIAL * truth
    if codes is not None:
        rows["by0"] = codes
    for piece in np.array_split(rows, pieces):
        part.add(piece)
    return part


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def spaces(data: dict[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(user, probability, label) by space."""
    user, click = data["user"], data["click"]
    q, p = (sigmoid(data[task].astype(np.float32)) for task in ("ctr", "cvr"))
    return {
        "ctr": (user, q, click),
        "cvr.click": (user[click], p[click], data["conversion"][click]),
        "ctcvr": (user, q * p, data["conversion"]),
        "cvr.entire": (user, p, data["potential"]),
    }


def slow_gauc(user: np.ndarray, score: np.ndarray, label: np.ndarray) -> tuple[float, int, int]:
    total, rows, left_out, counted = 0.0, 0, 0, 0
    for one in np.unique(user):
        mine = user == one
        if len(set(label[mine])) < 2:
            left_out += 1
            continue
        total += mine.sum() * roc_auc_score(label[mine], score[mine])
        rows += mine.sum()
        counted += 1
    return total / rows, counted, left_out


def test_figures_are_those_of_scikit_learn_and_slow_references(tmp_path: Path) -> None:
    data = population(150, 1)
    found = figures_of(Scored(kept(data, tmp_path), None, clip=0.02, replicates=50))
    figures = found.figures
    for space, (user, probability, label) in spaces(data).items():
        assert figures[f"{space}.auc"] == pytest.approx(roc_auc_score(label, probability), abs=2e-5)
        assert figures[f"{space}.log_loss"] == pytest.approx(log_loss(label, probability), rel=1e-6)
        assert figures[f"{space}.pcoc"] == pytest.approx(probability.mean() / label.mean(), rel=1e-6)
        exact = ks_2samp(probability[label], probability[~label]).statistic
        assert figures[f"{space}.ks"] == pytest.approx(exact, abs=1e-9)
        gauc, users, left_out = slow_gauc(user, np.round(probability, 12), label)
        assert figures[f"{space}.gauc"] == pytest.approx(gauc, abs=1e-9)
        assert (figures[f"{space}.gauc_users"], figures[f"{space}.gauc_users_left_out"]) == (users, left_out)
        for name in ("auc", "log_loss", "pcoc", "gauc"):
            assert figures[f"{space}.{name}.low"] < figures[f"{space}.{name}"] < figures[f"{space}.{name}.high"]
    q = sigmoid(data["ctr"].astype(np.float32))[data["click"]]
    weight = 1 / np.maximum(q, 0.02)
    assert figures["propensity.effective_sample_size"] == pytest.approx(weight.sum() ** 2 / (weight**2).sum())
    assert figures["propensity.ece"] == figures["ctr.ece"]
    assert figures["users"] == 150


def test_auc_by_user_counts_ties_half() -> None:
    user = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
    score = np.array([1.0, 1.0, 0.0, 5.0, 6.0, 2.0, 2.0, 2.0, 3.0])
    label = np.array([1, 0, 0, 1, 1, 0, 1, 1, 0])
    auc_U, rows_U = auc_by_user(user, score, label)
    assert auc_U[0] == pytest.approx(0.75)
    assert np.isnan(auc_U[1])
    assert auc_U[2] == pytest.approx(roc_auc_score(label[5:], score[5:]))
    assert rows_U.tolist() == [3, 2, 4]


@pytest.mark.parametrize("buckets", [1, 4])
def test_the_order_of_rows_does_not_matter(tmp_path: Path, buckets: int) -> None:
    data = population(80, 2)
    order = np.random.default_rng(0).permutation(len(data["user"]))
    shuffled = {name: values[order] for name, values in data.items()}
    found = []
    for number, given in enumerate((data, shuffled)):
        folder = tmp_path / str(number)
        folder.mkdir()
        found.append(
            figures_of(Scored(kept(given, folder, buckets, pieces=3 + number), None, 0.02, replicates=40)).figures
        )
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert value == (found[1][name] if isinstance(value, str) else pytest.approx(found[1][name], rel=1e-12)), name
    for name in ("ctr.auc", "ctr.auc.low", "ctcvr.ks", "cvr.entire.ece"):
        assert found[0][name] == found[1][name]


def test_buckets_change_no_figure(tmp_path: Path) -> None:
    data = population(80, 3)
    one = figures_of(Scored(kept(data, tmp_path), None, 0.02, replicates=40)).figures
    four = figures_of(Scored(kept(data, tmp_path, buckets=4), None, 0.02, replicates=40)).figures
    for name, value in one.items():
        if not name.endswith((".low", ".high", "units")):
            assert four[name] == pytest.approx(value, rel=1e-12), name


@pytest.mark.slow
@pytest.mark.parametrize("users", [True, False])
def test_intervals_cover_what_they_should(tmp_path: Path, users: bool) -> None:
    """Of 30 samples, about 95% of the intervals hold the population's value (below 24 is 1 in 2000 by chance).

    Rows of one user are alike. Without users every row is a draw of its own, as the bootstrap over rows assumes.
    """
    large = population(20_000, 999)
    truth = {s: (roc_auc_score(y, p), p.mean() / y.mean(), log_loss(y, p)) for s, (_, p, y) in spaces(large).items()}
    hits = {(space, name): 0 for space in truth for name in ("auc", "pcoc", "log_loss")}
    for seed in range(30):
        data = population(250, seed)
        if not users:
            rows = np.random.default_rng(seed).integers(0, len(large["user"]), len(data["user"]))
            data = {name: values[rows] for name, values in large.items()}
        scored = Scored(kept(data, tmp_path, users=users), None, 0.02, replicates=100, seed=seed)
        counted = scored.by_slice(lambda rows: np.zeros(len(rows), np.int16), 1)
        bounds = scored.bootstrap(lambda rows: np.zeros(len(rows), np.int16), counted, 512)[0]
        for space, values in truth.items():
            for name, value in zip(("auc", "pcoc", "log_loss"), values, strict=True):
                hits[space, name] += bounds[f"{space}.{name}.low"] <= value <= bounds[f"{space}.{name}.high"]
    assert min(hits.values()) >= 24, hits


def test_without_users_or_truth_figures_are_absent_with_their_reasons(tmp_path: Path) -> None:
    data = population(60, 4)
    found = figures_of(Scored(kept(data, tmp_path, users=False, truth=False), None, 0.02, replicates=40))
    assert found.figures["bootstrap.units"] == "rows"
    assert "ctr.auc.low" in found.figures
    assert found.absent["ctr.gauc"] == "the log's schema names no user"
    for name in ("cvr.entire.auc", "ieb.bias", "pip.true_risk_ratio"):
        assert "no truth" in found.absent[name]
        assert name not in found.figures
    assert "ieb.clicked.mean_truth" in found.figures
    assert "pip.risk_ratio.low" in found.figures


def test_ieb_is_the_means_and_their_difference(tmp_path: Path) -> None:
    data = population(200, 5, shift=0.6)
    figures = figures_of(Scored(kept(data, tmp_path), None, 0.02, replicates=60)).figures
    p, click, potential = sigmoid(data["cvr"].astype(np.float32)), data["click"], data["potential"]
    for name, rows in (("", np.ones(len(p), bool)), ("clicked.", click), ("unclicked.", ~click)):
        assert figures[f"ieb.{name}mean_prediction"] == pytest.approx(p[rows].mean(), rel=2e-4)
        assert figures[f"ieb.{name}mean_truth"] == pytest.approx(potential[rows].mean(), rel=1e-9)
        assert figures[f"ieb.{name}bias"] == pytest.approx(p[rows].mean() - potential[rows].mean(), abs=1e-4)
    assert figures["ieb.bias.low"] > 0


def test_pip_is_the_matched_risk_ratio(tmp_path: Path) -> None:
    """Against a loop over strata; 1 where pCVR is a function of q, above 1 where it knows more of the click than q."""
    data = population(400, 6)
    data["cvr"] = data["cvr"] + 0.4 * data["click"]
    figures = figures_of(Scored(kept(data, tmp_path), None, 0.02, replicates=60)).figures
    p = sigmoid(data["cvr"].astype(np.float32))
    stratum = np.floor((data["ctr"].astype(np.float32).astype(np.float64) + 12) / 0.1).astype(int)
    above = below = matched = 0.0
    for s in np.unique(stratum):
        clicked, unclicked = ((stratum == s) & (data["click"] == side) for side in (True, False))
        if clicked.any() and unclicked.any():
            matched += clicked.sum()
            above += clicked.sum() * p[clicked].mean()
            below += clicked.sum() * p[unclicked].mean()
    assert figures["pip.risk_ratio"] == pytest.approx(above / below, rel=1e-9)
    assert figures["pip.matched_clicks"] == matched
    assert figures["pip.risk_ratio.low"] > 1
    data["cvr"] = 0.5 * data["ctr"] - 1
    same = figures_of(Scored(kept(data, tmp_path), None, 0.02, replicates=60)).figures
    assert same["pip.risk_ratio"] == pytest.approx(1, abs=3e-3)
    assert same["pip.true_risk_ratio.low"] > 1  # taste makes both clicks and conversions, and q does not know it


def test_slices_are_the_figures_of_their_rows(tmp_path: Path) -> None:
    data = population(200, 7)
    codes = np.random.default_rng(0).integers(0, 2, len(data["user"]))
    slicing = Slicing("side", ("left", "right", "missing"), values=(0, 1))
    scored = Scored(kept(data, tmp_path, 3, slicings=(slicing,), codes=codes), None, 0.02, replicates=60)
    found = slice_figures(scored, 0)
    assert [entry["label"] for entry in found] == ["left", "right"]
    for number, entry in enumerate(found):
        alone = {name: values[codes == number] for name, values in data.items()}
        for space, (_, probability, label) in spaces(alone).items():
            assert entry["figures"][f"{space}.auc"] == pytest.approx(roc_auc_score(label, probability), abs=3e-5)
            low, high = (entry["figures"][f"{space}.auc.{end}"] for end in ("low", "high"))
            assert low < entry["figures"][f"{space}.auc"] < high
    activity = activity_figures(scored)
    assert sum(entry["rows"] for entry in activity) == len(codes)
    assert len(activity) == 5
    assert activity[0]["label"].startswith("≤ ")


def test_a_calibration_is_applied_and_the_raw_figures_stand_beside(tmp_path: Path) -> None:
    data = population(100, 8)
    calibration = Calibration({"ctr": Calibrator("platt", 0.8, -0.2)})
    figures = figures_of(Scored(kept(data, tmp_path), calibration, 0.02, replicates=40)).figures
    changed = dict(data, ctr=0.8 * data["ctr"].astype(np.float32).astype(np.float64) - 0.2)
    _, probability, label = spaces({**data, **changed})["ctcvr"]
    assert figures["ctcvr.log_loss"] == pytest.approx(log_loss(label, probability), rel=1e-5)
    assert figures["raw.ctr.log_loss"] == pytest.approx(log_loss(*reversed(spaces(data)["ctr"][1:])), rel=1e-6)
    assert figures["raw.ctr.auc"] == pytest.approx(figures["ctr.auc"], abs=1e-4)


def test_one_class_only_is_absent_not_zero(tmp_path: Path) -> None:
    data = population(30, 9)
    data["conversion"] = np.zeros(len(data["user"]), bool)
    found = figures_of(Scored(kept(data, tmp_path, truth=False), None, 0.02, 40))
    assert found.absent["ctcvr.auc"] == "no positives"
    assert found.absent["ctcvr.gauc"] == "no user has both labels"
    assert "ctcvr.auc" not in found.figures
