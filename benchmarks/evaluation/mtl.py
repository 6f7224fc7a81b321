"""Does sharing pay? The synthetic study of the MMoE paper, and two tasks of UCI Adult, over all five backbones.

    python -m benchmarks.evaluation.mtl                            # both
    python -m benchmarks.evaluation.mtl --study synthetic --seeds 10
    python -m benchmarks.evaluation.mtl --study synthetic --inputs 512 --sinusoids 10   # nearer to the PLE paper
    python -m benchmarks.evaluation.mtl --study adult --adult ../shared/data/adult

Synthetic [Ma et al., KDD 2018, s.3.2]: x ~ N(0, I_d), orthonormal u_1, u_2 and for two tasks of correlation p

    w_1 = c u_1,  w_2 = c (p u_1 + sqrt(1 - p^2) u_2)
    y_k = w_k'x + sum_{i=1..m} sin(alpha_i w_k'x + beta_i) + e_k,   e_k ~ N(0, 0.01)

The paper gives d = 100 and the networks (8 experts of width 16, towers of 8, Shared-Bottom of equal size), not alpha,
beta, c or m: here c = 1, alpha evenly spaced from 1 to --frequency, beta uniform. The PLE paper [Tang et al., RecSys
2020] uses the same tasks with c = 1, m = 10, d = 512. Adult: networks of nearly equal size on one-hot columns.
"""

import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss, one_hot

from benchmarks.bench import markdown, write_result
from benchmarks.evaluation.mtl_training import Fit, Problem, fit
from data.loaders.adult import TASKS, load_adult
from models.backbones.base import BackboneConfig

# Test and validation rows are fresh: the figures are of unseen data. sqrt(0.01) is the noise's standard deviation.
TRAIN_ROWS, VALID_ROWS, TEST_ROWS, NOISE = 100_000, 4_000, 10_000, 0.1
SYNTHETIC = {
    "Shared-Bottom": BackboneConfig("shared_bottom", expert_hidden=(122,)),
    "OMoE": BackboneConfig("omoe", experts=8, expert_hidden=(16,)),
    "MMoE": BackboneConfig("mmoe", experts=8, expert_hidden=(16,)),
    "CGC": BackboneConfig("cgc", shared_experts=4, task_experts=2, expert_hidden=(16,)),
    "PLE": BackboneConfig("ple", shared_experts=4, task_experts=2, expert_hidden=(13,), levels=2),
}
SYNTHETIC_TOWER = (8,)
ADULT = {
    "Shared-Bottom": BackboneConfig("shared_bottom", expert_hidden=(128, 16)),
    "OMoE": BackboneConfig("omoe", experts=4, expert_hidden=(32, 16)),
    "MMoE": BackboneConfig("mmoe", experts=4, expert_hidden=(32, 16)),
    "CGC": BackboneConfig("cgc", shared_experts=2, task_experts=1, expert_hidden=(32, 16)),
    "PLE": BackboneConfig("ple", shared_experts=2, task_experts=1, expert_hidden=(24, 16), levels=2),
}
ADULT_SINGLE = BackboneConfig("shared_bottom", expert_hidden=(64, 16))
ADULT_TOWER = (8,)


@dataclass
class Arguments:
    study: Literal["both", "synthetic", "adult"] = "both"
    seeds: int = 6
    """Seeds: of the tasks (or the split) and of the network."""
    correlations: tuple[float, ...] = (1.0, 0.9, 0.5, 0.0)
    """p of the synthetic study: the cosine of the two tasks' weights."""
    inputs: int = 100
    """d of the synthetic study."""
    sinusoids: int = 5
    """m of the synthetic study."""
    frequency: float = 3.0
    """Largest alpha of the synthetic study."""
    steps: int = 1_000
    """Updates of the synthetic study, of 128 rows each."""
    epochs: int = 10
    """Passes over Adult's training part, in batches of 512."""
    adult: Path = Path("../shared/data/adult")
    """Folder of the Adult files."""
    label: str = ""
    """Put behind the names of the result files, such as -more-seeds."""


def main(arguments: Arguments) -> None:
    """Run the studies and write a table (and a plot) of each."""
    if arguments.study in ("both", "synthetic"):
        synthetic(arguments)
    if arguments.study in ("both", "adult"):
        census(arguments)


# --- the synthetic study -------------------------------------------------------------------------------------------


