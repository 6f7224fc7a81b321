"""Everything once, on a generated log with known truth: log -> training -> scores -> tuned order -> report.

    python -m jobs.demo --out runs/demo                    # under two minutes on two cores
    python -m jobs.demo --out runs/small --rows 200000 --workers 1

Each stage is the command of its own that is printed with it. Run again, it goes on where it stopped.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import evolve, make_data, report, score, train
from jobs.cluster.connect import check_cpus
from jobs.command.call import Place, Result, call
from jobs.command.cli import main
from jobs.command.console import Console
from jobs.run.directory import SUMMARY_FILE, read_json, usable_cpus

PLAIN: dict[str, Any] = {"highlight": False, "soft_wrap": True}
"""How a command is printed: as it can be typed."""


@dataclass
class Arguments:
    out: Path
    """Directory for the log, the runs and the report."""
    rows: int = 1_000_000
    """Exposures to generate."""
    history: int = 0
    """At most so many items that each user clicked before, as a feature that is a list; 0 = no such feature."""
    workers: int = min(2, usable_cpus())
    """Ray workers of the training and of the evolution."""
    seed: int = 0
    """Decides the log, the training and the evolution."""


def run(arguments: Arguments) -> Path:
    """Run all stages and return the path of the report."""
    check_cpus(arguments.workers)
    console = Console()
    out = arguments.out
    log, trained, scored, tuned = (out / name for name in ("log", "train", "scored.parquet", "tuned"))
    workers, seed = arguments.workers, arguments.seed

    def stage(number: int, command: str, *words: object) -> list[str]:
        given = [str(word) for word in words]
        console.print(f"\n[bold]{number}/5[/bold] python -m jobs.{command} {' '.join(given)}", **PLAIN)
        return given

    history = ("--history", arguments.history) if arguments.history else ()
    stage(1, "make_data", "--rows", arguments.rows, *history, "--seed", seed, "--out", log)
    if (log / "schema.json").exists():
        console.print(f"the log is there already: {log}")
    else:
        make_data.run(make_data.MakeData(rows=arguments.rows, history=arguments.history, seed=seed, out=log))
    words = stage(2, "train", "--data", log, "--out", trained, "--workers", workers, "--seed", seed)
    train.run(train.arguments_of(*words))
    stage(3, "score", "--run", trained, "--data", log, "--out", scored)
    if scored.exists():
        console.print(f"the scores are there already: {scored}")
    else:
        score.run(score.Arguments(run=trained, data=str(log), out=scored))
    words = stage(4, "evolve", "--scored", scored, "--out", tuned, "--workers", workers, "--seed", seed)
    evolve.run(evolve.arguments_of(*words))
    stage(5, "report", trained, tuned, "--out", out / "report.html")
    page = report.run(report.Args(runs=[trained, tuned], out=out / "report.html"))
    console.print(
        "\nyour own data: python -m jobs.make_data --source table --input RAW --time COLUMN --out LOG", **PLAIN
    )
    return page


def demo(out: Place, **options: Any) -> Result:
    """Everything once as `python -m jobs.demo` does; returns the page, with the figures of the tuned order
    (docs/notebook.md).

    out: a directory. rows=200_000, workers=0 and so on.
    """

    def result(given: Arguments, page: Path) -> tuple[Path, dict[str, Any]]:
        return page, read_json(given.out / "tuned" / SUMMARY_FILE)

    return call("demo", run, Arguments, {"out": out, **options}, result)


if __name__ == "__main__":
    main(run, Arguments, __doc__ or "", resumes=True)
