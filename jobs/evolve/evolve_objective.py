"""Any objective of the library, or one of the user's own in a file, run by name with its dataclass of settings.

`off_policy` reads the log it needs (funnel/off_policy/tuning.py) and is judged on rounds held out.
"""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import ray.cloudpickle
from rich.console import Console

from es.objectives.base import Objective
from es.objectives.registry import build, find
from funnel.off_policy.tuning import learnable
from jobs.command.settings import read_settings
from jobs.evolve.evolution import (
    MAY_CHANGE,
    Arguments,
    configure,
    engine_figures,
    engine_settings,
    evolve,
    places,
    start,
)
from jobs.run.directory import SUMMARY_FILE, RunState, inspect_run, read_json, write_json
from jobs.run.start_from import begins_with, theta_to_start_from
from jobs.run.tracking import tracked

KIND = "evolve_objective"
POLICY_FILE = "policy.json"


def run_objective(arguments: Arguments, console: Console) -> dict[str, Any]:
    """Maximise to the end and return summary.json as a dict."""
    if arguments.out is None:
        raise ValueError("--out DIR is needed: the run directory")
    if arguments.scored is not None:
        raise ValueError(f"--scored is for score fusion, not for --objective {arguments.objective}")
    if arguments.judge is not None:
        raise ValueError(f"--judge is for score fusion, not for --objective {arguments.objective}")
    out = arguments.out.expanduser().absolute()
    config = configure(arguments)
    learnt = learnable(arguments.set, arguments.seed) if arguments.objective == "off_policy" else None
    objective = learnt.objective if learnt else make(arguments.objective, arguments.set)
    described = json.loads(json.dumps(objective.describe()))
    settings = {"objective": arguments.objective, "settings": described, **engine_settings(config, arguments)}
    state = inspect_run(out, KIND, settings, may_change=MAY_CHANGE)
    if state is RunState.DONE:
        summary = read_json(out / SUMMARY_FILE)
        console.print(f"{out} is finished already:", soft_wrap=True)
    else:
        begin = theta_to_start_from(arguments.start_from, objective, KIND, out) if arguments.start_from else None
        if state is RunState.NEW:
            start(out, KIND, settings, arguments, {**(learnt.facts() if learnt else {}), **begins_with(begin)})
        verb = "Continuing" if state is RunState.RESUME else "Maximising"
        numbers = len(objective.initial())
        console.print(
            f"{verb} {arguments.objective}, {numbers:,} parameters, in {places(config.workers)}", soft_wrap=True
        )
        with tracked(out):
            result = evolve(objective, config, out, console, begin)
            summary = engine_figures(result, config)
            if learnt:
                write_json(out / POLICY_FILE, learnt.policy(result.theta))
                summary = learnt.judge(result.theta, arguments.resamples, arguments.seed) | summary
            write_json(out / SUMMARY_FILE, summary)
    console.print(
        f"return {summary['es.final_return']} after {summary['es.generations']} generations, "
        f"{summary['es.evaluations']:,} evaluations, {summary['es.evaluations_per_s']:,.0f} a second",
        soft_wrap=True,
    )
    if message := summary.get("off_policy.message"):
        console.print(message, soft_wrap=True)
    console.print(f"run: {out}", soft_wrap=True)
    return summary


def make(name: str, assignments: tuple[str, ...]) -> Objective:
    """The objective with its settings; ValueError for an unknown name or key, or a value of another type."""
    path, colon, attribute = name.rpartition(":")
    if colon and path.endswith(".py"):
        name = f"{load_file(Path(path))}:{attribute}"
    entry = find(name)
    if entry.data is not None:
        raise ValueError(
            f"--objective {name} needs data ({entry.data.__name__}): build it in Python and call es.engine"
        )
    values = read_settings(entry.settings, assignments, "--set")
    needed = [
        field.name
        for field in dataclasses.fields(entry.settings)
        if field.init and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing := [key for key in needed if key not in values]:
        raise ValueError(f"--set {missing[0]}=... is needed for --objective {name}")
    return build(name, **values)


def load_file(path: Path) -> str:
    """Import a file as a module that travels to workers whole (they cannot import it); return the module's name."""
    if not path.is_file():
        raise ValueError(f"--objective {path}: no such file")
    name = f"objective_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"--objective {path}: {type(error).__name__}: {error}") from error
    ray.cloudpickle.register_pickle_by_value(module)
    return name
