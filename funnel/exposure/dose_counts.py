"""How well a response to a dose is known: errors of outcomes, and average curves by user group with intervals.

The curve of a group is the mean over its rows of mu(d, x) on a grid of doses d (with targeted regularisation mu +
eps/pi). Its interval has two parts: rows are a sample of users, and outcomes have noise that the model has not seen: at
each dose the group's rows near it are off by their residuals, and what those are off on average the curve may be off.
AMSE, where the log has the true average at each row's dose: mean over rows of (curve(t_r) - average_r)^2, the curve
linear between grid points. All of it follows from sums. Shapes: B rows, D doses of the grid, G groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from funnel.exposure.dose_units import BEYOND, DoseBatch
from funnel.problem import Outputs

DOSES = 101
BLOCKS = 10
"""Parts of the dose range whose residuals are brought together."""
AIMS = {"mse": True, "amse": True, "log_density": False}
"""Figures by which an epoch may be chosen, and whether smaller is better."""
WATCHED = {"mse": "squared error of the outcome"}


@dataclass
class DoseCounts:
    """Sums over a part (funnel/problem.py: Counts)."""

    scale: float
    """Standard deviation of the outcome in the log's units."""
    mean: float
    low: float
    high: float
    """The range of doses that training saw."""
    average: str = ""
    """Column of the true average outcome at the row's dose."""
    group: str = ""
    """Numeric feature whose ranges make the groups."""
    edges: Sequence[float] = ()
    """Where one group ends and the next begins."""

    def __post_init__(self) -> None:
        groups = len(self.edges) + 1

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64)

        # rows, squared error, log density; of AMSE rows, b'b weights, cross products, squares
        self.errors_3, self.rows_G, self.left_out_1 = zeros(3), zeros(groups), zeros(1)
        self.curve_GD, self.square_GD, self.residual_GB3 = (
            zeros(groups, DOSES),
            zeros(groups, DOSES),
            zeros(groups, BLOCKS, 3),
        )
        self.weight_DD, self.cross_D, self.truth_2 = zeros(DOSES, DOSES), zeros(DOSES), zeros(2)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(name for name in (self.average, self.group) if name)

    def add(self, outputs: Outputs, batch: DoseBatch, table: pa.Table) -> None:
        seen_B = (batch.dose_B >= -BEYOND) & (batch.dose_B <= 1 + BEYOND)
        if not bool(seen_B.all()):
            self.left_out_1 += float((~seen_B).sum())
            outputs = {name: value[seen_B] for name, value in outputs.items()}
            batch = DoseBatch(batch.numeric_BN[seen_B], batch.dose_B[seen_B], batch.outcome_B[seen_B])
            table = table.filter(pa.array(seen_B.numpy()))
        mu_B, curve_BD = outputs["mu"].double(), outputs["curve"].double()
        gap_B = batch.outcome_B.double() - mu_B
        rows = float(len(batch))
        self.errors_3 += torch.stack(
            [torch.tensor(rows), gap_B.square().sum(), outputs["pi"].double().add(1e-6).log().sum()]
        )
        group_B = torch.zeros(len(batch), dtype=torch.int64)
        if self.group:
            value = np.nan_to_num(table.column(self.group).to_numpy().astype(np.float64), nan=-np.inf)
            group_B = torch.from_numpy(np.searchsorted(np.asarray(self.edges), value, side="left").astype(np.int64))
        self.rows_G += torch.bincount(group_B, minlength=len(self.rows_G)).double()
        self.curve_GD.index_add_(0, group_B, curve_BD)
        self.square_GD.index_add_(0, group_B, curve_BD.square())
        block_B = (batch.dose_B * BLOCKS).long().clamp(0, BLOCKS - 1)
        own_B3 = torch.stack([torch.ones_like(gap_B), gap_B, gap_B.square()], 1)
        self.residual_GB3.view(-1, 3).index_add_(0, group_B * BLOCKS + block_B, own_B3)
        if self.average:
            true_B = (
                torch.from_numpy(table.column(self.average).to_numpy().astype(np.float64)) - self.mean
            ) / self.scale
            weight_BD = interpolation(batch.dose_B)
            self.weight_DD += weight_BD.T @ weight_BD
            self.cross_D += weight_BD.T @ true_B
            self.truth_2 += torch.stack([torch.tensor(rows).double(), true_B.square().sum()])

    def sums(self) -> list[Tensor]:
        curve = [self.rows_G, self.curve_GD, self.square_GD, self.residual_GB3]
        return [self.errors_3, self.left_out_1, *curve, self.weight_DD, self.cross_D, self.truth_2]

    def peaks(self) -> list[Tensor]:
        return []

    def figures(self) -> dict[str, Any]:
        """rows (and how many were left out for a dose that training has not seen), mse (in the log's units),
        log_density, and amse where the truth is known."""
        rows, square, density = self.errors_3.tolist()
        absent: dict[str, str] = {}
        found: dict[str, Any] = {"rows": int(rows)}
        if self.left_out_1[0]:
            found["left_out"] = int(self.left_out_1[0])
        if not rows:
            return found | {"absent": dict.fromkeys(AIMS, "no rows")}
        found |= {"mse": square / rows * self.scale**2, "log_density": density / rows}
        if self.truth_2[0]:
            curve_D = self.curve_GD.sum(0) / rows
            total = curve_D @ self.weight_DD @ curve_D - 2 * (curve_D @ self.cross_D) + self.truth_2[1]
            found["amse"] = max(float(total / self.truth_2[0]), 0.0) * self.scale**2
        else:
            absent["amse"] = "the log does not have the true average response"
        return found | {"absent": absent}

    def curves(self) -> dict[str, Any]:
        """{"dose": [...], "groups": [{"name", "rows", "y", "low", "high"}]}, in the log's units, 95% intervals."""
        grid_D = torch.linspace(0, 1, DOSES, dtype=torch.float64)
        block_D = (grid_D * BLOCKS).long().clamp(0, BLOCKS - 1)
        groups = []
        for number, rows in enumerate(self.rows_G.tolist()):
            if rows < 2:
                continue
            mean_D = self.curve_GD[number] / rows
            spread_D = (self.square_GD[number] / rows - mean_D.square()).clamp(min=0) / rows
            count_B, _, square_B = self.residual_GB3[number].T
            noise_B = square_B / count_B.clamp(min=1) / count_B.clamp(min=1)
            error_D = (spread_D + noise_B[block_D]).sqrt()
            seen_D = count_B[block_D] > 1  # where nobody of the group had such a dose there is no interval
            low_D, high_D = (torch.where(seen_D, mean_D + sign * 1.96 * error_D, torch.nan) for sign in (-1, 1))
            told = [(self.mean + self.scale * each).tolist() for each in (mean_D, low_D, high_D)]
            ends = [[None if value != value else value for value in each] for each in told]
            groups.append(
                {"name": self.name_of(number), "rows": int(rows), "y": ends[0], "low": ends[1], "high": ends[2]}
            )
        return {"dose": (self.low + (self.high - self.low) * grid_D).tolist(), "groups": groups}

    def name_of(self, number: int) -> str:
        if not self.group:
            return "everybody"
        edges = list(self.edges)
        if number == 0:
            return f"{self.group} <= {edges[0]:.3g}"
        if number == len(edges):
            return f"{self.group} > {edges[-1]:.3g}"
        return f"{edges[number - 1]:.3g} < {self.group} <= {edges[number]:.3g}"


def interpolation(dose_B: Tensor) -> Tensor:
    """(B, D) float64: what each grid point counts at a dose, linear between neighbours."""
    place_B = dose_B.double().clamp(0, 1) * (DOSES - 1)
    below_B = place_B.floor().clamp(max=DOSES - 2).long()
    part_B = place_B - below_B
    found_BD = torch.zeros(len(dose_B), DOSES, dtype=torch.float64)
    found_BD.scatter_(1, below_B.unsqueeze(1), (1 - part_B).unsqueeze(1))
    found_BD.scatter_(1, below_B.unsqueeze(1) + 1, part_B.unsqueeze(1))
    return found_BD
