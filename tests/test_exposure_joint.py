"""All shares at once as a problem: the network, its floor of what was seen, the policy, training through the loop."""

import math
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from support import error_line, events

from data.errors import UserError
from data.log import open_log
from distributed.finished_run import load_run
from funnel.exposure.dose_units import DoseUnits
from funnel.exposure.joint import JointProblem, JointSettings
from funnel.exposure.joint_counts import JointCounts
from funnel.exposure.logs import ShareLog, ShareLogs, ShareWorld
from funnel.exposure.overlap import Overlap, OverlapSettings
from funnel.exposure.shares import ShareRows
from funnel.exposure.simulation import simulate
from funnel.exposure.value import Judge, compare
from jobs import train
from jobs.report import write_page
from models.joint_dose import JointDose, JointDoseConfig, basis
from models.joint_shares import PolicyConfig, Seen, SimplexPolicy


def test_the_basis_and_a_layer_by_hand() -> None:
    dose, knots = torch.tensor([[0.5, -1.0]]), torch.tensor([[0.0, 0.4], [-2.0, 1.0]])
    found = basis(dose, knots)[0].tolist()
    assert found == pytest.approx([1, 0.5, -1, 0.25, 1, 0.25, 0.01, 1, 0], abs=1e-6)
    network = JointDose(3, knots, JointDoseConfig(hidden=4, head=(5,)), 2)
    x = torch.randn(1, 3)
    first, last = network.layers
    psi, hidden = basis(dose, knots)[0], network.body(x)[0]
    inner = (hidden @ torch.einsum("l,lio->io", psi, first.weight) + psi @ first.bias).relu()
    expected = inner @ torch.einsum("l,lio->io", psi, last.weight) + psi @ last.bias
    torch.testing.assert_close(network(x, dose), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="positive widths"):
        JointDoseConfig(hidden=0)


def narrow(rows: int = 600) -> ShareRows:
    """Users who were all shown about a third of each of three categories."""
    random = np.random.default_rng(3)
    shares = np.abs(np.array([0.34, 0.33, 0.33]) + 0.03 * random.standard_normal((rows, 3)))
    shares /= shares.sum(axis=1, keepdims=True)
    x = random.standard_normal((rows, 2))
    return ShareRows(x, shares, shares[:, 0].copy(), ("a", "b"), ("k", "l", "m"), where="narrow")


def test_refusals_in_float32_are_those_of_float64() -> None:
    rows = simulate(2000, 0)
    overlap = Overlap.fit(rows, OverlapSettings(user_groups=3), 0)
    group, kernels = overlap.group(rows.features_RF), overlap.tensors()
    shares = torch.from_numpy(0.7 * rows.shares_RK + 0.3 * np.eye(6)[2]).float()
    exact = overlap.log_density(group, shares.double().numpy())
    refused = overlap.refused_fast(torch.from_numpy(group), shares, kernels).numpy()
    np.testing.assert_array_equal(refused, exact < overlap.floor_G[group])
    assert 0.01 < refused.mean() < 0.99


def test_shares_are_drawn_in_as_little_as_it_takes() -> None:
    rows = narrow()
    overlap, mean = Overlap.fit(rows, OverlapSettings(user_groups=2), 0), rows.shares_RK.mean(axis=0)
    wanted = np.tile([0.8, 0.1, 0.1], (len(rows), 1))
    given, group = overlap.drawn_in(rows.features_RF, wanted, mean), overlap.group(rows.features_RF)
    assert not overlap.refused(group, given).any()
    part = (given[:, 0] - mean[0]) / (0.8 - mean[0])
    np.testing.assert_allclose(10 * part, np.round(10 * part), atol=1e-9)
    assert (part > 0).all()
    assert overlap.refused(group, mean + (part + 0.1)[:, None] * (wanted - mean)).all()
    seen = overlap.drawn_in(rows.features_RF, np.tile(mean, (len(rows), 1)), mean)
    np.testing.assert_array_equal(seen, np.tile(mean, (len(rows), 1)))
    again = Overlap.restore(overlap.arrays())
    np.testing.assert_array_equal(again.drawn_in(rows.features_RF, wanted, mean), given)


