"""Evolution beside a training: a round for each epoch whose model is the best so far, from the last round's theta.

Which models get rounds, and of how many generations, follows from the training alone, never from who is faster: a
round that comes late is done after the training. The model is scored on the validation part; half of its users are
tuned on, the other half show in each round what that is worth. The test part stays unseen.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from rich.console import Console

from distributed.checkpoint.read import MODEL_DIRECTORY, RECORD, read_record
from distributed.training.recorder import SNAPSHOTS
from es.tasks import Stopped
from jobs.evolve.evolve_fusion import run_fusion
from jobs.pipeline.plan import ROUND_RESAMPLES, Plan
from jobs.pipeline.record import DONE, Record, Stage, digest, sha256
from jobs.pipeline.stages import forget_unbegun, fusion_facts, fusion_files, score_part

FUSION, SCORED = "fusion", "scored.parquet"
LOOK_S = 0.3  # between two looks for a new snapshot
STEP = "step-"


class Rounds:
    """The rounds of one training. `trained`: its run directory; `where`: the directory of the rounds."""

    def __init__(self, plan: Plan, record: Record, training: str, trained: Path, where: Path, data: str) -> None:
        self.plan, self.record, self.training, self.trained, self.where = plan, record, training, trained, where
        self.data = data

    def name(self, step: int) -> str:
        return f"round {step}"

    def fusion(self, step: int) -> Path:
        """The evolution's run directory."""
        return self.where / f"{STEP}{step:08d}" / FUSION

    def snapshot(self, step: int) -> Path:
        return self.trained / SNAPSHOTS / f"{STEP}{step:08d}"

    def follow(self, stopping: Callable[[], bool]) -> None:
        """Do rounds as snapshots come, until told to stop; what is not done then is left for later."""
        while not (ray.is_initialized() or stopping()):
            time.sleep(LOOK_S)  # the training starts the cluster, large enough for both
        while not stopping():
            try:
                self.catch_up(stopping)
            except Stopped:
                return
            time.sleep(LOOK_S)

    def catch_up(self, stopping: Callable[[], bool] = lambda: False) -> bool:
        """Do the rounds of all snapshots that are there. True: the training may go on."""
        waiting = sorted(int(path.parts[-3].removeprefix(STEP)) for path in self.records())
        for step in waiting:
            if stopping():
                break
            self.round(step, self.plan.options.workers, stopping)
        return True

    def records(self) -> list[Path]:
        return list((self.trained / SNAPSHOTS).glob(f"{STEP}*/{MODEL_DIRECTORY}/{RECORD}"))

    def finish(self, steps: list[int]) -> Path | None:
        """Do what is left of the rounds of a finished training; the run directory of the last one.

        What earlier trainings left is forgotten.
        """
        for step in steps:
            if self.snapshot(step).exists():
                self.round(step, 0)
        names = {self.name(step) for step in steps}
        for name in [name for name in self.record.stages if name.startswith("round ") and name not in names]:
            del self.record.stages[name]
        for path in self.where.glob(f"{STEP}*"):
            if self.name(int(path.name.removeprefix(STEP))) not in names:
                shutil.rmtree(path)
        return self.fusion(steps[-1]) if steps else None

    def lost(self, steps: list[int]) -> str | None:
        """Why a finished training has to be made anew: a round's result is not there, and neither is its model."""
        before: int | None = None
        for step in steps:
            if not self.snapshot(step).exists():
                inputs = (self.record.stages.get(self.name(step)) or {}).get("inputs", {})
                expected = {**inputs, "training": self.tag(), "theta": self.theta_of(before)}
                why = self.record.invalid(self.name(step), expected)
                if why is not None:
                    return f"{self.name(step)} ({why}) needs its model again"
            before = step
        return None

    def round(self, step: int, busy: int, stopping: Callable[[], bool] = lambda: False) -> None:
        """Score the validation part with the snapshot of a step, and tune; `busy`: CPUs that a training takes."""
        name, snapshot, where = self.name(step), self.snapshot(step), self.where / f"{STEP}{step:08d}"
        before = self.before(step)
        inputs = {
            "training": self.tag(),
            "model": digest(read_record(snapshot / MODEL_DIRECTORY / RECORD)["checksums"]),
            "theta": self.theta_of(before),
        }

        def work() -> dict[str, Any]:
            scored = where / SCORED
            known = self.record.note(name, "scored")
            if known is None or not scored.exists() or sha256(scored) != known:
                shutil.rmtree(where, ignore_errors=True)
                score_part(snapshot, self.data, "valid", scored)
                self.record.note(name, "scored", sha256(scored))
            forget_unbegun(where / FUSION)
            workers = self.plan.evolve_workers(busy)
            arguments = self.plan.evolve_arguments(
                scored,
                where / FUSION,
                generations=self.plan.options.round_generations,
                resamples=min(ROUND_RESAMPLES, self.plan.options.resamples),
                workers=workers,
                start_from=None if before is None else self.fusion(before),
            )
            facts = fusion_facts(run_fusion(arguments, Console(), stopping), self.plan)
            scored.unlink()
            return {**facts, "workers": workers}

        self.record.do(Stage(name, inputs, (where,), lambda: fusion_files(where / FUSION), work))
        gone = snapshot.with_name(f".{snapshot.name}.tmp")
        snapshot.rename(gone)  # all at once: half a model is none
        shutil.rmtree(gone)

    def done(self) -> list[int]:
        """The steps of this training whose rounds are done, in order."""
        tag, found = self.tag(), list[int]()
        for name, entry in self.record.stages.items():
            if name.startswith("round ") and entry["state"] == DONE and entry["inputs"].get("training") == tag:
                found.append(int(name.removeprefix("round ")))
        return sorted(found)

    def before(self, step: int) -> int | None:
        """The step of the round before."""
        return max((one for one in self.done() if one < step), default=None)

    def theta_of(self, step: int | None) -> str:
        return "the objective's own" if step is None else self.record.result(self.name(step))

    def tag(self) -> str:
        """Tells this training from one that was made anew: its rounds are, too."""
        return f"#{self.record.stages[self.training]['made']}"
