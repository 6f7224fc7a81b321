"""A trial of score fusion: tuned on some of the users that jobs.evolve would tune on, judged on the rest of those.

Users are split by seeded hashes: half of them are the test half, as in jobs.evolve; of the others one half is tuned on
and the other tells trials apart. Whoever tunes with the best settings afterwards has all of the tuning half again.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from es.engine import ESResult
from es.engine import run as run_engine
from es.tune import milestones
from funnel.fusion.evaluation import best_single, compare, split_users
from funnel.fusion.forms import Fusion, ScoredLog
from funnel.fusion.objective import ScoreFusion
from funnel.fusion.scored_log import LABELS, read_scored
from funnel.lists.request_blocks import Requests
from jobs.command.preset_file import fill_evolve
from jobs.command.presets import Settings
from jobs.evolve.evolution import Arguments, configure, engine_figures
from jobs.evolve.evolve_fusion import POLICY_FILE, policy_record, read_constraint
from jobs.run.directory import RUN_FILE, SUMMARY_FILE, start_run, write_json

REPORTS = 10
"""How often a trial is judged on its way."""
PARTS = ("fit", "valid", "test")


def split(arguments: Arguments) -> dict[str, ScoredLog]:
    """The users that are tuned on, that tell trials apart, and that nothing is decided on."""
    assert arguments.scored is not None
    scored = read_scored(arguments.scored, arguments.conversion_weight, arguments.by)
    tune_U = split_users(scored.user_keys_U, arguments.seed)
    fit_U = np.zeros_like(tune_U)
    fit_U[tune_U] = split_users(scored.user_keys_U[tune_U], arguments.seed + 1)
    masks = {"fit": fit_U, "valid": tune_U & ~fit_U, "test": ~tune_U}
    parts = {name: scored.log.part(mask_U[scored.log.user_C]) for name, mask_U in masks.items()}
    for name, part in parts.items():
        if not part.reward_C.any():
            raise ValueError(
                f"{arguments.scored}: no click among the {part.users} users of the {name} part of a search"
            )
    return parts


class FusionTrial:
    """One configuration of jobs.evolve in a run directory of its own."""

    def __init__(self, base: Arguments, settings: Settings, run: Path) -> None:
        self.arguments = fill_evolve(base, settings, "trial")
        self.run, self.config = run, dataclasses.replace(configure(self.arguments), workers=0)
        self.parts = split(self.arguments)
        arguments, fit = self.arguments, self.parts["fit"]
        self.fusion = Fusion.fit(arguments.fusion, fit, arguments.by)
        constraints = tuple(read_constraint(text) for text in arguments.constrain)
        self.objective = ScoreFusion(fit, self.fusion, arguments.metric, arguments.k, constraints)
        self.rewards = judged_on(self.parts["valid"])
        self.result: ESResult | None = None
        if not (run / RUN_FILE).exists():
            es = {key: value for key, value in dataclasses.asdict(self.config).items() if key != "workers"}
            asked = {name: getattr(arguments, name) for name in ("fusion", "metric", "k", "conversion_weight")}
            data = {"scored": str(arguments.scored), "rows": len(fit.request_C), "users": fit.users}
            start_run(run, "evolve", {**asked, "workers": 0, "es": es}, {"data": data})

    def climb(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(generation, figures on the users kept for it) at every tenth of the run, from its checkpoint on."""
        every = max(1, self.config.generations // REPORTS)
        for result in milestones(self.objective, self.config, self.run, every):
            self.result = result
            yield result.generations, self.judge(result)

    def theta(self, generation: int) -> np.ndarray:
        """Theta of the trial that ended after this generation."""
        return run_engine(self.objective, dataclasses.replace(self.config, generations=generation), self.run).theta

    def judge(self, result: ESResult) -> dict[str, Any]:
        """Validation figures of a theta: value and NDCG of the reward, clicks and conversions among the first k."""
        values_1D = self.fusion.policy.decode(result.theta[None])
        valid, k = self.parts["valid"], self.arguments.k
        figures: dict[str, Any] = {"return.centre": result.final_return}
        for name, (reward_C, metric) in self.rewards.items():
            requests = Requests.build(valid.request_C, self.fusion.features(valid), reward_C, k)
            figures[name] = float(requests.mean(lambda part: self.fusion.score(values_1D[part]), 1, metric)[0])
        return figures

    def finish(self) -> None:
        """Leave what a run of jobs.evolve leaves; the figures are those of the validation users."""
        assert self.result is not None
        write_json(self.run / POLICY_FILE, policy_record(self.fusion, self.result.theta, self.arguments))
        figures = self.compared("valid", self.result.theta)
        figures |= {"fusion.tune_users": self.parts["fit"].users, "part": "valid"}
        write_json(self.run / SUMMARY_FILE, figures | engine_figures(self.result, self.config))

    def compared(self, part: str, theta_D: np.ndarray) -> dict[str, Any]:
        """Tuned against untuned and best single score, with intervals, on one of PARTS."""
        arguments = self.arguments
        single = best_single(self.parts["fit"], arguments.metric, arguments.k)
        return compare(
            self.parts[part],
            self.fusion,
            theta_D,
            single,
            arguments.metric,
            arguments.k,
            arguments.resamples,
            arguments.seed,
        )


def judged_on(log: ScoredLog) -> dict[str, tuple[np.ndarray, str]]:
    """Each validation figure's reward and metric."""
    outcomes = {name: (log.outcome(name), "value") for name in LABELS}
    return {"value": (log.reward_C, "value"), "ndcg": (log.reward_C, "ndcg"), **outcomes}
