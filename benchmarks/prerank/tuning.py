"""Evolution strategies on a pre-ranker's task weights and stage quotas, under a limit of rows a request.

    python -m benchmarks.prerank.tuning --limits 60 30

For each limit a run of jobs.evolve --objective prerank on the small cascade's stage log; what it ends with is trained
again from new seeds and judged on the test part, beside the paper's weights and quotas cut to the limit.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.prerank.ablation import log_of
from jobs import evolve


@dataclass
class Arguments:
    limits: tuple[int, ...] = (60, 30)
    """Rows a request; the start draws as many ranked and cut rows as they allow, one to four."""
    generations: int = 15
    pairs: int = 6
    workers: int = 0
    seed: int = 0
    place: Path = Path("runs/prerank-tuning")


def main(arguments: Arguments) -> None:
    rows, found = [], {}
    for limit in arguments.limits:
        ranked = max((limit - 10) // 5, 1)
        words = ("--objective", "prerank", "--data", log_of(0, "stages"), "--out", arguments.place / str(limit),
                 "--generations", arguments.generations, "--pairs", arguments.pairs, "--workers", arguments.workers,
                 "--seed", arguments.seed, "--sigma", 0.5, "--learning-rate", 0.25, "--limit", limit,
                 "--start.ranked", ranked, "--start.cut", limit - 10 - ranked)  # fmt: skip
        summary = evolve.run(evolve.arguments_of(*map(str, words)))
        found[str(limit)] = {key: value for key, value in summary.items() if str(key).startswith("prerank.")}
        gain = (f"{summary[f'prerank.gain.asph{end}']:+.2f}" for end in ("", ".low", ".high"))
        rows.append([
            limit, f"{ranked} / {limit - 10 - ranked}", f"{summary['prerank.start.asph']:.1f}",
            f"{summary['prerank.ranked']} / {summary['prerank.cut']}", f"{summary['prerank.exposure_weight']:.3f}",
            f"{summary['prerank.click_weight']:.2f}", f"{summary['prerank.tuned.rows']:.0f}",
            f"{summary['prerank.tuned.asph']:.1f}", "{} ({} to {})".format(*gain),
        ])  # fmt: skip
    header = ["limit", "start: RC / PRC", "ASPH@60", "tuned: RC / PRC", "exposure weight", "click weight", "rows",
              "ASPH@60", "gain (95%)"]  # fmt: skip
    text = f"{arguments.generations} generations of {arguments.pairs} pairs; test part, trainings from new seeds.\n\n"
    write_result("prerank-tuning", {"found": found}, text + markdown(header, rows))


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