def synthetic_problem(arguments: Arguments, correlation: float) -> Problem:
    """The tasks of every seed at one correlation. u, beta, x and noise are those of the other correlations."""
    generator = torch.Generator().manual_seed(1)
    rows = TRAIN_ROWS + VALID_ROWS + TEST_ROWS
    x_RI = torch.randn(rows, arguments.inputs, generator=generator)
    alpha_m = torch.linspace(1.0, arguments.frequency, arguments.sinusoids)
    labels = []
    for _ in range(arguments.seeds):
        u_I2, _ = torch.linalg.qr(torch.randn(arguments.inputs, 2, generator=generator))
        beta_m = torch.rand(arguments.sinusoids, generator=generator) * 2 * math.pi
        noise_R2 = NOISE * torch.randn(rows, 2, generator=generator)
        mix_22 = torch.tensor([[1.0, correlation], [0.0, math.sqrt(1 - correlation**2)]])
        z_R2 = x_RI @ (u_I2 @ mix_22)
        labels.append(z_R2 + torch.sin(z_R2.unsqueeze(2) * alpha_m + beta_m).sum(2) + noise_R2)
    train_SN, valid_SV, test_SM = (
        part.expand(arguments.seeds, -1) for part in torch.arange(rows).split([TRAIN_ROWS, VALID_ROWS, TEST_ROWS])
    )
    return Problem(x_RI, torch.stack(labels), train_SN, valid_SV, test_SM, squared)


def squared(found: Tensor, y: Tensor) -> Tensor:
    return mse_loss(found, y, reduction="none")


def synthetic(arguments: Arguments) -> None:
    began = time.time()
    losses: dict[str, dict[str, list[float]]] = {name: {} for name in SYNTHETIC}
    sizes: dict[str, int] = {}
    for correlation in arguments.correlations:
        problem = synthetic_problem(arguments, correlation)
        for name, backbone in SYNTHETIC.items():
            result = fit(problem, backbone, SYNTHETIC_TOWER, arguments.steps, batch=128, rate=2e-3)
            losses[name][f"{correlation:g}"] = result.loss_ST.mean(1).tolist()
            sizes[name] = result.parameters
            mean = result.loss_ST.mean().item()
            print(f"[{time.time() - began:4.0f} s] p = {correlation:g} {name}: {mean:.4f}", flush=True)
    first, last = f"{arguments.correlations[0]:g}", f"{arguments.correlations[-1]:g}"
    title = ["backbone", "parameters", *[f"p = {p:g}" for p in arguments.correlations], f"rise, p = {first} to {last}"]
    rows = []
    for name, by_p in losses.items():
        rise = [b - a for a, b in zip(by_p[first], by_p[last], strict=True)]
        rows.append([name, sizes[name], *[spread(values) for values in by_p.values()], spread(rise)])
    beside = []
    for name in [name for name in losses if name != "MMoE"]:
        cells = [differences(values, losses["MMoE"][p], better=-1) for p, values in losses[name].items()]
        beside.append([name, *cells])
    title_beside = ["less MMoE, seed by seed", *[f"p = {p:g}" for p in arguments.correlations]]
    image = f"{time.strftime('%Y-%m-%d')}-mtl-synthetic{arguments.label}.png"
    text = (
        f"Test loss (mean squared error, mean of the two tasks; the noise alone is {NOISE**2:g}), mean ± standard "
        f"deviation over {arguments.seeds} seeds; d = {arguments.inputs}, m = {arguments.sinusoids}, alpha 1 .. "
        f"{arguments.frequency:g}, {arguments.steps} updates of 128 rows.\n\n{markdown(title, rows)}\n"
        f"{markdown(title_beside, beside)}\n![Loss against correlation]({image})\n"
    )
    path = write_result(
        f"mtl-synthetic{arguments.label}", {"losses": losses, "parameters": sizes, "seconds": time.time() - began}, text
    )
    plot(losses, path.with_suffix(".png"))


