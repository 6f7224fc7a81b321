"""Policies on the simplex: forest, evolution on a model, on doubly robust estimates and on the simulator, and rivals.

    python -m benchmarks.exposure.policies                                            # the paper's simulation, 5 seeds
    python -m benchmarks.exposure.policies --views kuairec_dense/log.parquet          # the semi-synthetic recipe

Value is the true one; regret is against the best shares (MR) and MTSE their squared distance. All learn from the train
part, a tenth of the rows judges. On views a seed draws the clusters' optima and the noise anew.
"""

import contextlib
import dataclasses
import io
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.exposure.pieces import Pieces
from benchmarks.exposure.rivals import ceiling, dml, dose_networks, joint, outcome_argmax
from data.log import open_log
from funnel.exposure.figures import main_regret, treatment_error
from funnel.exposure.forest import ForestSettings, MDP2Forest
from funnel.exposure.logs import ShareLog, ShareLogs, ShareWorld, by_user, of_views
from funnel.exposure.outcome import OutcomeModel, OutcomeSettings
from funnel.exposure.reading import read_shares, rows_of
from funnel.exposure.semisynthetic import Response
from funnel.exposure.shares import ShareRows
from funnel.exposure.simulation import best_shares, value
from funnel.exposure.watched import WatchedSettings
from jobs import evolve

ALL = 250
"""More features than there are: all of them."""
FORESTS: dict[str, dict[str, object]] = {
    "points": {"leaves": "points"},
    "points, soft .1": {"leaves": "points", "soft": 0.1},
    "additive": {"leaves": "additive"},
    "additive, splits by slopes, all features": {"leaves": "additive", "splits": "slopes", "features_tried": ALL},
    "additive, splits by points, all features": {"leaves": "additive", "splits": "points", "features_tried": ALL},
}
EVOLUTIONS: dict[str, tuple[object, ...]] = {
    "evolution on an outcome model, network": ("--estimate", "model"),
    "evolution on an outcome model, linear": ("--estimate", "model", "--hidden", 0),
    "evolution on doubly robust estimates, network": ("--estimate", "doubly_robust"),
    "evolution on doubly robust estimates, linear": ("--estimate", "doubly_robust", "--hidden", 0),
}
FREE = ("logging policy", "uniform", "the log's mean shares", "best constant (knows the truth)")
ON_SIMULATOR: dict[str, tuple[object, ...]] = {
    "evolution on the simulator, network": ("--estimate", "simulator"),
    "evolution on the simulator, linear": ("--estimate", "simulator", "--hidden", 0),
}


@dataclass
class Options:
    seeds: int = 5
    first: int = 100
    views: Path | None = None
    users: int = 0
    """views: so many users drawn between the real ones; 0: the real ones."""
    noise: float = 0.0
    rows: int = 50_000
    generations: int = 1000
    """Of an evolution, with the preset `thorough`. A linear policy gets a quarter, and half of the pairs; on doubly
    robust estimates, which cost twenty times as much, a third, and half of the pairs."""
    cache: Path | None = None
    """File that keeps results: the same command again goes on."""
    seconds: float = 1e9
    """CPU-seconds after which no new policy is begun."""
    only: str = ""
    """Compute those alone whose name begins so, of the others what is there already."""
    networks: bool = True
    """DRNet and VCNet one category at a time, which cost most."""


class World:
    """A seed's rows: what is learnt from, what judges, and the true value of shares for the users that judge."""

    def __init__(self, options: Options, seed: int, folder: Path) -> None:
        self.log, self.folder = folder / f"log-{seed}", folder
        settings = ShareWorld(noise=options.noise)
        if options.views:
            watched = WatchedSettings(users=options.users)
            settings = dataclasses.replace(settings, kind="views", views=options.views, watched=watched)
        ShareLogs.write(settings, ShareLog(options.rows, seed), {}, "", self.log)
        log = open_log(self.log)
        assert log.schema.treatment is not None
        self.train, self.test = (
            rows_of(read_shares(log, part), log.schema.numeric, log.schema.treatment.vector)
            for part in ("train", "test")
        )
        self.response: Response | None = None
        if options.views:  # the same draws once more, for the response itself
            rows, response = of_views(options.views, settings, seed)
            order = by_user(rows.features_RF, seed)
            cluster_R = response.cluster_R[order]
            self.response, self.cluster_U = response, cluster_R[round(0.9 * len(rows)) :]
            self.cluster_R = cluster_R[: len(self.train)]

    def figures(self, shares_UK: np.ndarray) -> tuple[float, float]:
        best_UK = self.test.best_RK
        assert best_UK is not None
        if self.response is not None:
            height_U = self.response.height_C[self.cluster_U]
            given_U = self.response.value(shares_UK, self.cluster_U)
            return main_regret(height_U, given_U), treatment_error(best_UK, shares_UK)
        exact_UK = best_shares(self.test.features_RF)
        return main_regret(value(exact_UK, exact_UK), value(shares_UK, exact_UK)), treatment_error(exact_UK, shares_UK)


