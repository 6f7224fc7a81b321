"""DragonNet and CFR: losses by their formulas, workers that add up, and effects learnt on the training loop."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support import settings_of

from data.errors import UserError
from data.log import open_log
from data.schema import Schema
from data.treatment import TreatmentColumns
from distributed.config import TrainConfig
from distributed.finished_run import load_run
from distributed.training.launch import prepare, run_training
from funnel.incentives.deep_clusters import DeepSettings, cluster_loss, contrastive_loss, deep_clusters
from funnel.incentives.problem import CFRSettings, DragonNetSettings
from funnel.incentives.treated_units import EffectCounts, TreatedBatch, binned_auuc
from models.dragonnet import DragonNet, DragonNetConfig
from models.objectives.treatment import distance_share, squared_errors, sums_by_arm, targeted, treatment_error

SIZES = DragonNetConfig(hidden=(16,), head=(8,))


def test_dragonnets_terms_are_the_papers() -> None:
    outcome_BA, logit_BA = torch.tensor([[1.0, 2.0], [0.5, 3.0]]), torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    arm_B, y_B, epsilon_B = torch.tensor([1, 0]), torch.tensor([2.5, 1.0]), torch.tensor([0.1, 0.1])
    g = torch.sigmoid(torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(squared_errors(outcome_BA, arm_B, y_B), torch.tensor([0.25, 0.25]))
    torch.testing.assert_close(treatment_error(logit_BA, arm_B), -torch.stack([g[0].log(), (1 - g[1]).log()]))
    expected = torch.stack([(2.5 - 2.0 - 0.1 / g[0]) ** 2, (1.0 - 0.5 + 0.1 / (1 - g[1])) ** 2])
    torch.testing.assert_close(targeted(outcome_BA, logit_BA, epsilon_B, arm_B, y_B), expected)


def test_shares_of_the_distance_add_up_to_its_gradient() -> None:
    """Two workers' gradients of the linear MMD sum to that of one process that sees all rows."""
    torch.manual_seed(0)
    z_BZ, arm_B = torch.randn(30, 4, dtype=torch.float64), torch.randint(0, 3, (30,))
    whole = z_BZ.clone().requires_grad_()
    means = torch.stack([whole[arm_B == a].mean(0) for a in range(3)])
    distance = (means[1:] - means[0]).square().sum() / 2
    distance.backward()
    totals = sum(sums_by_arm(z_BZ[half], arm_B[half], 3) for half in (slice(0, 11), slice(11, 30)))
    pieces = []
    for half in (slice(0, 11), slice(11, 30)):
        own = z_BZ[half].clone().requires_grad_()
        share, value = distance_share(own, arm_B[half], totals, 3)  # type: ignore[arg-type]
        share.backward()
        pieces.append(own.grad)
        torch.testing.assert_close(value, distance.detach())
    torch.testing.assert_close(torch.cat(pieces), whole.grad)  # type: ignore[arg-type]


def test_an_arm_that_no_row_of_the_batch_got_has_no_distance() -> None:
    z_BZ, arm_B = torch.ones(4, 2), torch.tensor([0, 0, 1, 1])
    share, value = distance_share(z_BZ, arm_B, sums_by_arm(z_BZ, arm_B, 3), 3)
    assert float(value) == 0
    assert float(share) == 0
    lone = torch.tensor([1, 1, 1, 1])
    assert float(distance_share(z_BZ, lone, sums_by_arm(z_BZ, lone, 3), 3)[1]) == 0


def test_the_network_has_a_head_an_arm_and_weights_of_its_seed() -> None:
    one, two, other = (DragonNet(SIZES, 5, 3, seed) for seed in (1, 1, 2))
    x_BN = torch.randn(7, 5)
    x_BN[0, 2] = float("nan")
    found = one(x_BN)
    assert {name: tuple(each.shape) for name, each in found.items()} == {
        "outcome": (7, 3), "representation": (7, 16), "epsilon": (7,), "propensity": (7, 3),
    }  # fmt: skip
    torch.testing.assert_close(found["outcome"], two(x_BN)["outcome"])
    assert not torch.equal(found["outcome"], other(x_BN)["outcome"])
    cfr = DragonNet(DragonNetConfig(hidden=(16,), head=(8,), propensity=False, normalise=True), 5, 2, 0)(x_BN)
    assert "propensity" not in cfr
    torch.testing.assert_close(cfr["representation"].norm(dim=1), torch.ones(7))


def test_figures_add_up_over_parts_and_order_effects() -> None:
    draws = np.random.default_rng(0)
    rows = 6000
    effect = draws.uniform(-1, 1, rows).astype(np.float32)
    arm = draws.integers(0, 2, rows)
    y = (effect * arm + draws.normal(0, 0.3, rows)).astype(np.float32)
    outputs = {"outcome": torch.from_numpy(np.column_stack([np.zeros(rows, np.float32), effect]))}
    batch = TreatedBatch(torch.zeros(rows, 1), torch.from_numpy(arm), torch.from_numpy(y))
    whole, parts = EffectCounts(2, 2.0), EffectCounts(2, 2.0)
    whole.add(outputs, batch, None)  # type: ignore[arg-type]
    for piece in (slice(0, 100), slice(100, rows)):
        part = TreatedBatch(batch.numeric_BN[piece], batch.arm_B[piece], batch.outcome_B[piece])
        parts.add({"outcome": outputs["outcome"][piece]}, part, None)  # type: ignore[arg-type]
    figures, added = whole.figures(), parts.figures()
    assert figures.pop("absent") == added.pop("absent") == {}
    assert figures == pytest.approx(added)
    own = np.where(arm == 1, effect, 0)
    assert figures["outcome.rmse"] == pytest.approx(2 * np.sqrt(((own - y) ** 2).mean()), rel=1e-5)
    # Effects uniform on (-1, 1), best first: U(k) = k - k^2, whose area is 1/6; in units of the outcome twice that.
    assert figures["auuc"] == pytest.approx(2 / 6, abs=0.03)
    assert binned_auuc(np.zeros((64, 4))) is None
    assert EffectCounts(2, 1.0).figures()["rows"] == 0


