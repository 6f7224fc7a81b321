"""The hidden cause against integrals, enumeration and finite differences."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import integrate
from scipy.special import expit
from scipy.stats import norm

from data.errors import UserError
from models.entire_space import EntireSpaceModel, ModelConfig
from models.hidden_cause import (
    CAUSE,
    LIFT,
    HiddenCause,
    both_logit,
    log_clicked,
    log_clicked_and,
    marginal_logit,
    nodes,
)
from models.instrument import SHIFT, Instruments
from models.objectives.base import Labels, ObjectiveConfig
from models.objectives.escm2_joint import Escm2Joint
from models.objectives.escm2_joint_ips import Escm2JointIps
from models.objectives.naive import Naive

A, B = torch.tensor([-2.0, 0.3, 4.0], dtype=torch.float64), torch.tensor([1.0, -1.5, 0.2], dtype=torch.float64)


def integral(a: float, b: float | None, theta: float, click: int, conversion: int) -> float:
    """P(o = click[, r = conversion]) by adaptive quadrature."""
    h, sh = abs(theta) ** 0.5, np.copysign(abs(theta) ** 0.5, theta)

    def inside(v: float) -> float:
        value = expit((2 * click - 1) * (a + h * v)) * norm.pdf(v)
        return float(value if b is None else value * expit((2 * conversion - 1) * (b + sh * v)))

    return float(integrate.quad(inside, -12, 12)[0])


@pytest.mark.parametrize("theta", [0.0, 0.49, 1.5, -0.8])
def test_sums_over_nodes_are_the_integrals(theta: float) -> None:
    cause = torch.tensor(theta, dtype=torch.float64)
    clicked, other = log_clicked(A, cause)
    for row, (a, b) in enumerate(zip(A.tolist(), B.tolist(), strict=True)):
        assert clicked[row].exp().item() == pytest.approx(integral(a, None, theta, 1, 0), abs=2e-5)
        for label in (0, 1):
            both = log_clicked_and(A, B, cause, torch.full_like(A, label))
            assert both[row].exp().item() == pytest.approx(integral(a, b, theta, 1, label), abs=2e-5)
    # the outcomes of an exposure are all there are
    both = [log_clicked_and(A, B, cause, torch.full_like(A, label)).exp() for label in (0, 1)]
    torch.testing.assert_close(both[0] + both[1] + other.exp(), torch.ones_like(A))


def test_the_objective_is_the_mean_negative_log_likelihood() -> None:
    """With lambda_c = |O|/|D|, of an enumeration in float64; and of any cut into two workers' rows."""
    rng = np.random.default_rng(0)
    rows, theta = 40, 0.7
    a, b = rng.normal(-1, 2, rows), rng.normal(0, 1, rows)
    click = (rng.random(rows) < 0.4).astype(float)
    conversion = click * (rng.random(rows) < 0.5)
    weight = rng.integers(1, 4, rows).astype(float)
    probability = [
        integral(x, None, theta, 0, 0) if not o else integral(x, y, theta, 1, int(c))
        for x, y, o, c in zip(a, b, click, conversion, strict=True)
    ]
    wanted = -(weight @ np.log(probability)) / weight.sum()
    share = float(weight @ click / weight.sum())
    objective = Escm2Joint(ObjectiveConfig("escm2_joint", lambda_c=share), 0.1)
    cut = [slice(0, 13), slice(13, rows)]

    def tensors(part: slice) -> tuple[dict[str, torch.Tensor], Labels]:
        one = [torch.from_numpy(x[part]) for x in (a, b, click, conversion, weight)]
        logits = {"ctr": one[0], "cvr": one[1], CAUSE: torch.full_like(one[0], theta)}
        return logits, Labels(one[2], one[3], one[4])

    pieces = [tensors(part) for part in cut]
    totals = sum((objective.totals(*piece) for piece in pieces), start=torch.zeros(2))
    found = sum(objective(*piece, totals)["loss"].item() for piece in pieces)
    assert found == pytest.approx(wanted, rel=1e-5)


def test_without_a_cause_it_is_naive() -> None:
    labels = Labels(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 0.0]))
    logits = {"ctr": A.float(), "cvr": B.float(), CAUSE: torch.zeros(3)}
    joint, naive = Escm2Joint(ObjectiveConfig("escm2_joint"), 0.1), Naive(ObjectiveConfig("naive"), 0.1)
    totals = labels.totals()
    for name in ("ctr", "cvr", "loss"):
        assert joint(logits, labels, totals)[name].item() == pytest.approx(
            naive(logits, labels, totals)[name].item(), rel=1e-5
        )


@pytest.mark.parametrize("theta", [0.0, 0.5, -0.5])
def test_theta_has_a_slope_everywhere(theta: float) -> None:
    """Where it begins, at 0, too: that of finite differences on either side."""
    labels = Labels(torch.tensor([1.0, 0.0, 1.0]).double(), torch.tensor([1.0, 0.0, 0.0]).double())
    objective = Escm2Joint(ObjectiveConfig("escm2_joint"), 0.1)

    def loss(value: torch.Tensor) -> torch.Tensor:
        return objective({"ctr": A, "cvr": B, CAUSE: value.expand(3)}, labels, labels.totals())["loss"]

    point = torch.tensor(theta, dtype=torch.float64, requires_grad=True)
    loss(point).backward()
    step = 1e-4
    ahead = (loss(torch.tensor(theta + step).double()) - loss(torch.tensor(theta).double())) / step
    assert point.grad is not None
    assert point.grad.item() == pytest.approx(ahead.item(), rel=0.02)


