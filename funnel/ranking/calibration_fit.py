"""Fits the maps of calibration.py on a part the model was not trained on, with scikit-learn.

CTR is fitted on all exposures. CVR labels exist on clicks only, so its fit answers one of two questions:

    entire   clicks weighted by 1/q~ (q~ = calibrated propensity, clipped as in training; of the click model that the
             training was given, if it was): mean_D p = mean_D r, right
             where pCVR is used for every exposure, at the price of the weights' variance
    click    clicks count 1 each: right on clicked exposures, and so for pCTCVR = q p, since E[c] = E[o p]

Where the log's rows have weights, all of this is of rows that stand as often as they weigh.
Shapes: R rows, N bins of the logit, G groups.
"""

import dataclasses
from dataclasses import dataclass, field

import numpy as np
import torch

from data.encode import Encoder
from data.errors import UserError
from data.log import Log, Part
from data.reading import ordered_tables
from funnel.figures.binary import BINS, LIMIT, BinaryMetrics
from funnel.network import BatchNetwork
from funnel.ranking.calibration import METHODS, SPACES, Calibration, Calibrator
from funnel.ranking.click_model import ClickModel
from funnel.ranking.counts import predict
from funnel.ranking.folds import fold_columns, with_folds

FEWEST = 10
"""Positives and negatives that a step of the isotonic fit rests on, at least."""
MOST_KNOTS = 32
FEWEST_FOR_ISOTONIC = 50
"""Positives and negatives below which Platt's two numbers are fitted in place of a curve: on fewer the curve follows
chance."""


@dataclass
class FitData:
    """What a fit needs of a part: counts of CTR logits by label, and the clicked rows."""

    weighted: bool = False
    """Whether rows have weights."""
    ctr: BinaryMetrics = field(init=False)
    clicked: list[np.ndarray] = field(default_factory=list)
    """Float32 [rows, 4] each: click logit for the weights, cvr logit, conversion, weight of the row."""
    given: BinaryMetrics | None = None
    """Counts of the click logits that the weights come from, where it is not the CTR tower that gives them."""

    def __post_init__(self) -> None:
        self.ctr = BinaryMetrics(self.weighted)

    def add(
        self,
        logits: dict[str, torch.Tensor],
        click_R: torch.Tensor,
        conversion_R: torch.Tensor,
        click_logit_R: torch.Tensor | None = None,
        weight_R: torch.Tensor | None = None,
    ) -> None:
        self.ctr.add(logits["ctr"], click_R, weight_R)
        if click_logit_R is not None:
            self.given = self.given or BinaryMetrics(self.weighted)
            self.given.add(click_logit_R, click_R, weight_R)
        weighing_R = logits["ctr"] if click_logit_R is None else click_logit_R
        row_R = torch.ones_like(conversion_R) if weight_R is None else weight_R
        columns = torch.stack([weighing_R.float(), logits["cvr"].float(), conversion_R.float(), row_R.float()], dim=1)
        self.clicked.append(columns[click_R > 0.5].numpy())


def gather(
    network: BatchNetwork, log: Log, part: Part, device: torch.device, click_model: ClickModel | None = None
) -> FitData:
    """Score a part once and keep what a fit needs: 16 bytes a click, and counts."""
    encoder, data = Encoder(log.schema), FitData(log.schema.weight is not None)
    folds = click_model.folds if click_model else 0
    for table in ordered_tables(log, part, [*log.schema.columns, *fold_columns(log.schema, folds)]):
        rows = with_folds(encoder.encode(table), table, log.schema, folds)
        given_R = click_model.logits_of(rows, device) if click_model else None
        click_R, conversion_R = (torch.tensor(rows.labels[name]) for name in ("click", "conversion"))
        weight_R = None if rows.weight_R is None else torch.tensor(rows.weight_R)
        data.add(predict(network, rows, device), click_R, conversion_R, given_R, weight_R)
    return data


