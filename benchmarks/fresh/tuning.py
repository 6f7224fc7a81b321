"""Evolution strategies against random search and Optuna on the numbers of the fresh slot, at equal episodes.

    python benchmarks/fresh/tuning.py search --method es --seconds 150      # es, random, optuna: again, until done
    python benchmarks/fresh/tuning.py judge --workers 2 --seconds 150       # again, until done
    python benchmarks/fresh/tuning.py pareto --seconds 150                  # CMA-ES again at other prices of dwell
    python benchmarks/fresh/tuning.py table
    OMP_NUM_THREADS=1 python benchmarks/fresh/tuning.py efficiency          # alone on the machine

Every method has the same EPISODES evaluations in the same 16 worlds and begins at the paper's setting (p .8, n_low 4,
q .4). What it ends with is judged in 16 worlds that no method has seen, against the paper's setting in the same worlds.
"""

import argparse
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import markdown, write_result
from benchmarks.fresh.worlds import until_done
from data.errors import Stopped
from es import engine
from es.config import ESConfig
from funnel.fresh.tuning import CORPUS, DUIC, DWELL, FreshObjective, FreshTuning, FreshTuningSettings
from funnel.platform.episodes import interval
from funnel.settings import plain

PLACE = Path("runs/fresh-tuning")
GENERATIONS, PAIRS = 12, 5
EPISODES = 2 * GENERATIONS * PAIRS
SPREAD = 1.0
"""Standard deviation of random search's theta, about as far as evolution strategies go."""
PENALTIES = (0.0, 10.0, 50.0)
"""Prices of dwell beside the default's, for the front."""
SETTINGS = FreshTuningSettings()
EFFICIENCY = "CPU seconds of an evaluation in this process / in a worker * (1 - idle share)"
METHODS = ("es", "es, wider", "cma", "random", "optuna")
EVOLVED: dict[str, dict[str, Any]] = {
    "es": {"sigma": 0.5, "learning_rate": 0.25},
    "es, wider": {"sigma": 1.0, "learning_rate": 0.5},
    "cma": {"algorithm": "cma", "sigma": 1.0},
}
"""Settings of the engine by method. The first were written down before any search; the others were added when Optuna,
which looks three spreads around the start from the first episode on, had gone further than the first."""


def config(workers: int = 0, method: str = "es") -> ESConfig:
    return ESConfig(
        generations=GENERATIONS, pairs=PAIRS, centre_every=0, checkpoint_every=1, workers=workers, **EVOLVED[method]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("search", "pareto", "judge", "table", "efficiency"))
    parser.add_argument("--method", choices=METHODS, default="es")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--name", default="fresh-tuning", help="of the table's result files")
    parser.add_argument("--seconds", type=float, default=150.0)
    given = parser.parse_args()
    until = time.time() + given.seconds
    if given.what == "search":
        until_done(lambda: search(given.method, SETTINGS, until))
    elif given.what == "pareto":
        until_done(lambda: all(search("cma", priced(price), until, f"cma {price:g}") for price in PENALTIES))
    elif given.what == "judge":
        until_done(lambda: judge(given.workers, until))
    elif given.what == "table":
        table(given.name)
    else:
        efficiency()


def priced(price: float) -> FreshTuningSettings:
    return dataclasses.replace(SETTINGS, penalty=price)


def search(method: str, settings: FreshTuningSettings, until: float, name: str = "") -> bool:
    """Go on with a search until then; whether it has its theta."""
    found = PLACE / f"{name or method}.json"
    if found.exists():
        return True
    PLACE.mkdir(parents=True, exist_ok=True)
    objective = FreshObjective(settings)
    if method in EVOLVED:
        try:
            place, settled = PLACE / (name or method), config(method=method)
            result = engine.run(objective, settled, place, stopping=lambda: time.time() > until)
        except Stopped:
            return False
        theta_D = result.theta
    else:
        tried = one_by_one(method, objective, PLACE / f"{method}.jsonl", until)
        if len(tried) < EPISODES:
            return False
        theta_D = np.array(max(tried, key=lambda one: one["return"])["theta"], np.float32)
    found.write_text(json.dumps(theta_D.tolist()))
    return True


def one_by_one(method: str, objective: FreshObjective, path: Path, until: float) -> list[dict[str, Any]]:
    """Evaluations so far, in order, each in the next world; a search that goes on tells Optuna of them again."""
    tried = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    ask, tell = PROPOSE[method](objective.knobs.dimension)
    for one in tried:
        tell(ask(), one)
    with path.open("a") as file:
        while len(tried) < EPISODES and time.time() < until:
            asked = ask()
            theta_D = np.array(asked["theta"], np.float32)
            value = float(objective.evaluate_batch(theta_D[None], np.array([len(tried)], np.uint64))[0])
            tried.append({"theta": asked["theta"], "return": value})
            tell(asked, tried[-1])
            file.write(json.dumps(tried[-1]) + "\n")
            file.flush()
    return tried