def plot(losses: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Loss as the correlation falls, one line a backbone, with standard errors."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for name, by_p in losses.items():
        values = torch.tensor(list(by_p.values()))
        errors = values.std(1) / math.sqrt(values.shape[1])
        axes.errorbar([float(p) for p in by_p], values.mean(1), errors, label=name, marker="o", capsize=2)
    axes.invert_xaxis()
    axes.set(xlabel="correlation of the two tasks' weights", ylabel="test loss")
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


# --- Adult ---------------------------------------------------------------------------------------------------------


def adult_problem(arguments: Arguments) -> Problem:
    """One-hot categoricals and standardised numerics (long tails by log1p); a split of 70/10/20% for every seed."""
    adult = load_adult(arguments.adult)
    ids_RK = torch.from_numpy(adult.ids_RK)
    numeric_RN = torch.from_numpy(adult.numeric_RN).log1p()
    numeric_RN = (numeric_RN - numeric_RN.mean(0)) / numeric_RN.std(0)
    hot_RI = one_hot(ids_RK, sum(adult.field_rows)).sum(1).float()
    y_RT = torch.from_numpy(adult.labels_RT)
    rows = len(y_RT)
    generator = torch.Generator().manual_seed(0)
    order_SR = torch.stack([torch.randperm(rows, generator=generator) for _ in range(arguments.seeds)])
    train_SN, valid_SV, test_SM = order_SR.split([rows - rows // 5 - rows // 10, rows // 10, rows // 5], dim=1)
    y_SRT = y_RT.expand(arguments.seeds, -1, -1)
    return Problem(torch.cat([hot_RI, numeric_RN], 1), y_SRT, train_SN, valid_SV, test_SM, logistic)


def logistic(found: Tensor, y: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(found, y, reduction="none")


def census(arguments: Arguments) -> None:
    began = time.time()
    problem = adult_problem(arguments)
    steps = arguments.epochs * problem.train_SN.shape[1] // 512
    aucs: dict[str, dict[str, list[float]]] = {}
    sizes: dict[str, int] = {}

    def train(name: str, backbone: BackboneConfig, tasks: list[int]) -> None:
        part = dataclasses.replace(problem, y_SRT=problem.y_SRT[:, :, tasks])
        result = fit(part, backbone, ADULT_TOWER, steps, batch=512, rate=3e-3)
        for index, task in enumerate(tasks):
            aucs.setdefault(name, {})[TASKS[task]] = test_aucs(part, result, index)
        sizes[name] = sizes.get(name, 0) + result.parameters
        print(f"[{time.time() - began:4.0f} s] {name}: {aucs[name]}", flush=True)

    for alone in range(len(TASKS)):
        train("single-task", ADULT_SINGLE, [alone])
    for name, backbone in ADULT.items():
        train(name, backbone, list(range(len(TASKS))))
    rows = []
    for name, by_task in aucs.items():
        cells: list[Any] = [name, sizes[name], *[spread(by_task[task]) for task in TASKS]]
        if name == "single-task":
            cells += ["", ""]
        else:
            cells += [differences(by_task[task], aucs["single-task"][task], better=1) for task in TASKS]
        rows.append(cells)
    title = [
        "network",
        "parameters",
        "income AUC",
        "never-married AUC",
        "income less single-task",
        "never-married less single-task",
    ]
    text = (
        f"Test AUC, mean ± standard deviation over {arguments.seeds} seeds (of split and network); {arguments.epochs} "
        f"epochs, the best of 10 checks by validation loss.\n\n{markdown(title, rows)}"
    )
    write_result(
        f"mtl-adult{arguments.label}", {"aucs": aucs, "parameters": sizes, "seconds": time.time() - began}, text
    )


def test_aucs(problem: Problem, result: Fit, task: int) -> list[float]:
    return [
        float(roc_auc_score(y_RT[rows_M, task], outputs_MT[:, task]))
        for y_RT, rows_M, outputs_MT in zip(problem.y_SRT, problem.test_SM, result.outputs_SMT, strict=True)
    ]


# --- words ---------------------------------------------------------------------------------------------------------


def spread(values: list[float]) -> str:
    deviation = torch.tensor(values).std().item() if len(values) > 1 else 0.0
    return f"{sum(values) / len(values):.4f} ± {deviation:.4f}"


def differences(values: list[float], others: list[float], better: int) -> str:
    """The mean paired difference, its standard error, and in how many seeds it is for the better."""
    gaps = torch.tensor(values) - torch.tensor(others)
    error = gaps.std().item() / math.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
    return f"{gaps.mean():+.4f} ± {error:.4f} ({int((gaps * better > 0).sum())} of {len(gaps)} better)"


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
