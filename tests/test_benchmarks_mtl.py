"""The multi-task benchmark: seeds side by side train as they do alone, and the tasks are what they claim to be."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from benchmarks.evaluation.mtl import (
    ADULT,
    SYNTHETIC,
    Arguments,
    adult_problem,
    differences,
    spread,
    squared,
    synthetic_problem,
)
from benchmarks.evaluation.mtl_training import MultiTask, Problem, fit
from models.backbones.base import BackboneConfig


def toy(seeds: int) -> Problem:
    generator = torch.Generator().manual_seed(0)
    x_RI = torch.randn(400, 6, generator=generator)
    y_SRT = torch.stack([torch.tanh(x_RI @ torch.randn(6, 2, generator=generator)) for _ in range(seeds)])
    order_SR = torch.stack([torch.randperm(400, generator=generator) for _ in range(seeds)])
    return Problem(x_RI, y_SRT, order_SR[:, :300], order_SR[:, 300:350], order_SR[:, 350:], squared)


@pytest.mark.parametrize("name", ["mmoe", "ple"])
def test_stacked_seeds_train_as_a_plain_loop_does(name: str) -> None:
    backbone = BackboneConfig(name, experts=2, expert_hidden=(8, 4))
    problem = toy(2)
    found = fit(problem, backbone, (4,), steps=60, batch=32, rate=0.03)
    assert found.loss_ST.max() < 0.7 * problem.y_SRT.var()
    for seed in range(2):
        torch.manual_seed(seed)
        network = MultiTask(6, 2, backbone, (4,))
        assert sum(p.numel() for p in network.parameters()) == found.parameters
        optimizer = torch.optim.Adam(network.parameters(), lr=0.03)
        generator = torch.Generator().manual_seed(0)
        best, kept, batches = math.inf, torch.empty(0), []
        for step in range(1, 61):
            batches = batches or [b for b in torch.randperm(300, generator=generator).split(32) if len(b) == 32]
            rows = problem.train_SN[seed, batches.pop(0)]
            optimizer.zero_grad()
            (network(problem.x_RI[rows]) - problem.y_SRT[seed, rows]).square().mean().backward()
            optimizer.step()
            optimizer.param_groups[0]["lr"] = 0.03 * (1 - step / 60)
            if step % 6 == 0:
                valid, test = problem.valid_SV[seed], problem.test_SM[seed]
                loss = (network(problem.x_RI[valid]) - problem.y_SRT[seed, valid]).square().mean().item()
                if loss < best:
                    best, kept = loss, network(problem.x_RI[test]).detach()
        torch.testing.assert_close(found.outputs_SMT[seed], kept, rtol=1e-3, atol=1e-4)
        expected = (kept - problem.y_SRT[seed, problem.test_SM[seed]]).square().mean(0)
        torch.testing.assert_close(found.loss_ST[seed], expected, rtol=1e-3, atol=1e-4)


def test_the_synthetic_tasks_have_the_correlation_asked_for() -> None:
    """With the sinusoids' share taken out by symmetry, the linear parts correlate as the weights do."""
    arguments = dataclasses.replace(Arguments(), seeds=2, inputs=5, sinusoids=1, frequency=1.0)
    problems = {p: synthetic_problem(arguments, p) for p in (1.0, 0.5, 0.0)}
    for p, problem in problems.items():
        x_RI, y_R2 = problem.x_RI, problem.y_SRT[0]
        slopes_I2 = x_RI.T @ (y_R2 - y_R2.mean(0)) / len(x_RI)  # parallel to w_k [Stein's lemma]
        cosine = torch.cosine_similarity(slopes_I2[:, 0], slopes_I2[:, 1], dim=0).item()
        assert abs(cosine) == pytest.approx(p, abs=0.03)
        torch.testing.assert_close(y_R2[:, 0], problems[1.0].y_SRT[0, :, 0], rtol=1e-4, atol=1e-4)
    rows = torch.cat([problem.train_SN[0], problem.valid_SV[0], problem.test_SM[0]])
    assert sorted(rows.tolist()) == list(range(len(x_RI)))


def test_networks_are_of_nearly_equal_size() -> None:
    for networks, inputs, tower in ((SYNTHETIC, 100, (8,)), (ADULT, 100, (8,))):
        sizes = [
            sum(p.numel() for p in MultiTask(inputs, 2, backbone, tower).parameters()) for backbone in networks.values()
        ]
        assert max(sizes) < 1.1 * min(sizes), dict(zip(networks, sizes, strict=True))


def test_adults_splits_are_disjoint_and_differ_by_seed(shared_data: Path) -> None:
    problem = adult_problem(dataclasses.replace(Arguments(), seeds=2, adult=shared_data / "adult"))
    for seed in range(2):
        rows = torch.cat([problem.train_SN[seed], problem.valid_SV[seed], problem.test_SM[seed]])
        assert torch.equal(rows.sort().values, torch.arange(48_842))
    assert not torch.equal(problem.test_SM[0], problem.test_SM[1])
    assert torch.isfinite(problem.x_RI).all()


def test_words() -> None:
    assert spread([1.0, 3.0]) == "2.0000 ± 1.4142"
    assert differences([1.0, 3.0], [2.0, 5.0], better=-1) == "-1.5000 ± 0.5000 (2 of 2 better)"