def fit_calibration(
    data: FitData, method: str, space: str = "click", clip: float = 0.0, negative_rate: float = 1.0
) -> Calibration:
    """Fit CTR and CVR. `negative_rate` is the share of the unclicked exposures that the log kept, in all its parts.

    Raises UserError: an unknown method or space, a rate outside (0, 1], one beside weights, one class only.
    """
    if method not in METHODS:
        raise UserError(f"unknown calibration {method!r}; known: {', '.join(METHODS)}")
    if space not in SPACES:
        raise UserError(f"unknown space {space!r} for the calibration of CVR; known: {', '.join(SPACES)}")
    if not 0 < negative_rate <= 1:
        raise UserError(f"the rate of negative sampling must be in (0, 1], got {negative_rate}")
    if data.weighted and negative_rate != 1:
        raise UserError(
            f"a rate of negative sampling ({negative_rate}) and a log with a 'weight': one of them corrects for the "
            "sampling, both would do it twice; leave the rate at 1"
        )
    rows_R4 = np.concatenate(data.clicked).astype(np.float64)
    about = {"method": method, "space": space, "negative_rate": negative_rate, "clip": clip,
             "rows": data.ctr.count, "clicks": len(rows_R4), "conversions": int(rows_R4[:, 2].sum())}  # fmt: skip
    ctr = fit_clicks(data.ctr, method).scaled(negative_rate)
    tasks = {"ctr": ctr}
    if method != "none":
        weight_R = rows_R4[:, 3]
        if space == "entire":
            weighing = fit_clicks(data.given, method).scaled(negative_rate) if data.given else ctr
            weight_R = weight_R * inverse_calibrated(weighing, rows_R4[:, 0], clip)
        tasks["cvr"] = fit("cvr", method, rows_R4[:, 1], rows_R4[:, 2], weight_R, np.ones(len(rows_R4)))
        about |= {f"{task}.method": calibrator.method for task, calibrator in tasks.items()}
    return Calibration(tasks, about)


def fit_clicks(counted: BinaryMetrics, method: str) -> Calibrator:
    """The map of click logits, on all exposures."""
    logit_N, count_N, label_N, weight_N = binned(counted)
    return fit("ctr", method, logit_N, label_N, weight_N, count_N)


def inverse_calibrated(ctr: Calibrator, logit_R: np.ndarray, clip: float) -> np.ndarray:
    """1 / calibrated q, after the model's own q is raised to the clip that its objective used."""
    logit = torch.from_numpy(logit_R).sigmoid().clamp(min=max(clip, 1e-12)).logit()
    return (1 / ctr.apply_logit(logit).sigmoid()).numpy()