def seen_of(overlap: Overlap) -> Seen:
    """The same floor as a module, of users whose features are standardised already."""
    groups, kernels = len(overlap.kernels), max(map(len, overlap.kernels))
    found = Seen(groups, kernels, overlap.centre_GF.shape[1], overlap.kernels[0].shape[1])
    found.centre_GN.copy_(torch.from_numpy(overlap.centre_GF))
    found.floor_G.copy_(torch.from_numpy(overlap.floor_G))
    found.width.fill_(overlap.width)
    found.there_GM.zero_()
    for group, kernel in enumerate(overlap.kernels):
        found.kernel_GMK[group, : len(kernel)] = torch.from_numpy(kernel / overlap.width)
        found.there_GM[group, : len(kernel)] = True
    return found


def test_the_floor_of_the_network_is_that_of_the_overlap() -> None:
    """Groups, densities and drawn-in shares in float32 against float64; groups have unequal numbers of kernels."""
    rows = simulate(300, 0)
    overlap = Overlap.fit(rows, OverlapSettings(user_groups=4, kernels=90), 0)
    assert len({len(kernels) for kernels in overlap.kernels}) > 1
    seen, group = seen_of(overlap), overlap.group(rows.features_RF)
    x = torch.from_numpy((rows.features_RF - overlap.mean_F) / overlap.scale_F).float()
    np.testing.assert_array_equal(seen.group(x).numpy(), group)
    wanted = 0.6 * rows.shares_RK + 0.4 * np.eye(6)[2]
    shares = torch.from_numpy(wanted).float().requires_grad_()
    found, exact = seen.log_density(torch.from_numpy(group), shares), overlap.log_density(group, wanted)
    np.testing.assert_allclose(found.detach().numpy(), exact, atol=2e-4)
    lack = seen.lack(torch.from_numpy(group), shares)
    np.testing.assert_allclose(lack.detach().numpy(), np.maximum(overlap.floor_G[group] - exact, 0), atol=2e-4)
    assert 0.05 < float((lack > 0).float().mean()) < 0.95
    found.sum().backward()
    assert shares.grad is not None
    assert bool(shares.grad.isfinite().all())
    step = 1e-4 * torch.randn(shares.shape, generator=torch.Generator().manual_seed(0))
    later = overlap.log_density(group, (shares + step).detach().double().numpy())
    assert later.sum() - exact.sum() == pytest.approx(float((shares.grad * step).sum()), rel=0.05, abs=0.02)
    mean = rows.shares_RK.mean(axis=0)
    given = seen.drawn_in(torch.from_numpy(group), shares.detach(), torch.from_numpy(mean).float())
    np.testing.assert_allclose(given.numpy(), overlap.drawn_in(rows.features_RF, wanted, mean), atol=1e-5)


def test_a_policy_begins_at_the_logs_mean_shares() -> None:
    start = torch.tensor([0.5, 0.3, 0.2])
    for hidden in (0, 5):
        torch.manual_seed(1)
        policy = SimplexPolicy(2, start, PolicyConfig(hidden=hidden, rate=4.0))
        x = torch.randn(3, 2)
        torch.testing.assert_close(policy(x), start.expand(3, 3))
        with torch.no_grad():
            policy.weights[-1].normal_()
        value = x if not hidden else (x @ (4 * policy.weights[0])).tanh()
        odds = start * (value @ (4 * policy.weights[-1])).exp()
        torch.testing.assert_close(policy(x), odds / odds.sum(1, keepdim=True))
    with pytest.raises(UserError, match=r"policy\.rate is 0"):
        PolicyConfig(rate=0)


@pytest.fixture(scope="module")
def share_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("joint") / "log"
    ShareLogs.write(ShareWorld(), ShareLog(6000, 3), {}, "", out)
    return out


