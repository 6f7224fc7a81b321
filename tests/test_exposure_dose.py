"""Responses to a dose: networks and losses against formulas, worlds, average curves, training."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from support import error_line

from data.errors import UserError
from data.log import open_log
from funnel.exposure import dose_worlds
from funnel.exposure.dose_counts import DOSES, DoseCounts, interpolation
from funnel.exposure.dose_units import DoseUnits
from funnel.exposure.problem import DoseSettings, DRNet, VCNet
from jobs import train
from jobs.command.cli import parse
from jobs.make_data import options_for
from jobs.make_data import run as make_data
from jobs.report import write_page
from models.dose_response import dose_response
from models.objectives.dose_response import dose_terms
from models.varying_coefficient import Density, DoseConfig, truncated_powers, varying_coefficient


def test_truncated_powers_by_hand() -> None:
    found = truncated_powers(torch.tensor([0.2, 0.5, 0.9]), 2, (1 / 3, 2 / 3))
    for row, t in zip(found.tolist(), (0.2, 0.5, 0.9), strict=True):
        assert row == pytest.approx([1, t, t**2, max(t - 1 / 3, 0) ** 2, max(t - 2 / 3, 0) ** 2], rel=1e-5)


def test_the_density_is_linear_between_the_grids_probabilities() -> None:
    torch.manual_seed(0)
    head = Density(4, 10, 1.0)
    hidden = torch.randn(1, 4)
    share = head.linear(hidden).softmax(1)[0]
    for dose, expected in ((0.0, share[0]), (1.0, share[10]), (0.3, share[3]), (0.34, 0.6 * share[3] + 0.4 * share[4])):
        assert head(hidden, torch.tensor([dose])).item() == pytest.approx(expected.item(), rel=1e-4)


def test_vcnets_weights_are_splines_of_the_dose() -> None:
    network = varying_coefficient(3, DoseConfig(hidden=(4,), head=(5,)), 1)
    x, dose = torch.randn(6, 3), torch.rand(6)
    hidden = network.body(x)
    first, last = network.head.layers
    for row in range(6):
        basis = truncated_powers(dose[row : row + 1], 2, (1 / 3, 2 / 3))[0]
        weight, bias = torch.einsum("l,lio->io", basis, first.weight), basis @ first.bias
        inner = (hidden[row] @ weight + bias).relu()
        expected = inner @ torch.einsum("l,lio->io", basis, last.weight) + basis @ last.bias
        torch.testing.assert_close(network(x, dose)["mu"][row], expected[0], rtol=1e-4, atol=1e-5)


def test_drnet_answers_with_the_head_of_the_doses_block() -> None:
    network = dose_response(3, DoseConfig(hidden=(4,), head=(5,), blocks=5), 1)
    x, dose = torch.randn(5, 3), torch.tensor([0.05, 0.2, 0.59, 0.61, 1.0])
    hidden = network.body(x)
    for row, block in enumerate((0, 1, 2, 3, 4)):
        value = hidden[row]
        for layer, (weight, bias) in enumerate(zip(network.head.weights, network.head.biases, strict=True)):
            value = torch.cat([dose[row : row + 1], value]) @ weight[block] + bias[block, 0]
            value = value.relu() if layer == 0 else value
        torch.testing.assert_close(network(x, dose)["mu"][row], value[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [varying_coefficient, dose_response])
def test_curves_are_the_network_at_every_dose(make: Any) -> None:
    network = make(3, DoseConfig(hidden=(4,), head=(5,)), 1)
    with torch.no_grad():
        network.targeted.copy_(torch.randn(len(network.targeted)))
    x, grid = torch.randn(4, 3), torch.tensor([0.0, 0.25, 0.9])
    plain, corrected = network.curve(x, grid, False), network.curve(x, grid, True)
    for d, dose in enumerate(grid):
        found = network(x, dose.expand(4))
        torch.testing.assert_close(plain[:, d], found["mu"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            corrected[:, d], found["mu"] + found["eps"] / (found["pi"] + 1e-6), rtol=1e-4, atol=1e-4
        )


def test_targeted_regularisations_gradient() -> None:
    """d/d a of beta (y - mu - a phi/pi)^2 is -2 beta (y - mu - a phi/pi) phi/pi, by autograd and by hand."""
    torch.manual_seed(2)
    mu, pi = torch.randn(8, dtype=torch.float64), torch.rand(8, dtype=torch.float64) + 0.1
    phi, y = torch.rand(8, 5, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    a = torch.randn(5, dtype=torch.float64, requires_grad=True)
    mu.requires_grad_()
    pi.requires_grad_()
    terms = dose_terms({"mu": mu, "pi": pi, "eps": phi @ a}, y, 0.5, 2.0)
    torch.stack([term.mean() for term in terms.values()]).sum().backward()
    gap = (y - mu - (phi @ a) / (pi + 1e-6)).detach()
    safe, eps = (pi + 1e-6).detach(), (phi @ a).detach()
    torch.testing.assert_close(a.grad, (-2 * 2.0 * gap / safe) @ phi / 8)
    torch.testing.assert_close(mu.grad, (-2 * (y - mu.detach()) - 2 * 2.0 * gap) / 8)
    torch.testing.assert_close(pi.grad, (-0.5 / safe + 2 * 2.0 * gap * eps / safe**2) / 8)
    assert "targeted" not in dose_terms({"mu": mu, "pi": pi, "eps": phi @ a}, y, 0.5, 0.0)


def test_the_worlds_are_those_of_the_published_generators() -> None:
    x = np.random.default_rng(0).random((5, 6))
    for row in x:
        x1, x2, x3, x4, x5, x6 = row
        logit = (10 * math.sin(max(x1, x2, x3)) + max(x3, x4, x5) ** 3) / (1 + (x1 + x5) ** 2)
        logit += math.sin(0.5 * x3) * (1 + math.exp(x4 - 0.5 * x3)) + x3**2 + 2 * math.sin(x4) + 2 * x5 - 6.5
        assert dose_worlds.simulated_dose(row[None])[0] == pytest.approx(logit, rel=1e-12)
        y = math.cos((0.3 - 0.5) * math.pi * 2) * (0.09 + 4 * max(x1, x6) ** 3 / (1 + 2 * x3**2) * math.sin(x4))
        assert dose_worlds.simulated_outcome(np.array([0.3]), row[None])[0] == pytest.approx(y, rel=1e-12)
    rows = dose_worlds.simulation(300, 1)
    at = dose_worlds.simulated_outcome(np.full(300, rows.dose_R[7]), rows.features_RF).mean()
    assert rows.average_R[7] == pytest.approx(at, rel=1e-12)
    noise = rows.outcome_R - dose_worlds.simulated_outcome(rows.dose_R, rows.features_RF)
    assert noise.std() == pytest.approx(0.5, abs=0.07)


def test_ihdp(shared_data: Path) -> None:
    path = shared_data / "ihdp" / "ihdp.csv"
    x = dose_worlds.children(path)
    assert x.shape == (747, 25)
    logit, outcome = dose_worlds.ihdp_outcome(x)
    row, mean_a = x[11], x[:, dose_worlds.GROUP_A].mean()
    three = sorted(row[[2, 4, 5]])
    by_hand = row[0] / (1 + row[1]) + three[2] / (0.2 + three[0])
    by_hand += math.tanh((row[15:25].sum() / 10 - mean_a) * 5) - 2
    assert logit[11] == pytest.approx(2 * by_hand, rel=1e-12)
    t, part = 0.4, math.tanh((row[[3, *range(6, 15)]].sum() / 10 - mean_a) * 5)
    y = math.sin(t * 3 * math.pi) / (1.2 - t)
    y *= 1.5 * part + 0.5 * math.exp(0.2 * (row[0] - row[5])) / (0.1 + min(row[1], row[2], row[4]))
    assert outcome(np.array([t]), row[None])[0] == pytest.approx(y, rel=1e-12)
    train_rows, test_rows = dose_worlds.ihdp(path, 0)
    assert (len(train_rows), len(test_rows)) == (471, 276)
    with pytest.raises(UserError, match="cannot be read"):
        dose_worlds.children(Path("no.csv"))


@pytest.mark.parametrize("make", [varying_coefficient, dose_response])
@pytest.mark.parametrize("head", [(6,), (6, 5), ()])
def test_a_curve_is_what_the_network_says_at_each_dose(make: Any, head: tuple[int, ...]) -> None:
    network = make(3, DoseConfig(hidden=(8,), head=head, hidden_scale=1.0), 4)
    with torch.no_grad():
        network.targeted.normal_(generator=torch.Generator().manual_seed(1))
    x, doses = torch.randn(7, 3, generator=torch.Generator().manual_seed(2)), torch.linspace(0, 1, 23)
    for targeted in (False, True):
        curve = network.curve(x, doses, targeted)
        for place, dose in enumerate(doses):
            found = network(x, dose.expand(7))
            expected = found["mu"] + (found["eps"] / (found["pi"] + 1e-6) if targeted else 0)
            torch.testing.assert_close(curve[:, place], expected, rtol=1e-4, atol=1e-5)


def counted(parts: list[tuple[dict[str, torch.Tensor], DoseUnits, np.ndarray]]) -> list[DoseCounts]:
    found = []
    for outputs, units, average in parts:
        counts = DoseCounts(2.0, 5.0, 0.0, 1.0, "average", "x", (0.0,))
        counts.add(outputs, units.batch(), pa.table({"average": average, "x": units.numeric_RN[:, 0]}))
        found.append(counts)
    return found


def a_part(seed: int, rows: int = 40) -> tuple[dict[str, torch.Tensor], DoseUnits, np.ndarray]:
    random = np.random.default_rng(seed)
    units = DoseUnits(random.standard_normal((rows, 2)).astype(np.float32), random.random(rows).astype(np.float32),
                      random.standard_normal(rows).astype(np.float32))  # fmt: skip
    curve = torch.from_numpy(random.standard_normal((rows, 1)) + np.linspace(0, 1, DOSES)[None] ** 2).float()
    mu = torch.from_numpy(random.standard_normal(rows)).float()
    return {"mu": mu, "pi": torch.rand(rows), "curve": curve}, units, 5 + random.standard_normal(rows)


def test_amse_and_curves_follow_from_sums_that_add_up() -> None:
    parts = [a_part(0), a_part(1, 25)]
    first, second = counted(parts)
    for own, other in zip(first.sums(), second.sums(), strict=True):
        own += other
    curve = torch.cat([part[0]["curve"] for part in parts]).double().mean(0).numpy()
    dose = np.concatenate([part[1].dose_R for part in parts]).astype(float)
    average = np.concatenate([part[2] for part in parts])
    at = 5 + 2 * np.interp(dose, np.linspace(0, 1, DOSES), curve)
    figures = first.figures()
    assert figures["amse"] == pytest.approx(((at - average) ** 2).mean(), rel=1e-6)
    gap = np.concatenate([part[1].outcome_R - part[0]["mu"].numpy() for part in parts])
    assert figures["mse"] == pytest.approx(4 * (gap.astype(float) ** 2).mean(), rel=1e-6)
    groups = first.curves()["groups"]
    assert [group["name"] for group in groups] == ["x <= 0", "x > 0"]
    own = torch.cat([part[0]["curve"][torch.from_numpy(part[1].numeric_RN[:, 0] <= 0)] for part in parts]).double()
    assert groups[0]["y"][50] == pytest.approx(5 + 2 * float(own[:, 50].mean()), rel=1e-6)
    own_doses = [part[1].dose_R[part[1].numeric_RN[:, 0] <= 0] for part in parts]
    for block in range(10):  # an interval where at least two of the group had such a dose, and only there
        rows = int(sum(((each * 10).astype(int) == block).sum() for each in own_doses))
        low, y, high = (groups[0][name][block * 10 + 5] for name in ("low", "y", "high"))
        assert (low is None) == (rows < 2)
        assert low is None or low < y < high
    assert interpolation(torch.tensor([0.255, 1.0])).sum(1).tolist() == pytest.approx([1, 1])


def test_rows_beyond_what_training_saw_are_in_no_figure() -> None:
    outputs, units, average = a_part(3)
    far = units.dose_R.copy()
    far[[4, 9]] = 1.5, -0.3
    beyond = DoseUnits(units.numeric_RN, far, units.outcome_R)
    kept = np.delete(np.arange(len(units)), [4, 9])
    without = {name: value[torch.from_numpy(kept)] for name, value in outputs.items()}
    found, expected = counted([(outputs, beyond, average), (without, units.take(kept), average[kept])])
    assert found.figures() == {**expected.figures(), "left_out": 2}
    assert found.curves() == expected.curves()


@pytest.fixture(scope="module")
def dose_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dose") / "log"
    words = ("--world", "dose", "--rows", 400, "--test-rows", 100, "--out", out)
    return make_data(parse(options_for, [str(word) for word in words]))


@pytest.mark.parametrize("problem", [VCNet, DRNet])
def test_shares_of_workers_add_up_to_the_global_loss(problem: Any, dose_log: Path) -> None:
    log = open_log(dose_log)
    parts = {name: log.part(name) for name in ("train", "valid")}
    settings = DoseSettings(targeted=1.0)
    own = problem(settings, log.schema, problem.prepare(settings, log, parts), {})
    network = own.network(seed=3)
    (table,) = log.read(parts["train"], own.columns)
    units = own.encode(table)

    def loss(index: slice, totals: torch.Tensor) -> torch.Tensor:
        batch = units.take(index).batch()
        found: torch.Tensor = own.loss(network(batch), batch, totals, 0)["loss"]
        return found

    totals = torch.tensor([400.0], dtype=torch.float64)
    whole = loss(slice(0, 400), totals)
    torch.testing.assert_close(loss(slice(0, 150), totals) + loss(slice(150, 400), totals), whole, rtol=1e-5, atol=1e-6)
    assert loss(slice(0, 0), totals).item() == 0
    assert network.eval()(units.take(slice(0, 7)).batch())["curve"].shape == (7, DOSES)


def test_training_through_the_loop(dose_log: Path, tmp_path: Path) -> None:
    words = ("--problem", "vcnet", "--data", dose_log, "--out", tmp_path / "run", "--epochs", 12, "--batch-size", 50,
             "--workers", 0, "--group", "x1", "--optimizer.learning-rate", 0.005)  # fmt: skip
    given = train.arguments_of(*map(str, words))
    summary = train.run(given)
    assert summary["amse"] < 0.15
    assert summary["mse"] < 0.6
    write_page([tmp_path / "run"], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "Average response by dose" in page
    assert "rows)" in page
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert "x1" in json.dumps(evaluation)


def test_a_dose_that_was_never_seen_is_refused(dose_log: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    import pyarrow.parquet as pq
    from support import copy

    log = copy(dose_log, tmp_path)
    (path,) = (log / "valid").glob("*.parquet")
    table = pq.read_table(path)
    dose = table["dose"].to_numpy().copy()
    dose[3] = 1.7
    pq.write_table(table.set_column(table.schema.get_field_index("dose"), "dose", pa.array(dose)), path)
    words = ("--problem", "vcnet", "--data", log, "--out", tmp_path / "run")
    line = error_line(train, words, monkeypatch, capsys)
    assert "dose 'dose' is 1.7 in row 3 (1 in all), outside the" in line
    assert "--beyond leave-out goes on without such rows" in line
    opened = open_log(log)
    parts, settings = {name: opened.part(name) for name in ("train", "valid")}, DoseSettings(beyond="leave-out")
    problem = VCNet(settings, opened.schema, VCNet.prepare(settings, opened, parts), {})
    assert "without 1 rows whose dose" in problem.describe()
    line = error_line(train, (*words[:4], "--out", tmp_path / "x", "--dose", "dse"), monkeypatch, capsys)
    assert "--dose dse: want one of dose" in line