Ask = Callable[[], dict[str, Any]]
Tell = Callable[[dict[str, Any], dict[str, Any]], None]


def random_search(dimension: int) -> tuple[Ask, Tell]:
    """The start first, then normal draws around it."""
    rng, count = np.random.default_rng(0), 0

    def ask() -> dict[str, Any]:
        nonlocal count
        drawn = rng.normal(0, SPREAD, dimension) if count else np.zeros(dimension)
        count += 1
        return {"theta": drawn.tolist()}

    return ask, lambda asked, one: None


def optuna_search(dimension: int) -> tuple[Ask, Tell]:
    """Optuna's TPE over three spreads around the start, which is its first trial."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0, multivariate=True))
    names = [f"theta_{d:02d}" for d in range(dimension)]
    study.enqueue_trial(dict.fromkeys(names, 0.0))

    def ask() -> dict[str, Any]:
        trial = study.ask()
        return {"theta": [trial.suggest_float(name, -3 * SPREAD, 3 * SPREAD) for name in names], "trial": trial}

    def tell(asked: dict[str, Any], one: dict[str, Any]) -> None:
        study.tell(asked["trial"], one["return"])

    return ask, tell


PROPOSE: dict[str, Callable[[int], tuple[Ask, Tell]]] = {"random": random_search, "optuna": optuna_search}


def policies() -> dict[str, Any]:
    """What is judged, by name: the paper's setting and what the searches ended with."""
    objective = FreshObjective(SETTINGS)
    found = {"paper": {"slot": {"kind": "fresh", **plain(SETTINGS.start)}}}
    # Read to the letter, q replaces p: core users ask the real-time nominator with probability q, all others never.
    found["paper, q alone"] = {"slot": {"kind": "fresh", **plain(dataclasses.replace(SETTINGS.start, p=1.0))}}
    for name in (*METHODS, *(f"cma {price:g}" for price in PENALTIES)):
        if (PLACE / f"{name}.json").exists():
            theta_D = np.array(json.loads((PLACE / f"{name}.json").read_text()), np.float32)
            found[name] = objective.tree(theta_D)
    return found


def judge(workers: int, until: float) -> bool:
    """Every policy in every world held out; whether all is there."""
    path, known = PLACE / "judged.jsonl", policies()
    there = {(one["policy"], one["world"]) for one in judged()}
    numbers = FreshTuning(SETTINGS, 0).numbers("test")
    todo = [(n, {name: tree for name, tree in known.items() if (name, n) not in there}, until) for n in numbers]
    with ProcessPoolExecutor(workers, get_context("fork")) as pool, path.open("a") as file:
        for done in as_completed([pool.submit(in_world, *task) for task in todo if task[1]]):
            for line in done.result():
                file.write(json.dumps(line) + "\n")
                file.flush()
    there = {(one["policy"], one["world"]) for one in judged()}
    return all((name, number) in there for name in known for number in numbers)


def in_world(number: int, trees: dict[str, Any], until: float) -> list[dict[str, Any]]:
    episodes, lines = FreshObjective(SETTINGS).episodes, []
    for name, tree in trees.items():
        if time.time() > until:
            break
        lines.append({"policy": name, "world": number, "change": dict(episodes.changes(tree, number))})
    return lines


def judged() -> list[dict[str, Any]]:
    path = PLACE / "judged.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(name_of_results: str) -> None:
    objective, known = FreshObjective(SETTINGS), policies()
    by = {(one["policy"], one["world"]): one["change"] for one in judged()}
    worlds = [number for number in sorted({world for _, world in by}) if all((name, number) in by for name in known)]
    rows, figures = [], {}
    for name in known:
        worth = [objective.worth(by[name, number]) for number in worlds]
        gain = [one - objective.worth(by["paper", number]) for one, number in zip(worth, worlds, strict=True)]
        shown = {key: interval(by[name, number][key] for number in worlds) for key in (CORPUS, DUIC, DWELL)}
        figures[name] = {"return": vars(interval(worth)), "gain": vars(interval(gain))}
        figures[name] |= {key: vars(value) for key, value in shown.items()}
        label = f"{name} (price of dwell)" if name.startswith("cma ") else name
        rows.append([label, interval(worth), "" if name == "paper" else interval(gain), *shown.values()])
    text = f"{EPISODES} episodes each; {len(worlds)} worlds held out; percent of the same world without a slot.\n\n"
    text += markdown(["policy", "return", "above the paper's", f"{CORPUS}", f"{DUIC}", f"{DWELL}"], rows)
    keys = ("rate", "p", "q", "n_low", "n_grad", "temperature", "prior_strength", "idf_power", "nominees", "kept",
            "first", "max_age")  # fmt: skip
    numbers = [[name, *(f"{tree['slot'][key]:.3g}" for key in keys)] for name, tree in known.items()]
    text += "\n" + markdown(["policy", *keys], numbers)
    write_result(name_of_results, {"judged": figures, "policies": known, "settings": plain(SETTINGS)}, text)