def binned(metrics: BinaryMetrics) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(logit, rows, label, what the rows weigh) of every bin in use, one entry for each label."""
    label, index = np.nonzero(metrics.counts_2N.numpy())
    return (
        (index + 0.5) * (2 * LIMIT / BINS) - LIMIT,
        metrics.counts_2N.numpy()[label, index].astype(float),
        label * 1.0,
        metrics.weights_2N.numpy()[label, index].astype(float),
    )


def fit(
    task: str, method: str, logit_R: np.ndarray, label_R: np.ndarray, weight_R: np.ndarray, count_R: np.ndarray
) -> Calibrator:
    """One task. weight_R is what an entry weighs in the fit, count_R how many rows it stands for.

    Entries that weigh nothing are left out. Isotonic becomes Platt where positives or negatives are too few for it.
    """
    if method == "none":
        return Calibrator()
    used_R = weight_R > 0
    logit_R, label_R, weight_R, count_R = (values_R[used_R] for values_R in (logit_R, label_R, weight_R, count_R))
    logit_R = np.clip(logit_R, -LIMIT, LIMIT)
    positives, negatives = (count_R * label_R).sum(), (count_R * (1 - label_R)).sum()
    if not positives or not negatives:
        raise UserError(f"{task} cannot be calibrated: no {'negatives' if positives else 'positives'} in the part")
    if method == "platt" or min(positives, negatives) < FEWEST_FOR_ISOTONIC:
        return platt(logit_R, label_R, weight_R, positives, negatives)
    return isotonic(logit_R, label_R, weight_R, count_R)


def platt(
    logit_R: np.ndarray, label_R: np.ndarray, weight_R: np.ndarray, positives: float, negatives: float
) -> Calibrator:
    """Logistic regression of the label on the logit, with Platt's targets (N+ + 1)/(N+ + 2) and 1/(N- + 2).

    A fit that would turn the order around (the scores rank worse than chance there) becomes a shift alone.
    """
    from sklearn.linear_model import LogisticRegression  # seconds to import, and a training has no need of it

    target_R = np.where(label_R > 0.5, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    scale = 1 / weight_R.mean()
    features = np.concatenate([logit_R, logit_R])[:, None]
    labels = np.repeat([1, 0], len(logit_R))
    weights = np.concatenate([weight_R * target_R, weight_R * (1 - target_R)]) * scale
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-9, max_iter=500)
    model.fit(features, labels, sample_weight=weights)
    slope, intercept = float(model.coef_[0, 0]), float(model.intercept_[0])
    if slope > 0:
        return Calibrator("platt", slope, intercept)
    return Calibrator("platt", 1.0, shift(logit_R, np.average(target_R, weights=weight_R), weight_R))


def shift(logit_R: np.ndarray, rate: float, weight_R: np.ndarray) -> float:
    """The constant that brings the weighted mean of sigmoid(logit + constant) to `rate`, by bisection."""
    low, high = -3 * LIMIT, 3 * LIMIT
    for _ in range(80):
        middle = (low + high) / 2
        mean = np.average(1 / (1 + np.exp(-(logit_R + middle))), weights=weight_R)
        low, high = (middle, high) if mean < rate else (low, middle)
    return (low + high) / 2


def isotonic(logit_R: np.ndarray, label_R: np.ndarray, weight_R: np.ndarray, count_R: np.ndarray) -> Calibrator:
    """Isotonic regression, made strictly increasing: one knot for each of its steps at the step's mean logit, as in
    centred isotonic regression [Oron and Flournoy 2017]; steps with few positives or negatives join a neighbour.

    Between knots the map is a line in the logit, whose probability is not the mean of its ends' (Jensen): on a convex
    stretch, where all rare events lie, it would be too high. A shift of all knots makes the mean prediction of the fit
    its mean label.
    """
    from sklearn.isotonic import IsotonicRegression

    level_R = IsotonicRegression(out_of_bounds="clip").fit_transform(logit_R, label_R, sample_weight=weight_R)
    order_R = np.lexsort((logit_R, level_R))
    new_R = np.diff(level_R[order_R], prepend=-1.0) > 1e-12
    group_R = np.empty(len(order_R), np.int64)
    group_R[order_R] = np.cumsum(new_R) - 1

    def total(values_R: np.ndarray) -> np.ndarray:
        return np.bincount(group_R, values_R)

    columns = (weight_R, weight_R * logit_R, weight_R * label_R, count_R * label_R, count_R * (1 - label_R))
    groups_G5 = merged(np.stack([total(column) for column in columns], axis=1))
    # Half a row of each class more: a lone group may hold one class only.
    spare = 0.5 * weight_R.sum() / count_R.sum()
    rate_G = (groups_G5[:, 2] + spare) / (groups_G5[:, 0] + 2 * spare)
    x_G, y_G = groups_G5[:, 1] / groups_G5[:, 0], np.log(rate_G) - np.log1p(-rate_G)
    kept = [0]
    for g in range(1, len(x_G)):
        if x_G[g] > x_G[kept[-1]] and y_G[g] > y_G[kept[-1]]:
            kept.append(g)
    found = Calibrator("isotonic", knots=tuple((float(x_G[g]), float(y_G[g])) for g in kept))
    mapped_R = found.apply_logit(torch.from_numpy(logit_R)).numpy()
    intercept = shift(mapped_R, np.average(label_R, weights=weight_R), weight_R)
    return dataclasses.replace(found, intercept=intercept)


def merged(groups_G5: np.ndarray) -> np.ndarray:
    """Neighbouring groups joined until each rests on FEWEST rows of both classes and MOST_KNOTS are left.

    Columns 3 and 4 are rows of each class; all columns add. The group with the fewest goes first, to its smaller side.
    """
    while len(groups_G5) > 1:
        smaller_G = groups_G5[:, 3:].min(axis=1)
        g = int(smaller_G.argmin())
        if smaller_G[g] >= FEWEST and len(groups_G5) <= MOST_KNOTS:
            break
        beside = [n for n in (g - 1, g + 1) if 0 <= n < len(groups_G5)]
        first = min(g, min(beside, key=lambda n: smaller_G[n]))
        groups_G5 = np.concatenate(
            [groups_G5[:first], groups_G5[first : first + 2].sum(0)[None], groups_G5[first + 2 :]]
        )
    return groups_G5
