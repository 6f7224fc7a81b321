"""Maximise by evolution strategies: how the scores of a funnel are fused, or any other objective.

    python -m jobs.evolve --scored runs/scored.parquet --out runs/fusion
    python -m jobs.evolve --scored runs/scored.parquet --out runs/sum --fusion sum --metric ndcg --k 5
    python -m jobs.evolve --scored runs/scored.parquet --out runs/quick --workers 0     # this process, no Ray
    python -m jobs.evolve --objective rosenbrock --set dimension=20 --out runs/banana --generations 500
    python -m jobs.evolve --objective my/objective.py:Mine --set width=3 --out runs/mine
    python -m jobs.evolve --objective off_policy --set data=log.parquet features=age,town --out runs/policy
    python -m jobs.evolve --scored new.parquet --start-from runs/fusion --out runs/next   # from its theta
    python -m jobs.evolve --resume runs/fusion                # as the command that started it would, given again
    python -m jobs.evolve --replay runs/fusion                # theta again, from the seed and the returns alone

Score fusion: half of the users are tuned on, the other half tell whether it helped; results are in OUT/summary.json,
the tuned policy in OUT/policy.json. The same command again continues a run that was stopped (with any number of
workers: the result is the same to the bit), or says that it is finished. SIGTERM and Ctrl-C stop a run without loss,
with exit code 143 or 130. A replay exits with code 1 if a bit differs.
"""

from pathlib import Path
from typing import Any

from rich.console import Console

from es.replay import replay_run
from jobs.command.preset_file import asked_for, fill_evolve
from jobs.evolve.evolution import Arguments
from jobs.evolve.evolve_fusion import run_fusion
from jobs.evolve.evolve_objective import run_objective
from jobs.run.directory import RUN_FILE, read_json

DIFFERENT = 1


def run(arguments: Arguments) -> dict[str, Any]:
    """Tune to the end and return summary.json as a dict (of a replay: what it found)."""
    console = Console()
    if arguments.replay is not None:
        return prove(arguments.replay.expanduser().absolute(), console)
    if arguments.resume is not None:
        arguments = resumed(arguments)
    arguments = fill_evolve(arguments, *asked_for("evolve", arguments.config, arguments.preset))
    if arguments.objective != "score_fusion":
        return run_objective(arguments, console)
    if arguments.out is None:
        raise ValueError("--out DIR is needed: the run directory")
    return run_fusion(arguments, console)


def resumed(given: Arguments) -> Arguments:
    """The options a run was started with; only --workers may be given anew."""
    assert given.resume is not None
    out = given.resume.expanduser().absolute()
    kept = read_json(out / RUN_FILE).get("arguments")
    if not isinstance(kept, dict):
        raise ValueError(f"--resume {out}: its {RUN_FILE} is not of jobs.evolve")
    if given.workers != Arguments.workers:
        kept["workers"] = given.workers
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in kept.items()}
    values |= {key: Path(values[key]) for key in ("scored", "judge", "start_from") if values.get(key)}
    try:
        arguments = Arguments(**values, out=out)
    except TypeError as error:
        raise ValueError(f"--resume {out}: its {RUN_FILE} has options this version does not know ({error})") from None
    return arguments


def prove(run: Path, console: Console) -> dict[str, Any]:
    """Replay a run; print whether every bit is equal, and exit with code 1 if not."""
    found = replay_run(run)
    verdict = found.difference or "equal to the checkpoint in every bit of theta and of the optimizer"
    console.print(f"{found.generations} generations replayed from seed and returns: {verdict}", soft_wrap=True)
    if found.difference:
        raise SystemExit(DIFFERENT)
    return {"generations": found.generations, "equal": True}