def opened(log: Path, **settings: Any) -> tuple[JointProblem, DoseUnits]:
    """The problem, and its units of the test part."""
    there, own = open_log(log), JointSettings(**settings)
    parts = {name: there.part(name) for name in ("train", "test")}
    problem = JointProblem(own, there.schema, JointProblem.prepare(own, there, parts), {})
    return problem, problem.encode(next(iter(there.read(parts["test"], problem.columns))))


def test_the_loss_by_hand_and_what_each_term_moves(share_log: Path) -> None:
    problem, units = opened(share_log, price=3.0, policy=PolicyConfig(hidden=4))
    module = problem.network(seed=2)
    network, batch = module.network, units.take(slice(0, 40)).batch()
    with torch.no_grad():
        network.policy.weights[-1].normal_(std=0.4)
    totals = torch.tensor([40.0], dtype=torch.float64)
    terms = problem.loss(module(batch), batch, totals, 0)
    x = network.standardise(batch.numeric_BN)
    wanted, group = network.policy(x), network.seen.group(x)
    mu = network.outcome(x, (batch.dose_B - network.centre_K) / network.scale_K)
    promised = network.outcome(x, (wanted - network.centre_K) / network.scale_K)
    lack = (network.seen.floor_G[group] - network.seen.log_density(group, wanted)).clamp(min=0)
    assert 0 < int((lack > 0).sum()) < 40
    assert terms["outcome"].item() == pytest.approx((batch.outcome_B - mu).square().mean().item(), rel=1e-5)
    assert terms["promised"].item() == pytest.approx(-promised.mean().item(), rel=1e-5, abs=1e-6)
    assert terms["lack"].item() == pytest.approx(3 * lack.mean().item(), rel=1e-5)
    whole = terms["outcome"] + terms["promised"] + terms["lack"]
    assert terms["loss"].item() == pytest.approx(whole.item(), rel=1e-6)
    # the policy is moved by the promise and the floor alone, the outcome's network by its errors alone
    outcome, policy = list(network.outcome.parameters()), list(network.policy.parameters())
    own = torch.autograd.grad(terms["loss"], [*outcome, *policy], retain_graph=True)
    errors = torch.autograd.grad((batch.outcome_B - mu).square().mean(), outcome, retain_graph=True)
    torch.testing.assert_close(own[: len(outcome)], errors, rtol=1e-4, atol=1e-6)
    gains = torch.autograd.grad(3 * lack.mean() - promised.mean(), policy)
    torch.testing.assert_close(own[len(outcome) :], gains, rtol=1e-4, atol=1e-6)


def test_shares_of_workers_add_up_to_the_global_loss(share_log: Path) -> None:
    problem, units = opened(share_log)
    module, totals = problem.network(seed=3), torch.tensor([200.0], dtype=torch.float64)

    def loss(index: slice) -> torch.Tensor:
        batch = units.take(index).batch()
        return problem.loss(module(batch), batch, totals, 0)["loss"]

    torch.testing.assert_close(loss(slice(0, 70)) + loss(slice(70, 200)), loss(slice(0, 200)), rtol=1e-5, atol=1e-6)
    assert loss(slice(0, 0)).item() == 0
    found = module.eval()(units.take(slice(0, 7)).batch())
    assert found["given"].shape == (7, 6)
    assert {len(value) for value in found.values()} == {7}


