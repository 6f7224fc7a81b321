"""Every figure of a scored part, with its interval: by task and space, by slice, by user, and the two experiments.

Passes over the buckets of scored_part.py, never over the model: one for the counts all figures follow from, one for the
bootstrap (which needs to know the groups of equal count), and two more for each slicing.
Shapes: R rows of a bucket or chunk, S slices, N fine bins, K score groups.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from data.errors import UserError
from funnel.figures.binary import BINS, ECE_GROUPS, FIGURES, BinaryMetrics
from funnel.figures.bootstrap import GROUPS, Replicates, ScoreGroups, chunks, fine_bins, interval, intervals
from funnel.figures.grouped_auc import GroupedAuc
from funnel.figures.slices import activity_edges, activity_labels
from funnel.ranking.balance import balance_of
from funnel.ranking.bias_experiments import Bias, Matching
from funnel.ranking.calibration import Calibration
from funnel.ranking.counts import NO_TRUTH, space_figures
from funnel.ranking.hidden_cause import clicks_of, judge
from funnel.ranking.propensity_health import PropensityHealth
from funnel.ranking.scored_part import CLICK, CONVERSION, POTENTIAL, ScoredPart
from models.hidden_cause import LIFT, both_logit
from models.instrument import SHIFT

SLICE_GROUPS = 256
NO_USERS = "the log's schema names no user"
Codes = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class View:
    """One space of some rows: which of them, their logits (float64), labels (0, 1) and weights (None: 1 each)."""

    inside_R: np.ndarray
    logit: np.ndarray
    label: np.ndarray
    weight: np.ndarray | None


@dataclass
class Figures:
    """Flat figures, reasons for those that are absent, and what plots need."""

    figures: dict[str, Any] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)


class Scored:
    """What all passes share: the rows, how they are calibrated, and the bootstrap's size and seed."""

    def __init__(
        self,
        part: ScoredPart,
        calibration: Calibration | None,
        clip: float,
        replicates: int = 400,
        seed: int = 0,
        no_click_model: str = "",
        threshold: float | None = None,
    ) -> None:
        """`no_click_model`: why the click model is missing that gave the training its propensities, if it is."""
        self.part, self.calibration, self.clip, self.no_click_model = part, calibration, clip, no_click_model
        self.replicates, self.seed, self.threshold = replicates, seed, threshold
        self.spaces = ("ctr", "cvr.click", "ctcvr", *(("cvr.entire",) if part.has_truth else ()))

    def logits(self, rows: np.ndarray, raw: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Float64 logits of CTR and CVR, calibrated unless raw."""
        found = {task: torch.from_numpy(rows[task].astype(np.float64)) for task in ("ctr", "cvr")}
        if self.calibration is not None and not raw:
            found = self.calibration.apply(found)
        return found["ctr"], found["cvr"]

    def both(self, rows: np.ndarray, ctr: torch.Tensor, cvr: torch.Tensor, raw: bool = False) -> torch.Tensor:
        """Float64 logit of pCTCVR."""
        found = {"ctr": ctr, "cvr": cvr}
        for_clicks = self.calibration is not None and not raw and self.calibration.right_for_clicks
        if LIFT in self.part.extra and not for_clicks:
            found[LIFT] = torch.from_numpy(rows[LIFT].astype(np.float64))
        return both_logit(found)

    def views(self, rows: np.ndarray, raw: bool = False) -> dict[str, View]:
        ctr, cvr = self.logits(rows, raw)
        labels = rows["labels"]
        click, conversion, potential = ((labels & bit > 0) for bit in (CLICK, CONVERSION, POTENTIAL))
        every, weight = np.ones(len(rows), bool), self.weights(rows)
        found = {
            "ctr": View(every, ctr.numpy(), click, weight),
            "cvr.click": View(click, cvr.numpy()[click], conversion[click], None if weight is None else weight[click]),
            "ctcvr": View(every, self.both(rows, ctr, cvr, raw).numpy(), conversion, weight),
        }
        if self.part.has_truth:
            found["cvr.entire"] = View(every, cvr.numpy(), potential, weight)
        return found

    def weights(self, rows: np.ndarray) -> np.ndarray | None:
        return np.ascontiguousarray(rows["weight"]) if self.part.weighted else None

    def by_slice(self, codes: Codes, slices: int, raw: bool = False) -> list[dict[str, BinaryMetrics]]:
        """Counts of every slice and space."""
        weighted, threshold = self.part.weighted, self.threshold
        found = [{s: BinaryMetrics(weighted, threshold=threshold) for s in self.spaces} for _ in range(slices)]
        for rows in self.part.read():
            code_R = codes(rows)
            for space, view in self.views(rows, raw).items():
                code = code_R[view.inside_R]
                for number in np.unique(code):
                    here = code == number
                    columns = (view.logit, view.label, *(() if view.weight is None else (view.weight,)))
                    found[number][space].add(*(torch.from_numpy(column[here]) for column in columns))
        return found

    def bootstrap(
        self,
        codes: Codes,
        counted: list[dict[str, BinaryMetrics]],
        groups: int,
        keep: dict[str, np.ndarray] | None = None,
    ) -> list[dict[str, float]]:
        """For every slice {"ctr.auc.low": ..., ...}. `keep` is given the replicates of the last one."""
        groups_of = [{s: ScoreGroups(m.weights_2N.numpy(), groups) for s, m in row.items()} for row in counted]
        cells, weighted = 2 * groups, self.part.weighted
        found = {s: Replicates(len(counted) * cells, self.replicates, weighted) for s in self.spaces}

        def cells_of(code: np.ndarray, space: str, view: View) -> np.ndarray:
            of_SN = np.stack([row[space].of_N for row in groups_of])
            cell: np.ndarray = code * cells + view.label * groups + of_SN[code, fine_bins(view.logit)]
            return cell

        if self.part.has_users:
            for bucket, rows in enumerate(self.part.read()):
                for piece, user_R, weight_UB in chunks(rows["user"], bucket, self.seed, self.replicates):
                    code_R = codes(rows[piece])
                    for space, view in self.views(rows[piece]).items():
                        cell = cells_of(code_R[view.inside_R].astype(np.int64), space, view)
                        found[space].add(cell, user_R[view.inside_R], weight_UB, view.weight)
        else:
            squares = {space: np.zeros(len(counted) * cells) for space in self.spaces if weighted}
            for rows in self.part.read() if weighted else ():
                code_R = codes(rows)
                for space, view in self.views(rows).items():
                    assert view.weight is not None
                    cell = cells_of(code_R[view.inside_R].astype(np.int64), space, view)
                    squares[space] += np.bincount(cell, np.square(view.weight, dtype=np.float64), len(squares[space]))
            for number, space in enumerate(self.spaces):
                counts = np.concatenate([row[space].counts_LK.ravel() for row in groups_of])
                rng = np.random.default_rng([self.seed, number, len(counted)])
                found[space].draw(counts if weighted else counts.astype(np.int64), rng, squares.get(space))
        result = []
        for index, row in enumerate(counted):
            here: dict[str, float] = {}
            for space in self.spaces:
                counts_CB = found[space].counts_CB[index * cells : (index + 1) * cells]
                counts_2KB = counts_CB.reshape(2, groups, self.replicates)
                kept: dict[str, np.ndarray] = {}
                bounds = intervals(row[space].figures()[0], counts_2KB, groups_of[index][space], kept)
                if keep is not None:
                    keep |= {f"{space}.{name}": replicates_B for name, replicates_B in kept.items()}
                here |= {f"{space}.{name}": value for name, value in bounds.items()}
            result.append(here)
        return result


def whole(rows: np.ndarray) -> np.ndarray:
    return np.zeros(len(rows), np.int16)


def figures_of(scored: Scored) -> Figures:
    """The figures of the whole part."""
    result = Figures()
    counted = scored.by_slice(whole, 1)[0]
    result.figures, result.absent = space_figures(counted)
    if not scored.part.has_truth:
        result.absent["cvr.entire"] = NO_TRUTH
        result.absent |= {f"cvr.entire.{name}": NO_TRUTH for name in FIGURES}
    keep: dict[str, np.ndarray] = {}
    result.figures |= scored.bootstrap(whole, [counted], GROUPS, keep)[0]
    # Two evaluations of the same users draw the same weights, so that their replicates can be paired. Rows without
    # users are drawn from the counts of each by itself.
    result.curves["replicates"] = {name: listed(keep[name]) for name in keep} if scored.part.has_users else {}
    result.curves["calibration"] = {space: metrics.calibration() for space, metrics in counted.items()}
    if scored.calibration is not None:
        raw = scored.by_slice(whole, 1, raw=True)[0]
        result.figures |= {f"raw.{name}": value for name, value in space_figures(raw)[0].items()}
        result.curves["raw"] = {space: metrics.calibration() for space, metrics in raw.items()}
    add_propensity(scored, result)
    add_user_figures(scored, result)
    add_experiments(scored, result)
    if SHIFT in scored.part.extra:
        figures, reason = judge(clicks_of(scored.part))
        result.figures |= {f"cause.{name}": value for name, value in figures.items()}
        result.absent |= {"cause.claimed": reason} if reason else {}
    units = "users" if scored.part.has_users else "rows"
    result.figures |= {"bootstrap.units": units, "bootstrap.replicates": scored.replicates, "ece.bins": ECE_GROUPS}
    result.figures["rows"] = scored.part.rows
    return result


def listed(replicates_B: np.ndarray) -> list[float | None]:
    """For JSON: seven digits of each, None where it could not be computed."""
    return [float(f"{value:.7g}") if np.isfinite(value) else None for value in replicates_B]


def add_propensity(scored: Scored, result: Figures) -> None:
    if scored.no_click_model:
        result.absent["propensity.effective_sample_size"] = scored.no_click_model
        return
    health, own = PropensityHealth(scored.clip), scored.part.has_click_model
    clicks = BinaryMetrics(scored.part.weighted)
    for rows in scored.part.read():
        # The propensities as the training used them: of the click model, else of the CTR tower before calibration.
        logit = torch.from_numpy(rows["click" if own else "ctr"].astype(np.float64))
        click, weight = torch.from_numpy(rows["labels"] & CLICK > 0), scored.weights(rows)
        columns = (logit, click, *(() if weight is None else (torch.from_numpy(weight),)))
        health.add(*columns)
        if own:
            clicks.add(*columns)
    result.figures |= {f"propensity.{name}": value for name, value in health.figures().items()}
    result.curves["propensity"] = {**health.figures(), "weight_histogram": health.weight_histogram()}
    result.figures |= balance_of(scored.part, scored.clip, whole, 1)[0]
    if "ctr.ece" in result.figures:
        result.figures["propensity.ece"] = clicks.ece() if own else result.figures["ctr.ece"]


def add_user_figures(scored: Scored, result: Figures) -> None:
    """GAUC of every space; absent where there are no users or none has both labels."""
    if not scored.part.has_users:
        result.absent |= {f"{space}.gauc": NO_USERS for space in scored.spaces}
        return
    sums = {space: GroupedAuc(scored.replicates) for space in scored.spaces}
    users = 0
    for bucket, rows in enumerate(scored.part.read()):
        for piece, user_R, weight_UB in chunks(rows["user"], bucket, scored.seed, scored.replicates):
            users += len(weight_UB)
            for space, view in scored.views(rows[piece]).items():
                sums[space].add(user_R[view.inside_R], view.logit, view.label, weight_UB, view.weight)
    result.figures["users"] = users
    for space, found in sums.items():
        figures = found.figures()
        result.figures |= {f"{space}.{name}": value for name, value in figures.items()}
        if "gauc" not in figures:
            result.absent[f"{space}.gauc"] = "no user has both labels"
            continue
        bounds = interval(figures["gauc"], figures["gauc"], found.by_replicate())
        if bounds is not None:
            result.curves["replicates"][f"{space}.gauc"] = listed(found.by_replicate())
            result.figures[f"{space}.gauc.low"], result.figures[f"{space}.gauc.high"] = bounds


def add_experiments(scored: Scored, result: Figures) -> None:
    """IEB and PIP; docs/math.md has both."""

    def parts(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        ctr, cvr = scored.logits(rows)
        labels = rows["labels"]
        # Without truth the potential conversion is known where it was observed, on clicks.
        known = labels & (POTENTIAL if scored.part.has_truth else CONVERSION) > 0
        return ctr.numpy(), cvr.numpy(), (labels & CLICK > 0).astype(np.int64) + 2 * known

    weighted = scored.part.weighted
    counts_4N = np.zeros(4 * BINS, np.float64 if weighted else np.int64)
    for rows in scored.part.read():
        _, cvr_R, label_R = parts(rows)
        counts_4N += np.bincount(label_R * BINS + fine_bins(cvr_R), scored.weights(rows), 4 * BINS)
    bias = Bias(counts_4N.reshape(4, BINS), scored.replicates, weighted)
    matching = Matching(counts_4N.reshape(4, BINS), scored.replicates, weighted)
    squares = (np.zeros(4 * bias.groups.size), np.zeros(len(matching.counts_C)))
    for bucket, rows in enumerate(scored.part.read()):
        ctr_R, cvr_R, label_R = parts(rows)
        weight_R = scored.weights(rows)
        matching.add(matching.cells(ctr_R, cvr_R, label_R), cvr_R, weight_R)
        if weight_R is not None and not scored.part.has_users:
            cells = (bias.cells(cvr_R, label_R), matching.cells(ctr_R, cvr_R, label_R))
            for total, cell_R in zip(squares, cells, strict=True):
                total += np.bincount(cell_R, np.square(weight_R, dtype=np.float64), len(total))
        if scored.part.has_users:
            for piece, user_R, weight_UB in chunks(rows["user"], bucket, scored.seed, scored.replicates):
                ctr_R, cvr_R, label_R = parts(rows[piece])
                weight_R = scored.weights(rows[piece])
                bias.replicates.add(bias.cells(cvr_R, label_R), user_R, weight_UB, weight_R)
                matching.replicates.add(matching.cells(ctr_R, cvr_R, label_R), user_R, weight_UB, weight_R)
    if not scored.part.has_users:
        counts_C = bias.groups.counts_LK.ravel().astype(counts_4N.dtype)
        of_bias, of_matching = squares if weighted else (None, None)
        bias.replicates.draw(counts_C, np.random.default_rng([scored.seed, 90]), of_bias)
        matching.replicates.draw(matching.counts_C, np.random.default_rng([scored.seed, 91]), of_matching)
    truth = scored.part.has_truth
    result.figures |= {f"ieb.{name}": value for name, value in bias.figures(truth).items()}
    if not truth:
        result.absent |= dict.fromkeys(("ieb.mean_truth", "ieb.bias", "ieb.ratio", "pip.true_risk_ratio"), NO_TRUTH)
    figures, curve, reason = matching.figures(truth)
    result.figures |= {f"pip.{name}": value for name, value in figures.items()}
    result.curves["pip"] = curve
    if reason:
        result.absent["pip.risk_ratio"] = reason


def slice_figures(scored: Scored, index: int) -> list[dict[str, Any]]:
    """The slices of the index-th slicing: label, and the figures of each space with intervals."""
    labels = scored.part.slicings[index].labels
    return sliced(scored, labels, lambda rows: rows[f"by{index}"])


def activity_figures(scored: Scored) -> list[dict[str, Any]]:
    """Slices by how many exposures a user has in the part. Raises UserError if the log has no users."""
    if not scored.part.has_users:
        raise UserError(f"--by @activity: {NO_USERS}")
    longest = np.zeros(1, np.int64)
    for rows in scored.part.read():
        seen = np.bincount(per_user(rows["user"]))
        longest = np.pad(longest, (0, max(0, len(seen) - len(longest))))
        longest[: len(seen)] += seen
    edges = activity_edges(longest)
    return sliced(scored, activity_labels(edges), lambda rows: np.searchsorted(edges, per_user(rows["user"])))


def per_user(user_R: np.ndarray) -> np.ndarray:
    """For rows sorted by user: how many rows the user of each has."""
    if not len(user_R):
        return np.empty(0, np.int64)
    starts_U = np.flatnonzero(np.concatenate([[True], user_R[1:] != user_R[:-1]]))
    rows_U = np.diff(np.append(starts_U, len(user_R)))
    return np.repeat(rows_U, rows_U)


def sliced(scored: Scored, labels: tuple[str, ...], codes: Codes) -> list[dict[str, Any]]:
    counted = scored.by_slice(codes, len(labels))
    bounds = scored.bootstrap(codes, counted, SLICE_GROUPS)
    balances = balance_of(scored.part, scored.clip, codes, len(labels))
    found = []
    for label, spaces, low_high, balance in zip(labels, counted, bounds, balances, strict=True):
        if not spaces["ctr"].count:
            continue
        figures, absent = space_figures(spaces)
        figures |= low_high if scored.no_click_model else {**low_high, **balance}
        found.append({"label": label, "rows": spaces["ctr"].count, "figures": figures, "absent": absent})
    return found
