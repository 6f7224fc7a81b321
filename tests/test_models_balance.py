"""Terms that ask a click model for balance: against their formulas, over workers, and what they bring about."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support import config, job_of, train_here
from torch import Tensor

from data.encode import Encoder
from data.errors import UserError
from data.log import open_log
from funnel.ranking.balanced_fields import SliceCodes
from models.objectives.balance import BalanceConfig, imbalances, penalty, sums, tailored
from models.objectives.base import Labels, ObjectiveConfig
from models.objectives.terms import binary_cross_entropy
from models.registry import build_objective

CLIP = 0.05
ROWS = 600


def drawn(seed: int = 0) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Logits, clicks, and two slicings of three and two slices."""
    generator = torch.Generator().manual_seed(seed)
    ctr, cvr = (torch.randn(ROWS, generator=generator, dtype=torch.float64) - 1.5 for _ in range(2))
    click = (torch.rand(ROWS, generator=generator) < 0.3).double()
    code = torch.stack([torch.randint(0, 3, (ROWS,), generator=generator),
                        torch.randint(3, 5, (ROWS,), generator=generator)], 1)  # fmt: skip
    return {"ctr": ctr.requires_grad_(), "cvr": cvr.requires_grad_()}, click, code


def test_the_slope_of_the_tailored_loss_is_the_imbalance() -> None:
    """1 - o / max(q, clip), at any logit: so a step of descent moves the weighed mean towards the plain one."""
    logits, click, _ = drawn()
    logit = torch.cat([logits["ctr"].detach(), torch.tensor([-9.0, -9.0, 9.0, 9.0]).double()]).requires_grad_()
    click = torch.cat([click, torch.tensor([1.0, 0.0, 1.0, 0.0]).double()])
    (slope,) = torch.autograd.grad(tailored(logit, click, CLIP).sum(), logit)
    wanted = 1 - click / logit.detach().sigmoid().clamp(min=CLIP)
    torch.testing.assert_close(slope, wanted, rtol=1e-12, atol=1e-12)
    step = 1e-6
    difference = (tailored(logit + step, click, CLIP) - tailored(logit - step, click, CLIP)) / (2 * step)
    torch.testing.assert_close(difference.detach(), wanted, rtol=1e-5, atol=1e-5)


def naive_penalty(logits: dict[str, Tensor], click: Tensor, code: Tensor, weight: Tensor) -> Tensor:
    """Pair by pair: sum over i != j of phi_i u_i phi_j u_j."""
    u = click / logits["ctr"].sigmoid().clamp(min=CLIP) - 1
    found = torch.zeros((), dtype=torch.float64)
    for phi in (torch.ones(ROWS).double(), logits["cvr"].detach().sigmoid()):
        members = torch.stack([(code == k).any(1).double() for k in range(5)])
        everything = (members * phi * weight).sum()
        for member in members:
            t = member * weight * phi * u
            pairs = t.unsqueeze(0) * t.unsqueeze(1)
            found = found + (pairs.sum() - pairs.diagonal().sum()) / ((member * weight * phi).sum() * everything)
    return found / 2


@pytest.mark.parametrize("name", ["naive", "escm2_snips"])
def test_the_penalty_equals_its_formula_and_adds_up_over_workers(name: str) -> None:
    logits, click, code = drawn(1)
    weight = 0.5 + torch.rand(ROWS, generator=torch.Generator().manual_seed(5)).double()
    settings = ObjectiveConfig(name=name, clip=CLIP, balance=BalanceConfig(0.7, "slices"), gamma_ctr=0.5)
    objective = build_objective(settings, click_rate=0.3)
    objective.epoch = 1

    def part(rows: Tensor) -> tuple[dict[str, Tensor], Labels]:
        own = {task: logit[rows] for task, logit in logits.items()}
        return own, Labels(click[rows], 0 * click[rows], weight[rows], slice_BS=code[rows], slices=5)

    def totals(rows: Tensor) -> Tensor:
        given = part(rows)
        return torch.cat([objective.totals(*given), objective.balance_totals(*given)]).detach()

    everything = torch.arange(ROWS)
    terms = objective(*part(everything), totals(everything))
    bare = (weight * binary_cross_entropy(logits["ctr"], click)).sum() / weight.sum()
    wanted = bare + 0.7 * naive_penalty(logits, click, code, weight)
    assert terms["ctr"].item() == pytest.approx(wanted.item(), rel=1e-10)
    (slope,) = torch.autograd.grad(terms["ctr"], logits["ctr"])
    (expected,) = torch.autograd.grad(wanted, logits["ctr"])
    torch.testing.assert_close(slope, expected, rtol=1e-9, atol=1e-12)
    order = torch.argsort(click)
    shares = [order[:200], order[200:]]
    summed = totals(shares[0]) + totals(shares[1])
    found = [objective(*part(rows), summed) for rows in shares]
    assert sum(one["ctr"].item() for one in found) == pytest.approx(wanted.item(), rel=1e-10)
    (slopes,) = torch.autograd.grad(found[0]["ctr"] + found[1]["ctr"], logits["ctr"])
    torch.testing.assert_close(slopes, expected, rtol=1e-9, atol=1e-12)