def test_a_price_keeps_the_policy_where_users_were_seen() -> None:
    """By a network that promises more of the first category without end."""
    rows = narrow()
    overlap = Overlap.fit(rows, OverlapSettings(user_groups=2, floor=0.05), 0)
    seen, start = seen_of(overlap), torch.from_numpy(rows.shares_RK.mean(axis=0)).float()
    x = torch.from_numpy((rows.features_RF - overlap.mean_F) / overlap.scale_F).float()
    group = seen.group(x)

    def learnt(price: float) -> torch.Tensor:
        torch.manual_seed(0)
        policy = SimplexPolicy(2, start, PolicyConfig(hidden=0))
        optimizer = torch.optim.Adam(policy.parameters(), 0.01)
        for _ in range(60):
            shares = policy(x)
            (price * seen.lack(group, shares) - 5 * shares[:, 0]).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return policy(x).detach()

    free, held = learnt(0.0), learnt(5.0)
    assert float(free[:, 0].mean()) > 0.6
    assert float((seen.lack(group, free) > 0).float().mean()) == 1.0
    assert 0.36 < float(held[:, 0].mean()) < 0.5
    assert float(seen.lack(group, held).mean()) < 0.1


def test_the_gain_and_its_interval_are_those_of_the_judge() -> None:
    """Sums of two parts against value.py, which holds all rows in memory."""
    rows = simulate(900, 5, noise=0.1)
    overlap = Overlap.fit(simulate(800, 6), OverlapSettings(user_groups=3, floor=0), 0)
    mean, (level, scale) = rows.shares_RK.mean(axis=0), (1.5, 0.25)
    given = 0.5 * mean + 0.5 * simulate(900, 7).shares_RK

    def predict(features: np.ndarray, shares: np.ndarray) -> np.ndarray:
        return 1.4 + 0.3 * shares[:, 2] + 0.001 * features[:, 0]

    judge = Judge(rows, predict, overlap, mean)
    expected = compare(judge, {"policy": given, "mean": np.tile(mean, (900, 1))}, "policy", ("mean",))
    outputs = {
        "mu": (predict(rows.features_RF, rows.shares_RK) - level) / scale,
        "promised": (predict(rows.features_RF, given) - level) / scale,
        "plain": (predict(rows.features_RF, np.tile(mean, (900, 1))) - level) / scale,
        "density": judge.log_density_R,
        "given": given,
        "drawn_in": np.zeros(900),
    }
    names = [f"best.{name}" for name in rows.categories]
    assert rows.best_RK is not None
    counts = []
    for cut in (slice(0, 350), slice(350, 900)):
        own = JointCounts(level, scale, overlap.width, -3.0, torch.from_numpy(mean), rows.categories, True)
        assert list(own.columns) == names
        units = DoseUnits(rows.features_RF[cut], rows.shares_RK[cut], (rows.outcome_R[cut] - level) / scale)
        table = pa.table(dict(zip(names, rows.best_RK[cut].T, strict=True)))
        own.add({name: torch.from_numpy(value[cut]) for name, value in outputs.items()}, units.batch(), table)
        counts.append(own)
    for one, other in zip(counts[0].sums(), counts[1].sums(), strict=True):
        one += other
    found = counts[0].figures()
    gap = judge.worth(given)["doubly_robust"].part_R - judge.worth(np.tile(mean, (900, 1)))["doubly_robust"].part_R
    for end, z in (("", 0.0), (".low", -NormalDist().inv_cdf(0.9875)), (".high", NormalDist().inv_cdf(0.9875))):
        assert found[f"gain{end}"] == pytest.approx(gap.mean() + z * gap.std() / 900**0.5, rel=1e-4)
    assert found["gain"] == pytest.approx(expected["policy.over.mean.doubly_robust"], rel=1e-6)
    for name in ("policy.model", "policy.effective"):
        assert found[name] == pytest.approx(expected[name], rel=1e-6)
    assert found["policy.value"] == pytest.approx(expected["policy.doubly_robust"], rel=1e-6)
    assert found["mean.value"] == pytest.approx(expected["mean.doubly_robust"], rel=1e-6)
    assert found["policy.l1"] == pytest.approx(np.abs(given - rows.best_RK).sum(axis=1).mean(), rel=1e-6)
    assert found["mean.mtse"] == pytest.approx(((mean - rows.best_RK) ** 2).sum(axis=1).mean(), rel=1e-6)
    error = rows.outcome_R - predict(rows.features_RF, rows.shares_RK)
    assert found["mse"] == pytest.approx((error**2).mean(), rel=1e-9)
    assert found["r2"] == pytest.approx(1 - (error**2).mean() / rows.outcome_R.var(), rel=1e-6)
    assert counts[0].curves()["given"] == pytest.approx(given.mean(axis=0).tolist())


