"""MDP2 Forest and what it is compared with on the paper's simulation: MR and MTSE over data seeds.

    python -m benchmarks.exposure.simulation            # 40,000 rows, 10,000 users to judge, 5 seeds
    python -m benchmarks.exposure.simulation --seeds 1 --noise 0.3 1.0

The paper's bars (one draw, no spread given): MDP2F .336 / .0289, penalised .327 / .0259; its DML .392 / .0463.
"""

import dataclasses
import time
from dataclasses import dataclass

import numpy as np
import tyro

from benchmarks.bench import markdown, write_result
from funnel.exposure.figures import treatment_error
from funnel.exposure.forest import ForestSettings, MDP2Forest
from funnel.exposure.shares import ShareRows
from funnel.exposure.simulation import simulate, value

POINTS: dict[str, object] = {"leaves": "points"}
VARIANTS: dict[str, dict[str, object]] = {
    "points: eq. 2-3, argmax, 20 quantiles": POINTS,
    "points: 20 bins of a feature": {**POINTS, "feature_bins": 20},
    "points: 3 features a split, 10 quantiles": {**POINTS, "features_tried": 3, "share_quantiles": 10},
    "points: soft maximum .1": {**POINTS, "soft": 0.1},
    "points: penalty 0.1": {**POINTS, "penalty": 0.1},
    "points: penalty 1": {**POINTS, "penalty": 1.0},
    "additive leaves (splits by slopes, 2 of 6 features a split)": {"leaves": "additive"},
    "additive leaves, 40 trees": {"leaves": "additive", "trees": 40},
    "additive leaves, splits by points, all features": {"leaves": "additive", "splits": "points", "features_tried": 6},
}


@dataclass
class Options:
    seeds: int = 5
    first: int = 100
    noise: tuple[float, ...] = (0.0, 0.3)
    rows: int = 50_000


def figures(shares_UK: np.ndarray, test: ShareRows) -> tuple[float, float]:
    assert test.best_RK is not None
    best = value(test.best_RK, test.best_RK)
    return float(np.mean(best - value(shares_UK, test.best_RK))), treatment_error(test.best_RK, shares_UK)


def policies(train: ShareRows, test: ShareRows, seed: int) -> dict[str, tuple[float, float, float]]:
    """(MR, MTSE, CPU-seconds of the fit) by name."""
    assert train.best_RK is not None
    assert test.best_RK is not None
    users, categories = len(test), len(test.categories)
    plain = {
        "oracle": test.best_RK,
        "uniform": np.full((users, categories), 1 / categories),
        "logging policy": test.shares_RK,
        "best constant (knows the truth)": np.tile(train.best_RK.mean(axis=0), (users, 1)),
    }
    found = {name: (*figures(shares_UK, test), 0.0) for name, shares_UK in plain.items()}
    for name, given in VARIANTS.items():
        begun = time.process_time()
        forest = MDP2Forest(ForestSettings(**given)).fit(train, seed)  # type: ignore[arg-type]
        found[name] = (*figures(forest.shares(test.features_RF), test), time.process_time() - begun)
    mixed = dataclasses.replace(train, shares_RK=train.shares_RK[np.random.default_rng(seed).permutation(len(train))])
    for leaves in ("points", "additive"):
        forest = MDP2Forest(ForestSettings(leaves=leaves)).fit(mixed, seed)
        found[f"negative control: {leaves}, shares permuted between rows"] = (
            *figures(forest.shares(test.features_RF), test),
            0.0,
        )
    return found


def main(options: Options) -> None:
    results: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    for seed in range(options.first, options.first + options.seeds):
        for noise in options.noise:
            rows = simulate(options.rows, seed, noise)
            cut = round(0.8 * len(rows))
            split = rows.take(np.arange(cut)), rows.take(np.arange(cut, len(rows)))
            for name, found in policies(*split, seed).items():
                results.setdefault(f"{noise:g}", {}).setdefault(name, []).append(found)
    tables = []
    for noise_name, by_name in results.items():
        lines = []
        for name, values in by_name.items():
            mr, mtse, cpu = np.array(values).T
            regret = f"{mr.mean():.3f} ({mr.min():.3f} to {mr.max():.3f})"
            error = f"{mtse.mean():.4f} ({mtse.min():.4f} to {mtse.max():.4f})"
            lines.append([name, regret, error, f"{cpu.mean():.1f}" if cpu.any() else ""])
        head = f"Noise {noise_name}; {options.seeds} data seeds, mean (least to most)\n\n"
        tables.append(head + markdown(["policy", "MR", "MTSE", "CPU s of a fit, 20 trees"], lines))
    write_result("exposure-simulation", {"results": results, "options": dataclasses.asdict(options)}, "\n".join(tables))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
