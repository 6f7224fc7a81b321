"""Row-wise optimizers against torch's and against the formula."""

import pytest
import torch

from distributed.training.optimizers import PIECE_ROWS, RowAdagrad, RowAdam, rate_factor


def draws(rows: int, width: int, steps: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(7)
    result = []
    for _ in range(steps):
        ids = torch.unique(torch.randint(0, rows, (6,), generator=generator))
        result.append((ids, torch.randn(len(ids), width, generator=generator)))
    return result


def test_row_adam_equals_torch_sparse_adam() -> None:
    table = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    reference = table.clone().requires_grad_()
    theirs = torch.optim.SparseAdam([reference], lr=0.01)
    ours = RowAdam(table, rate=0.01)
    for ids, gradient in draws(20, 4, 50):
        reference.grad = torch.sparse_coo_tensor(ids[None], gradient, (20, 4), check_invariants=True)
        theirs.step()
        ours.step(table, ids, gradient)
    torch.testing.assert_close(table, reference.detach(), rtol=1e-5, atol=1e-7)


def test_row_adagrad_is_its_formula() -> None:
    table = torch.zeros(20, 4, dtype=torch.float64)
    ours, expected, total = RowAdagrad(table, rate=0.1), torch.zeros(20, 4, dtype=torch.float64), [0.0] * 20
    for ids, gradient in draws(20, 4, 50):
        gradient = gradient.double()
        ours.step(table, ids, gradient)
        for row, values in zip(ids.tolist(), gradient, strict=True):
            total[row] += (values**2).mean().item()
            expected[row] -= 0.1 * values / (total[row] ** 0.5 + 1e-10)
    torch.testing.assert_close(table, expected, rtol=1e-12, atol=1e-12)


def test_untouched_rows_stay_and_state_continues() -> None:
    for kind in (RowAdam, RowAdagrad):
        table = torch.ones(20, 4)
        whole, first = kind(table.clone(), 0.1), kind(table.clone(), 0.1)
        one, two = table.clone(), table.clone()
        steps = draws(20, 4, 10)
        for ids, gradient in steps:
            whole.step(one, ids, gradient)
        for ids, gradient in steps[:4]:
            first.step(two, ids, gradient)
        second = kind(two, 0.1)
        second.load(first.state())
        for ids, gradient in steps[4:]:
            second.step(two, ids, gradient)
        assert torch.equal(one, two)
        untouched = sorted(set(range(20)) - {row for ids, _ in steps for row in ids.tolist()})
        assert torch.equal(one[untouched], torch.ones(len(untouched), 4))


def test_schedules_by_hand() -> None:
    assert [rate_factor("linear", step, 4) for step in range(4)] == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert rate_factor("constant", 3, 4) == 1.0


@pytest.mark.parametrize("kind", [RowAdam, RowAdagrad])
def test_more_rows_than_a_piece_take_the_step_of_each_alone(kind: type) -> None:
    rows = 2 * PIECE_ROWS + 5
    generator = torch.Generator().manual_seed(3)
    whole = torch.randn(rows, 4, generator=generator)
    gradient_VE, ids_V = torch.randn(rows, 4, generator=generator), torch.arange(rows)
    apart = whole.clone()
    kind(whole, 0.1).step(whole, ids_V, gradient_VE)
    for some in (slice(0, 7), slice(7, PIECE_ROWS + 3), slice(PIECE_ROWS + 3, rows)):
        kind(apart, 0.1).step(apart, ids_V[some], gradient_VE[some])
    assert torch.equal(whole, apart)