def test_without_a_floor_nobody_is_drawn_in_and_the_gain_is_known(share_log: Path) -> None:
    problem, units = opened(share_log, overlap=OverlapSettings(floor=0))
    module, counts = problem.network(seed=1), problem.counts(open_log(share_log), open_log(share_log).part("test"))
    with torch.no_grad():
        module.network.policy.weights[-1].normal_(std=2.0)
        counts.add(module.eval()(units.batch()), units.batch(), pa.table({}))
    figures = counts.figures()
    assert figures["policy.drawn_in"] == 0
    assert figures["gain.low"] < figures["gain"] < figures["gain.high"]
    assert 1 < figures["policy.effective"] < 300
    assert figures["absent"] == {}


def words(log: Path, out: Path, *more: object) -> tuple[str, ...]:
    given = ("--problem", "joint_shares", "--data", log, "--out", out, "--preset", "thorough", *more)
    return tuple(map(str, given))


@pytest.mark.slow
def test_training_through_the_loop(share_log: Path, tmp_path: Path) -> None:
    more = ("--epochs", 12, "--batch-size", 128, "--workers", 0)
    summary = train.run(train.arguments_of(*words(share_log, tmp_path / "run", *more)))
    assert summary["r2"] > 0.5
    assert summary["gain.low"] > 0.1
    assert summary["policy.l1"] < 0.56  # the log's mean shares have 0.70
    assert summary["mean.mtse"] == pytest.approx(0.088, abs=0.003)
    run = load_run(tmp_path / "run")
    problem, module = run.problem, run.network
    assert isinstance(problem, JointProblem)
    users = simulate(50, 9)
    given = problem.shares(module, users.features_RF)
    np.testing.assert_allclose(given.sum(axis=1), 1, atol=1e-9)
    assert users.best_RK is not None
    assert np.abs(given - users.best_RK).sum(axis=1).mean() < 0.56
    write_page([tmp_path / "run"], tmp_path / "page.html")
    assert "Mean shares" in (tmp_path / "page.html").read_text()
    assert all(math.isfinite(each["gain"]) for each in events(tmp_path / "run", "valid"))


@pytest.mark.ray
@pytest.mark.slow
def test_ray_workers_train_what_one_process_trains(ray_cluster: None, share_log: Path, tmp_path: Path) -> None:
    found = []
    for workers in (0, 2):
        out = tmp_path / str(workers)
        summary = train.run(train.arguments_of(*words(share_log, out, "--epochs", 2, "--workers", workers)))
        found.append((summary, load_run(out).network.state_dict()))
    (one, weights), (two, others) = found
    assert two["train.workers"] == 2
    for name in ("mse", "gain", "policy.l1"):
        assert two[name] == pytest.approx(one[name], rel=1e-3), name
    for name, expected in weights.items():
        torch.testing.assert_close(others[name], expected, rtol=2e-3, atol=2e-4, msg=name)


def test_what_cannot_be_trained_is_one_line(share_log: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    import pyarrow.parquet as pq
    from support import copy

    log = copy(share_log, tmp_path)
    (path,) = (log / "train").glob("*.parquet")
    table = pq.read_table(path)
    share = table["game"].to_numpy().copy()
    share[5] += 0.2
    pq.write_table(table.set_column(table.schema.get_field_index("game"), "game", pa.array(share)), path)
    line = error_line(train, words(log, tmp_path / "run"), monkeypatch, capsys)
    assert "the sum of the shares film, food, game, life, outdoors, beauty is 1.2 in row 5" in line
    line = error_line(train, words(share_log, tmp_path / "x", "--price", -1), monkeypatch, capsys)
    assert "price is -1.0, must be a finite number of at least 0" in line