def test_sums_are_the_same_by_product_and_row_by_row() -> None:
    logits, click, code = drawn(2)
    found = imbalances(logits["ctr"], logits["cvr"], click, None, CLIP)
    few, many = sums(found, code, 5).view(5, -1), sums(found, code, 5000).view(5000, -1)
    torch.testing.assert_close(few, many[:5])
    assert not many[5:].any()


def test_the_penalty_is_0_on_average_where_propensities_are_true() -> None:
    """The squares that are taken away are what chance adds: without that the mean would be far from 0."""
    logits, _, code = drawn(3)
    q, generator = logits["ctr"].detach().sigmoid().clamp(min=CLIP), torch.Generator().manual_seed(7)
    found, squares = [], []
    for _ in range(400):
        click = (torch.rand(ROWS, generator=generator).double() < q).double()
        own = sums(imbalances(q.logit(), logits["cvr"], click, None, CLIP), code, 5)
        found.append(penalty(own, own))
        by_slice = own.view(5, 2, 3)
        squares.append((by_slice[..., 1] ** 2 / (by_slice[..., 0] * by_slice[..., 0].sum(0))).sum() / 2)
    values = torch.stack(found).detach()
    assert abs(values.mean()) < 4 * values.std() / 20
    assert abs(values.mean()) < 0.15 * torch.stack(squares).mean()


def least(value_of: Callable[[Tensor], Tensor]) -> Tensor:
    """The two numbers at which it is least."""
    beta_P = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([beta_P], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = value_of(beta_P)
        value.backward()
        return value

    optimizer.step(closure)
    return beta_P.detach()


def test_the_least_tailored_loss_balances_what_the_model_expresses() -> None:
    """A click model of the wrong class, linear in x where clicks depend on its square: the least log-loss leaves the
    weighed mean of x away from the plain one, the least tailored loss does not."""
    generator = torch.Generator().manual_seed(11)
    x_R = torch.randn(4000, generator=generator).double()
    click_R = (torch.rand(4000, generator=generator).double() < (-1 + x_R + 0.6 * x_R**2).sigmoid()).double()
    design_RP = torch.stack([torch.ones_like(x_R), x_R], 1)
    missed = {}
    for name, loss in (("log", binary_cross_entropy), ("tailored", lambda f, o: tailored(f, o, 1e-6))):
        q_R = (design_RP @ least(lambda beta_P, loss=loss: loss(design_RP @ beta_P, click_R).mean())).sigmoid()
        missed[name] = ((click_R / q_R - 1).unsqueeze(1) * design_RP).mean(0).abs().max().item()
    assert missed["tailored"] < 1e-4
    assert missed["log"] > 0.05


def test_slices_are_numbered_on_and_what_cannot_be_balanced_is_refused(small_log: Path, tmp_path: Path) -> None:
    log = open_log(small_log)
    slices = SliceCodes(log.schema)
    fields = {field.name: field for field in log.schema.single}
    assert slices.names
    assert slices.count == sum(fields[name].rows for name in slices.names)
    rows = Encoder(log.schema).encode(next(log.read(log.part("train"))))
    code_RS = slices.codes(torch.from_numpy(rows.ids_RK))
    begins = [sum(fields[name].rows for name in slices.names[:k]) for k in range(len(slices.names))]
    for code_R, name, begin in zip(code_RS.T, slices.names, begins, strict=True):
        assert begin <= code_R.min() <= code_R.max() < begin + fields[name].rows
    with pytest.raises(UserError, match=r"balance\.by names 'weather'"):
        SliceCodes(log.schema, ("weather",))
    with pytest.raises(UserError, match="means nothing to objective escm2_joint"):
        job_of(tmp_path, small_log, config(objective__name="escm2_joint", objective__balance__weight=1.0))
    with pytest.raises(UserError, match=r"balance\.kind must be 'tailored' or 'slices'"):
        BalanceConfig(kind="both")


def test_trainings_with_balance_are_other_trainings(small_log: Path, tmp_path: Path) -> None:
    bare = train_here(tmp_path / "bare", small_log, config(objective__name="naive", epochs=1))
    for kind in ("tailored", "slices"):
        own = config(objective__name="naive", epochs=1, objective__balance__weight=1.0, objective__balance__kind=kind)
        figures = train_here(tmp_path / kind, small_log, own)
        assert 0 < figures["ctr.log_loss"] < 1
        assert figures["ctr.log_loss"] != bare["ctr.log_loss"]