def test_far_logits_stay_finite() -> None:
    a = torch.tensor([-80.0, 80.0, -80.0, 80.0], requires_grad=True)
    b = torch.tensor([80.0, -80.0, -80.0, 80.0], requires_grad=True)
    labels = Labels(torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.tensor([0.0, 0.0, 1.0, 0.0]))
    cause = torch.tensor(1.0, requires_grad=True)
    terms = Escm2Joint(ObjectiveConfig("escm2_joint"), 0.1)({"ctr": a, "cvr": b, CAUSE: cause.expand(4)}, labels,
                                                             labels.totals())  # fmt: skip
    terms["loss"].backward()
    assert terms["loss"].isfinite()
    for tensor in (a, b, cause):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


def test_what_the_network_says_of_a_cause_is_the_joint_law() -> None:
    cause = HiddenCause(0.9)
    said = cause.marginal(A, B)
    for row, (a, b) in enumerate(zip(A.tolist(), B.tolist(), strict=True)):
        assert said["ctr"][row].sigmoid().item() == pytest.approx(integral(a, None, 0.9, 1, 0), abs=2e-5)
        assert said["cvr"][row].sigmoid().item() == pytest.approx(integral(b, None, 0.9, 1, 0), abs=2e-5)
        assert both_logit(said)[row].sigmoid().item() == pytest.approx(integral(a, b, 0.9, 1, 1), abs=2e-5)
    assert (said[LIFT] > 0).all()
    torch.testing.assert_close(marginal_logit(A, torch.tensor(0.0).double()), A, atol=1e-5, rtol=1e-5)


def network(cause: float | str | None = None, crossing: str = "none") -> EntireSpaceModel:
    config = dataclasses.replace(ModelConfig(embedding_width=4, tower_hidden=(8,)), crossing=crossing)
    return EntireSpaceModel(config, (5, 6, 7), 2, ("ctr", "cvr"), 3, instruments=Instruments((1,), (0,)), cause=cause)


@pytest.mark.parametrize("crossing", ["none", "fm", "dcn_v2"])
def test_instruments_reach_the_click_tower_alone(crossing: str) -> None:
    model = network(crossing=crossing)
    ids, other = torch.tensor([[1, 6, 12], [2, 7, 13]]), torch.tensor([[1, 9, 12], [2, 10, 13]])
    numbers, moved = torch.tensor([[0.5, 1.0], [0.1, 2.0]]), torch.tensor([[3.0, 1.0], [-2.0, 2.0]])
    model.eval()
    one, two = model.logits(ids, numbers), model.logits(other, moved)
    torch.testing.assert_close(one["cvr"], two["cvr"], rtol=0, atol=0)
    torch.testing.assert_close(one["ctr"] - one[SHIFT], two["ctr"] - two[SHIFT])
    assert (one["ctr"] - two["ctr"]).abs().min() > 1e-4
    model.train()
    model.logits(ids, numbers)["cvr"].sum().backward()
    assert model.shallow is not None
    assert all(parameter.grad is None for parameter in model.shallow.parameters())
    touched = model.embedding.tables[0].touched
    assert touched is not None
    assert (touched.gradient()[torch.isin(touched.ids_U, ids[:, 1])] == 0).all()


def test_a_network_says_logits_in_training_and_probabilities_after() -> None:
    model = network(cause=1.2)
    ids, numbers = torch.tensor([[1, 6, 12], [2, 7, 13]]), torch.zeros(2, 2)
    trained = model.logits(ids, numbers)
    assert trained[CAUSE].tolist() == pytest.approx([1.2, 1.2])
    said = model.eval().logits(ids, numbers)
    assert set(said) == set(model.says)
    torch.testing.assert_close(said["cvr"], marginal_logit(trained["cvr"], torch.tensor(1.2)))
    assert "cause.scaled" not in dict(model.named_parameters())
    assert "cause.scaled" in dict(network(cause="learnt").named_parameters())


def test_a_theta_that_is_none_is_refused() -> None:
    for wrong in ("strong", 10.0, float("nan")):
        with pytest.raises(UserError, match="theta must be estimated, shrunk, learnt or a number"):
            ObjectiveConfig(theta=wrong)


def test_nodes_are_those_of_numpy() -> None:
    node_K, weight_K = np.polynomial.hermite_e.hermegauss(15)
    found = nodes()
    np.testing.assert_allclose(found[0], node_K, atol=1e-12)
    np.testing.assert_allclose(np.exp(found[1]), weight_K / np.sqrt(2 * np.pi), atol=1e-14)


def test_weights_of_the_weighed_joint_model_are_constants() -> None:
    """No gradient by way of 1/q~: with the same weights from a click model of its own the gradients are the same."""
    a, b = (torch.tensor(x, dtype=torch.float64).requires_grad_() for x in ([0.3, -1.2, 0.8], [-0.4, 0.1, 1.0]))
    theta = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    click, label = torch.tensor([1.0, 1.0, 0.0]).double(), torch.tensor([1.0, 0.0, 0.0]).double()
    objective = Escm2JointIps(ObjectiveConfig("escm2_joint_ips", clip=0.0), 0.1)
    outputs = {"ctr": a, "cvr": b, CAUSE: theta.expand(3)}
    found = []
    for given in (None, marginal_logit(a, theta).detach()):
        labels = Labels(click, label, click_logit_B=given)
        term = objective(outputs, labels, labels.totals())["cvr"]
        found.append(torch.autograd.grad(term, [a, b, theta]))
    for own, other in zip(*found, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-14)