def log_of(place: Path, rows: int = 3000, arms: int = 2) -> tuple[Path, np.ndarray]:
    """A log in which x0 makes treatment likelier and outcomes larger; the effect is 1 + x1."""
    draws = np.random.default_rng(0)
    x = draws.normal(size=(rows, 2))
    arm = (draws.random(rows) < 1 / (1 + np.exp(-x[:, 0]))).astype(np.int64)
    y = 2 * x[:, 0] + (1 + x[:, 1]) * arm + 0.3 * draws.normal(size=rows)
    schema = Schema("ab", (), ("x0", "x1"), {}, treatment=TreatmentColumns("arm"), outcome={"y": "y"})
    for part, piece in (("train", slice(0, rows // 2)), ("valid", slice(rows // 2, 2 * rows // 3)),
                        ("test", slice(2 * rows // 3, rows))):  # fmt: skip
        (place / part).mkdir(parents=True)
        table = pa.table({"x0": x[piece, 0], "x1": x[piece, 1], "arm": arm[piece], "y": y[piece]})
        pq.write_table(table, place / part / "a.parquet", row_group_size=500)
    schema.save(place / "schema.json")
    return place, x[2 * rows // 3 :]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), [("dragonnet", DragonNetSettings), ("cfr", CFRSettings)])
def test_effects_are_learnt_on_the_loop(tmp_path: Path, name: str, kind: type) -> None:
    log, x_RN = log_of(tmp_path / "log")
    values = {"batch_size": 100, "epochs": 12, "stream.lanes": 2, "model.hidden": (32,), "model.head": (16,),
              "optimizer.learning_rate": 0.01}  # fmt: skip
    given = settings_of(values | ({"balance": 0.1} if name == "cfr" else {}), kind)
    assert isinstance(given.config, TrainConfig)
    run = tmp_path / "run"
    run.mkdir()
    job = prepare(run, open_log(log), *given, started=0.0, problem=name)
    summary = run_training(job, workers=0)
    assert summary["outcome.rmse"] < 0.8  # noise is .3, the outcome's own spread 2.4
    finished = load_run(run)
    effect = finished.problem.effects(finished.network, x_RN)[:, 1]  # type: ignore[attr-defined]
    true = 1 + x_RN[:, 1]
    assert np.corrcoef(effect, true)[0, 1] > 0.8
    assert abs(effect.mean() - true.mean()) < 0.2
    assert finished.problem.representation(finished.network, x_RN).shape == (1000, 32)  # type: ignore[attr-defined]


def test_a_log_without_an_arm_is_refused(tmp_path: Path) -> None:
    log, _ = log_of(tmp_path / "log")
    given = settings_of({"epochs": 1}, DragonNetSettings)

    def prepared() -> None:
        prepare(tmp_path / "run", open_log(log), *given, started=0.0, problem="dragonnet")

    path = log / "train" / "a.parquet"
    table = pq.read_table(path)
    pq.write_table(table.set_column(2, "arm", pa.array([0] * len(table))), path)
    with pytest.raises(UserError, match="train: arm 1: nobody got it"):
        prepared()
    pq.write_table(table.set_column(3, "y", pa.array([1.0] * len(table))), path)
    with pytest.raises(UserError, match="the outcome is 1 in all rows"):
        prepared()


def test_deep_clusters_find_groups_and_their_losses_are_the_formulas() -> None:
    """Four groups apart in two of twelve dimensions of noise: nearly everybody with his own."""
    draws = np.random.default_rng(0)
    group_R = draws.integers(0, 4, 800)
    z_RZ = draws.normal(0, 0.3, (800, 12))
    z_RZ[:, 0] += 3 * (group_R % 2)
    z_RZ[:, 1] += 3 * (group_R // 2)
    found = deep_clusters(z_RZ, 4, 0, DeepSettings(steps=40, batch=128))
    own_R = found.of(z_RZ)
    assert sum(np.bincount(group_R[own_R == g], minlength=4).max() for g in range(4)) > 0.97 * 800
    np.testing.assert_array_equal(own_R, deep_clusters(z_RZ, 4, 0, DeepSettings(steps=40, batch=128)).of(z_RZ))
    h_BH, centre_GH = torch.tensor([[0.0], [2.0]]), torch.tensor([[0.0], [1.0]])
    q = np.array([[1, 1 / 2], [1 / 5, 1 / 2]])
    q /= q.sum(1, keepdims=True)
    p = q**2 / q.sum(0)
    p /= p.sum(1, keepdims=True)
    assert float(cluster_loss(h_BH, centre_GH)) == pytest.approx((p * np.log(p / q)).sum() / 2, rel=1e-5)
    one_BH = torch.eye(2)
    assert float(contrastive_loss(one_BH, one_BH, 0.5)) == pytest.approx(np.log(1 + np.exp(-2)), rel=1e-5)
