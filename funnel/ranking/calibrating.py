"""Calibrating a finished run on its validation part (funnel/tools.py: Calibrating); calibration_fit.py has the fits."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from data.errors import UserError
from data.log import Log
from funnel.network import BatchNetwork
from funnel.panels import Cell, Table
from funnel.problem import Given
from funnel.ranking.calibration import CALIBRATION
from funnel.ranking.calibration_fit import FEWEST_FOR_ISOTONIC, fit_calibration, gather
from funnel.ranking.click_model import click_model_of
from funnel.ranking.results import LONG_NAMES, rounded
from funnel.tools import Calibrated, Count, GivenTo
from funnel.trained_log import for_scoring

FIGURES = (("log_loss", "log-loss", 5), ("pcoc", "PCOC", 3), ("ece", "ECE", 5))


@dataclass(frozen=True)
class Settings:
    method: Literal["platt", "isotonic", "none"] = "platt"
    """platt: two numbers a task; isotonic: any increasing curve, which wants some hundred conversions or more."""
    space: Literal["entire", "click"] = "click"
    """What pCVR shall be right for. entire: every exposure, where it ranks or prices what nobody has clicked yet;
    clicks weigh 1/propensity, which costs variance. click: clicked exposures, and with them pCTCVR on the logged
    traffic; clicks weigh 1. docs/math.md says why it cannot be both."""
    negative_rate: float = 1.0
    """Share of the unclicked exposures that the log kept, if it was sampled: pCTR is corrected to the full traffic."""

    def __post_init__(self) -> None:
        if not 0 < self.negative_rate <= 1:
            raise UserError(f"the rate of negative sampling must be in (0, 1], got {self.negative_rate}")


def calibrate(run: Given, given: GivenTo, log: Log, settings: Settings, count: Count) -> Calibrated:
    """Fit on "valid", count on "test" (or "valid" where there is none), write or remove the run's calibration.json.

    For the entire space the click model that the training was given, if it was, gives the weights.
    """
    network = run.network
    assert isinstance(network, BatchNetwork)
    device = next(network.parameters()).device
    if settings.space == "entire" and settings.method != "none" and has_cause(network):
        raise UserError(
            "--space entire: the model has a hidden cause of click and conversion, which weights of 1/propensity leave "
            "out; its pCVR is for all exposures as it is (--space click calibrates it for the logged traffic)"
        )
    log = for_scoring(log, run.problem.schema, truth=True)
    problem = type(run.problem)(run.problem.settings, log.schema, run.problem.facts)
    counted = log.part("test" if "test" in log.part_names() else "valid")
    click_model, missing = click_model_of(given)
    if missing and settings.space == "entire":
        raise UserError(f"{missing}; --space click needs none")
    weighing = click_model if settings.space == "entire" else None
    samples = gather(network, log, log.part("valid"), device, weighing)
    found = fit_calibration(samples, settings.method, settings.space, problem.clip, settings.negative_rate)
    if settings.method == "none" and settings.negative_rate == 1:
        (run.directory / CALIBRATION).unlink(missing_ok=True)
        return Calibrated()
    problem.click_model = click_model
    counts = count(problem, network, log, counted, problem.counts(log, counted, truth=True, calibration=found))
    found = dataclasses.replace(found, about={**found.about, "model": run.checksum})
    found.save(run.directory)
    hidden = ("absent", "propensity.") if missing else ("absent",)  # of the CTR tower, which did not weigh the clicks
    figures = {f"calibrated.{name}": value for name, value in counts.figures().items() if not name.startswith(hidden)}
    return Calibrated(figures | {f"calibration.{name}": value for name, value in found.about.items()}, counts.curves())


def has_cause(network: BatchNetwork) -> bool:
    """Whether the model has a hidden cause, and not one of strength 0."""
    return network.cause is not None and float(network.cause.theta) != 0


def results(summary: Mapping[str, Any], part: str) -> Table:
    """Log-loss, PCOC and ECE before and after, and what the maps rest on."""
    clicks, conversions = (int(summary[f"calibration.{name}"]) for name in ("clicks", "conversions"))
    kinds = [summary.get(f"calibration.{task}.method", summary["calibration.method"]) for task in ("ctr", "cvr")]
    space = "all exposures" if summary["calibration.space"] == "entire" else "clicks"
    title = (
        f"{part} part, calibrated on valid: CTR by {kinds[0]} on {clicks:,} clicks, "
        f"CVR (for {space}) by {kinds[1]} on {conversions:,} conversions"
    )
    if min(clicks, conversions) < FEWEST_FOR_ISOTONIC:
        title += f"; fewer than {FEWEST_FOR_ISOTONIC}: such a map follows chance, take it as a first guess"
    columns, rows = ["task"], list[tuple[Cell, ...]]()
    for _, name, _ in FIGURES:
        columns += [name, "after"]
    for key, name in LONG_NAMES.items():
        cells = [rounded(summary.get(f"{prefix}{key}.{figure}"), digits)
                 for figure, _, digits in FIGURES for prefix in ("", "calibrated.")]  # fmt: skip
        if any(cell is not None for cell in cells):
            rows.append((name, *cells))
    return Table(title, tuple(columns), tuple(rows))