@dataclasses.dataclass
class Warm(FreshObjective):
    """The objective in worlds that every process begins before it is timed; `notes` gets the CPU seconds of each call,
    a line of CANDIDATES SECONDS."""

    notes: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        for number in range(self.settings.worlds):
            self.episodes.base(number)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "notes": self.notes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.notes = state["notes"]
        super().__setstate__(state)

    def evaluate_batch(self, theta_PD: np.ndarray, seeds_P: np.ndarray) -> np.ndarray:
        begun = time.process_time()
        found = super().evaluate_batch(theta_PD, seeds_P)
        with open(self.notes, "a") as file:
            file.write(f"{len(theta_PD)} {time.process_time() - begun}\n")
        return found


def efficiency() -> None:
    """What the engine makes of 1 and 2 workers, against the same evaluations in this process (workers=0: the same
    candidates in the same worlds; what an evaluation costs depends on the candidate).

        efficiency = CPU seconds of an evaluation here / in a worker * (1 - idle)

    idle: share of the workers' time in which they evaluate nothing, as the engine counts it. So said it is the engine's
    own loss, whatever else the machine does: by the clock other processes would count, all the more as Ray runs its
    workers at nice 15. One thread each: without OMP_NUM_THREADS=1 this process would use two cores (Ray gives a worker
    one). The first generation, in which workers start and begin their worlds, does not count.
    """
    if os.environ.get("OMP_NUM_THREADS") != "1":
        raise SystemExit("give OMP_NUM_THREADS=1: with more threads the plain loop would be given more than one core")
    settings = dataclasses.replace(SETTINGS, worlds=2, per_evaluation=2)
    cpu_s: dict[int, list[float]] = {0: [], 1: [], 2: []}
    clock_s: dict[int, list[float]] = {0: [], 1: [], 2: []}
    idle: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as place:
        for turn, workers in enumerate((0, 1, 2, 0)):
            notes = Path(place) / str(turn)
            chosen = ESConfig(generations=3, pairs=4, sigma=0.3, centre_every=0, workers=workers)
            history = engine.run(Warm(settings, str(notes)), chosen).history[1:]
            lines = [line.split() for line in notes.read_text().splitlines()]
            # Calls of the first generation and, last, of theta itself are left out.
            counted = [(int(count), float(seconds)) for count, seconds in lines][chosen.pairs : 3 * chosen.pairs]
            evaluations = sum(count for count, _ in counted)
            cpu_s[workers].append(sum(seconds for _, seconds in counted) / evaluations)
            clock_s[workers].append(sum(one["seconds"] for one in history) * max(workers, 1) / evaluations)
            if workers:
                idle[workers] += [one["idle_share"] for one in history]
    here, by_clock = float(np.mean(cpu_s[0])), float(np.mean(clock_s[0]))
    spans = [f"{np.mean(found):.3f} ({min(found):.3f} to {max(found):.3f})" for found in (cpu_s[0], clock_s[0])]
    rows = [["in this process", *spans, "", "", ""]]
    for workers in (1, 2):
        own, clock, share = cpu_s[workers][0], clock_s[workers][0], float(np.mean(idle[workers]))
        found = [f"{own:.3f}", f"{clock:.3f}", f"{100 * share:.2f}%"]
        rows.append(
            [f"{workers} workers", *found, f"{100 * here / own * (1 - share):.1f}%", f"{100 * by_clock / clock:.1f}%"]
        )
    text = f"Evaluations of {here:.1f} CPU s each, 16 a run. Efficiency: {EFFICIENCY}; by the clock: seconds of an "
    text += "evaluation in this process / seconds of all workers for one.\n\n"
    header = ["who", "CPU s an evaluation", "seconds of a worker", "idle", "efficiency", "by the clock"]
    text += markdown(header, rows)
    write_result("fresh-efficiency", {"cpu_s": cpu_s, "clock_s": clock_s, "idle": idle}, text)


if __name__ == "__main__":
    main()
