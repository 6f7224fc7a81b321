"""Do the intervals hold where there is nothing to gain? Simulated logs whose truth is known, by the hundred.

    python -m benchmarks.evaluation.null_worlds --worlds 200
    python -m benchmarks.evaluation.null_worlds --worlds 400 --only off_policy --kinds rare_46

In a null world the reward does not depend on the action (off_policy), or on what a score adds (fusion): every gain is
0. Counted for every figure that is printed: how often its interval holds the truth, and how often a gain lies above 0.
Asked for: at least 93% and at most 3.5%. Figures that are not printed, for the reasons that the program gives, are
counted.
"""

import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.evaluation.null_logs import FUSION_WORLDS, OFF_POLICY_WORLDS, Outcome

LEAST_COVERED, MOST_GAINS = 0.93, 0.035


@dataclass
class Arguments:
    worlds: int = 200
    """Logs of each kind."""
    only: Literal["", "off_policy", "fusion"] = ""
    kinds: tuple[str, ...] = ()
    """Kinds of worlds; none: all."""
    processes: int = 2
    write: bool = True
    """Write the result file."""


@dataclass
class Tally:
    """Of one figure in all worlds of a kind."""

    printed: int = 0
    above: int = 0
    below: int = 0

    def add(self, outcome: Outcome) -> None:
        self.printed += 1
        self.above += outcome.low > outcome.truth
        self.below += outcome.high < outcome.truth

    @property
    def covered(self) -> float:
        return 1 - (self.above + self.below) / max(self.printed, 1)


Simulate = Callable[[int], Iterable[Outcome]]


def tallied(simulate: Simulate, worlds: int, pool: ProcessPoolExecutor | None = None) -> dict[str, Tally]:
    """By figure, over the logs of seeds 0..worlds-1; figures that are not printed have printed < worlds."""
    tallies: dict[str, Tally] = {}
    runs = pool.map(simulate, range(worlds), chunksize=5) if pool else map(simulate, range(worlds))
    for outcomes in runs:
        for outcome in outcomes:
            tally = tallies.setdefault(outcome.figure, Tally())
            if math.isfinite(outcome.low):
                tally.add(outcome)
    return tallies


def holds(figure: str, tally: Tally, slack: float = 0.0) -> bool:
    """Coverage and, of gains, the share above 0 are as asked for."""
    printed, tiny = max(tally.printed, 1), 1e-9
    covers = tally.covered >= LEAST_COVERED - slack - tiny
    return covers and ("gain" not in figure or tally.above <= (MOST_GAINS + slack + tiny) * printed)


def main(arguments: Arguments) -> None:
    """Simulate, count, write the table."""
    began, rows, figures = time.time(), list[list[Any]](), list[dict[str, Any]]()
    systems = {"off_policy": OFF_POLICY_WORLDS, "fusion": FUSION_WORLDS}
    with ProcessPoolExecutor(arguments.processes) as pool:
        for system, kinds in systems.items():
            if arguments.only not in ("", system):
                continue
            for kind, simulate in kinds.items():
                if arguments.kinds and kind not in arguments.kinds:
                    continue
                for figure, tally in tallied(simulate, arguments.worlds, pool).items():
                    good = "yes" if holds(figure, tally) else "NO"
                    gains = f"{tally.above / max(tally.printed, 1):.1%}" if "gain" in figure else ""
                    rows.append([system, kind, figure, tally.printed, f"{tally.covered:.1%}", gains, good])
                    figures.append({"system": system, "kind": kind, "figure": figure, **vars(tally)})
                print(f"[{time.time() - began:5.0f} s] {system} {kind}", flush=True)
                failed = [row for row in rows if row[1] == kind and row[-1] == "NO"]
                print(*(" ".join(map(str, row)) for row in failed), sep="\n", end="\n" if failed else "", flush=True)
    header = ["system", "world", "figure", "printed", "covers the truth", "gains above 0", "holds"]
    text = f"{arguments.worlds} logs of each kind; figures not printed are those the program gives a reason for.\n\n"
    failing = sum(row[-1] == "NO" for row in rows)
    covered = np.mean([1 - (each["above"] + each["below"]) / max(each["printed"], 1) for each in figures])
    text += f"{failing} of {len(rows)} figures miss what is asked for; mean coverage {covered:.1%}.\n\n"
    if arguments.write:
        write_result("null-worlds", {"seconds": time.time() - began, "tallies": figures}, text + markdown(header, rows))
    else:
        print(text + markdown(header, rows))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