def evolved(world: World, options: Options, seed: int, words: tuple[object, ...]) -> np.ndarray:
    """What `jobs.evolve --objective exposure` gives the users that judge, from its policy.json."""
    out = world.folder / f"run-{seed}-{'-'.join(map(str, words)).strip('-')}"
    linear, robust = "--hidden" in words, "doubly_robust" in words
    generations = options.generations // (4 if linear else 1) // (3 if robust else 1)
    size = ("--preset", "thorough", "--generations", generations, *(("--pairs", 32) if linear or robust else ()))
    given = evolve.arguments_of("--objective", "exposure", *words, "--seed", seed, "--workers", 0, "--out", out, *size)
    with contextlib.redirect_stdout(io.StringIO()):
        evolve.run(given)
    policy = json.loads((out / "policy.json").read_text())
    x_UF = np.nan_to_num((world.test.features_RF - policy["mean"]) / policy["scale"]).clip(-10, 10)
    for number, layer in enumerate(policy["layers"]):
        x_UF = x_UF @ np.array(layer[:-1]) + layer[-1]
        if number < len(policy["layers"]) - 1:
            x_UF = np.tanh(x_UF)
    odds = np.array(policy["start"]) * np.exp(x_UF - x_UF.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def policies(world: World, options: Options, seed: int) -> dict[str, Callable[[], np.ndarray]]:
    """What gives the users that judge their shares, by name."""
    train, test, x_UF = world.train, world.test, world.test.features_RF
    users, mean_K, best_RK = len(test), world.train.shares_RK.mean(axis=0), world.train.best_RK
    assert best_RK is not None
    found: dict[str, Callable[[], np.ndarray]] = {
        "logging policy": lambda: test.shares_RK,
        "uniform": lambda: np.full((users, len(mean_K)), 1 / len(mean_K)),
        "the log's mean shares": lambda: np.tile(mean_K, (users, 1)),
        "best constant (knows the truth)": lambda: np.tile(best_RK.mean(axis=0), (users, 1)),
    }
    for name, more in FORESTS.items():
        settings = ForestSettings(**more)  # type: ignore[arg-type]
        found[f"forest, {name}"] = partial(forest_shares, settings, train, x_UF, seed)
        if world.response is not None:  # what is lost in finding groups
            groups = np.eye(len(world.response.best_CK))
            rows = dataclasses.replace(
                train, features_RF=groups[world.cluster_R], feature_names=tuple(map(str, range(len(groups))))
            )
            settings = ForestSettings(depth=7, trees=5, **more)  # type: ignore[arg-type]
            found[f"true clusters as features, {name}"] = partial(
                forest_shares, settings, rows, groups[world.cluster_U], seed
            )
    found["DML, one category at a time"] = partial(dml, train, x_UF, seed)
    found["outcome model, best shares of each user"] = partial(model_shares, train, x_UF, mean_K, seed)
    found["joint network with an overlap constraint"] = partial(joint, world.log, x_UF, seed)
    for name, words in EVOLUTIONS.items():
        found[name] = partial(evolved, world, options, seed, ("--data", world.log, *words))
    if world.response is None:
        for name, words in ON_SIMULATOR.items():
            found[name] = partial(evolved, world, options, seed, words)
        for name, hidden in (("network", 24), ("linear", 0)):
            found[f"gradient on the simulator, {name}: its class's ceiling"] = partial(
                ceiling, train, x_UF, hidden, seed
            )
    if options.networks:
        found["DRNet, one category at a time"] = partial(dose_networks, "drnet", world.log, train, x_UF, seed)
        found["VCNet, one category at a time"] = partial(dose_networks, "vcnet", world.log, train, x_UF, seed)
    return found


def forest_shares(settings: ForestSettings, train: ShareRows, features_UF: np.ndarray, seed: int) -> np.ndarray:
    tried = min(settings.features_tried, len(train.feature_names))
    return MDP2Forest(dataclasses.replace(settings, features_tried=tried)).fit(train, seed).shares(features_UF)


def model_shares(train: ShareRows, features_UF: np.ndarray, mean_K: np.ndarray, seed: int) -> np.ndarray:
    return outcome_argmax(OutcomeModel.fit(train, OutcomeSettings(), seed), features_UF, mean_K)


def main(options: Options) -> None:
    pieces, results = Pieces(options.cache, options.seconds), dict[str, list[list[float]]]()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.first, options.first + options.seeds):
            world = World(options, seed, Path(folder))
            for name, shares in policies(world, options, seed).items():

                def compute(world: World = world, shares: Callable[[], np.ndarray] = shares) -> list[float]:
                    begun = time.process_time()
                    return [*world.figures(shares()), time.process_time() - begun]

                world_name = f"views {options.users}".removesuffix(" 0") if options.views else "simulation"
                kind = f"{world_name} {options.noise:g} {seed} {name}"
                wanted = name.startswith(options.only) or name in FREE or kind in pieces.known
                if wanted and (found := pieces.get(kind, compute)) is not None:
                    results.setdefault(name, []).append(found)
    report(options, results)


def report(options: Options, results: dict[str, list[list[float]]]) -> None:
    lines = []
    for name, values in sorted(results.items(), key=lambda each: float(np.mean([one[0] for one in each[1]]))):
        mr, mtse, cpu = np.array(values).T
        regret = f"{mr.mean():.3f} ({mr.min():.3f} to {mr.max():.3f})"
        error = f"{mtse.mean():.4f} ({mtse.min():.4f} to {mtse.max():.4f})"
        lines.append([name, regret, error, f"{cpu.mean():.0f}", len(values)])
    kind = "semi-synthetic" if options.views else "simulation"
    kind += f"-{options.users}-users" if options.users else ""
    noise = f"-noise-{options.noise:g}" if options.noise else ""
    table = markdown(["policy", "MR", "MTSE", "CPU s", "data seeds"], lines)
    head = f"{kind}, noise {options.noise:g}; mean (least to most)\n\n"
    own = {
        name: value for name, value in dataclasses.asdict(options).items() if name not in ("cache", "seconds", "only")
    }
    kept = {**own, "views": options.views.name if options.views else None}
    write_result(f"exposure-policies-{kind}{noise}", {"results": results, "options": kept}, head + table)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
