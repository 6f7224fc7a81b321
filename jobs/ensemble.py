"""Train one model for each fold of users, without that fold: an ensemble that weighs rows it has not seen.

    python -m jobs.ensemble --data runs/log --out runs/clicks --folds 3 --preset clicks --model.crossing fm
    python -m jobs.train    --data runs/log --out runs/ips --given propensities=runs/clicks

OUT/fold-1 .. OUT/fold-K are training runs as jobs.train makes them (`leave_out` is 1/K .. K/K), trained side by side as
Ray tasks of one CPU each, or one after the other in this process with --workers 0. The same command again continues
those that are not finished. --given ROLE=OUT gives all of them; its options are those of jobs.train.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data.errors import UserError
from data.filesystems import in_process
from distributed.config import TrainConfig
from funnel.registry import DEFAULT_PROBLEM, find_problem
from funnel.settings import fields
from jobs import train as training
from jobs.cluster.connect import check_cpus, connect
from jobs.command.call import Place, Result, call
from jobs.command.cli import glance, main, parse, with_settings
from jobs.command.console import Console
from jobs.command.preset import apply, find_preset
from jobs.run.start_from import FOLDS

FEWEST = 2


@dataclass
class Arguments(training.Arguments):
    folds: int = 3
    """Models to train, each without the rows of one in so many users."""


def options(words: Sequence[str]) -> type:
    """Those of jobs.train, and the number of folds."""
    first = glance(words, problem=DEFAULT_PROBLEM, preset="")
    kind = find_problem(first["problem"])
    config, settings = apply(*find_preset(first["preset"], kind.presets, "train"), TrainConfig(), kind.settings_type())
    return with_settings(Arguments, config=config, settings=settings)


def arguments_of(*words: str) -> Arguments:
    """What the command line would give; raises UserError for an unknown option."""
    parsed: Arguments = parse(options, words)
    return parsed


def run(arguments: Arguments) -> dict[str, Any]:
    """Train all of them; {"fold-1": figures of its summary.json, ...}."""
    members = [member(arguments, fold) for fold in range(1, arguments.folds + 1)]
    together = min(arguments.workers, len(members))
    for one in members if together else ():  # what a training would refuse is refused before any cluster
        training.check(one, data=one is members[0])
    if not together:
        found = [training.run(one) for one in members]
    else:
        check_cpus(together)
        if in_process(arguments.data):
            raise UserError(
                f"--data {arguments.data} lies in this process's memory, where no task sees it: --workers 0"
            )
        found = side_by_side(members, together)
    Console().print(f"ensemble: {arguments.out}  (--given ROLE={arguments.out})", soft_wrap=True)
    return {one.out.name: figures for one, figures in zip(members, found, strict=True)}


def member(arguments: Arguments, fold: int) -> training.Arguments:
    """The training without this fold. Raises UserError for a problem that cannot leave one out."""
    kind = find_problem(arguments.problem)
    settings = kind.settings_type() if arguments.settings is None else arguments.settings
    if "leave_out" not in fields(kind.settings_type):
        raise UserError(f"--problem {arguments.problem}: cannot leave out a fold of users")
    if arguments.folds < FEWEST:
        raise UserError(f"--folds must be at least {FEWEST}, got {arguments.folds}")
    most = max((1 + sum(other.startswith(f"{name}-") for other in kind.roles) for name in kind.roles), default=FEWEST)
    if arguments.folds > most:
        raise UserError(f"--folds is {arguments.folds}, but --given takes {most} runs of a role at most")
    own = {entry.name: getattr(arguments, entry.name) for entry in dataclasses.fields(training.Arguments)}
    own |= {"settings": dataclasses.replace(settings, leave_out=f"{fold}/{arguments.folds}")}
    return training.Arguments(**{**own, "out": arguments.out / f"{FOLDS}{fold}", "workers": 0, "min_workers": None})


def side_by_side(members: Sequence[training.Arguments], together: int) -> list[dict[str, Any]]:
    """Summaries of trainings that run as Ray tasks, `together` at a time."""
    connect(together)
    import ray
    from ray.exceptions import RayTaskError

    task = ray.remote(num_cpus=1, max_retries=3)(trained)
    waiting, running, found = list(members), dict[Any, int](), dict[int, dict[str, Any]]()
    while waiting or running:
        while waiting and len(running) < together:
            running[task.remote(waiting[0])] = len(members) - len(waiting)
            waiting.pop(0)
        (ready,), _ = ray.wait(list(running), num_returns=1)
        try:
            number = running.pop(ready)
            found[number] = ray.get(ready)
        except RayTaskError as error:
            if isinstance(error.cause, UserError):
                raise UserError(str(error.cause)) from error
            raise
        Console().print(f"trained {members[number].out}", soft_wrap=True)
    return [found[number] for number in range(len(members))]


def trained(arguments: training.Arguments) -> dict[str, Any]:
    """In a task: the training, or what is left of it where the task begins a second time."""
    import torch

    torch.set_num_threads(1)
    return training.run(arguments)


def ensemble(data: Place, out: Place, **options_: Any) -> Result:
    """Train an ensemble as `python -m jobs.ensemble` does; give its result to `train` as given={"propensities": .}.

    data: the log; out: the directory of the runs. Every option of the command is a keyword: folds=3, preset="clicks".
    """
    return call(
        "ensemble", run, options, {"data": data, "out": out, **options_}, lambda given, found: (given.out, found)
    )


def following(arguments: Arguments) -> tuple[object, ...]:
    """The training that it is for."""
    out = arguments.out.with_name(f"{arguments.out.name}_weighed")
    return ("train", "--data", arguments.data, "--out", out, "--given", f"propensities={arguments.out}")


if __name__ == "__main__":
    main(run, options, __doc__ or "", resumes=True, then=following)
