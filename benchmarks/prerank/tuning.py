"""Evolution strategies on a pre-ranker's task weights and on the rows drawn of each stage, under a limit of rows.

    python -m benchmarks.prerank.tuning

For each case a run of jobs.evolve --objective prerank on the small cascade's stage log; what it ends with is trained
again from new seeds and judged on the test part, beside where it began: the paper's weights with its share of ranked
rows cut to the limit, and a start that is far from them.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.prerank.ablation import log_of
from jobs import evolve


@dataclass(frozen=True)
class Case:
    """Where a search begins. `share`: of the rows that are not exposed, those that were ranked."""

    name: str
    limit: int
    share: float = 0.2
    exposure: float = 0.1
    click: float = 0.5


CASES = (Case("60", 60), Case("30", 30), Case("30-far", 30, 0.9, 3.0, 5.0))


@dataclass
class Arguments:
    generations: int = 15
    pairs: int = 6
    workers: int = 0
    seed: int = 0
    place: Path = Path("runs/prerank-tuning")


def main(arguments: Arguments) -> None:
    rows, found = [], {}
    for case in CASES:
        ranked = max(int(case.share * (case.limit - 10)), 1)
        cut = case.limit - 10 - ranked
        words = ["--objective", "prerank", "--data", log_of(0, "stages"), "--out", arguments.place / case.name,
                 "--generations", arguments.generations, "--pairs", arguments.pairs, "--workers", arguments.workers,
                 "--seed", arguments.seed, "--sigma", 0.5, "--learning-rate", 0.25, "--limit", case.limit,
                 "--start.ranked", ranked, "--start.cut", cut, "--start.exposure-weight", case.exposure,
                 "--start.click-weight", case.click]  # fmt: skip
        summary = evolve.run(evolve.arguments_of(*map(str, words)))
        found[case.name] = {key: value for key, value in summary.items() if str(key).startswith("prerank.")}
        gain = (f"{summary[f'prerank.gain.asph{end}']:+.2f}" for end in ("", ".low", ".high"))
        rows.append([
            case.limit, f"{ranked} / {cut}", f"{case.exposure:g}, {case.click:g}",
            f"{summary['prerank.start.asph']:.1f}", f"{summary['prerank.ranked']} / {summary['prerank.cut']}",
            f"{summary['prerank.exposure_weight']:.3f}, {summary['prerank.click_weight']:.2f}",
            f"{summary['prerank.tuned.rows']:.0f}", f"{summary['prerank.tuned.asph']:.1f}",
            "{} ({} to {})".format(*gain),
        ])  # fmt: skip
    header = ["limit", "start: RC / PRC", "exposure, click weight", "ASPH@60", "tuned: RC / PRC",
              "exposure, click weight", "rows", "ASPH@60", "gain (95%)"]  # fmt: skip
    text = f"{arguments.generations} generations of {arguments.pairs} pairs; test part, trainings from new seeds.\n\n"
    write_result("prerank-tuning", {"found": found}, text + markdown(header, rows))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
