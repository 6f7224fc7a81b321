"""Tune by evolution strategies: how the scores of a funnel are ordered by, or any other objective.

    python -m jobs.evolve --scored runs/scored.parquet --out runs/tuned
    python -m jobs.evolve --scored runs/scored.parquet --out runs/ndcg --metric ndcg --k 5
    python -m jobs.evolve --scored runs/scored.parquet --out runs/quick --workers 0     # this process, no Ray
    python -m jobs.evolve --objective rosenbrock --dimension 20 --out runs/banana --generations 500
    python -m jobs.evolve --objective my/objective.py:Mine --width 3 --out runs/mine
    python -m jobs.evolve --scored new.parquet --start-from runs/tuned --out runs/next   # from its theta
    python -m jobs.evolve --resume runs/tuned                # as the command that started it would, given again
    python -m jobs.evolve --replay runs/tuned                # theta again, from the seed and the returns alone

`--objective NAME --help` shows the options of that objective. One with data is tuned on one half of them and judged on
the other: results are in OUT/summary.json, the tuned policy in OUT/policy.json. The same command again continues a run
that was stopped (with any number of workers: the result is the same to the bit), or says that it is finished. SIGTERM
and Ctrl-C stop a run without loss, with exit code 143 or 130. A replay exits with code 1 if a bit differs.
"""

from pathlib import Path
from typing import Any

from es.replay import replay_run
from jobs.command.call import Place, Result, call
from jobs.command.console import Console
from jobs.evolve.conduct import conduct
from jobs.evolve.options import Arguments as Arguments
from jobs.evolve.options import arguments_of as arguments_of
from jobs.evolve.options import options as options

DIFFERENT = 1


def run(arguments: Arguments) -> dict[str, Any]:
    """Tune to the end and return summary.json as a dict (of a replay: what it found)."""
    console = Console()
    if arguments.replay is not None:
        return replayed(arguments.replay, console)
    if arguments.resume is not None and arguments.out is None:
        arguments = arguments_of("--resume", arguments.resume)
    return conduct(arguments, console)


def evolve(out: Place | None = None, **options_: Any) -> Result:
    """Tune as `python -m jobs.evolve` does; returns the run with its figures (docs/notebook.md).

    out: the run directory. scored=FILE of `score`, or objective="my/objective.py:Mine" with its settings; workers=0,
    generations=100 and so on. resume=RUN and replay=RUN need nothing else.
    """

    def result(given: Arguments, summary: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
        place = given.replay or given.out or given.resume
        assert place is not None
        return place, summary

    return call("evolve", run, options, {"out": out, **options_}, result)


def replayed(run: Path, console: Console) -> dict[str, Any]:
    """Replay a run; print whether every bit is equal, and exit with code 1 if not."""
    found = replay_run(run)
    result = found.difference or "equal to the checkpoint in every bit of theta and of the optimizer"
    console.print(f"{found.generations} generations replayed from seed and returns: {result}", soft_wrap=True)
    if found.difference:
        raise SystemExit(DIFFERENT)
    return {"generations": found.generations, "equal": True}
