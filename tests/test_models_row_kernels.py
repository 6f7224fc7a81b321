"""Distinct ids, rows and their summed gradients against torch's own index operations, to the bit."""

import pytest
import torch

from models.embedding import EmbeddingTable
from models.row_kernels import HandOut, distinct_ids, take_rows


@pytest.mark.parametrize("rows", [7, 1000, 1 << 33])
@pytest.mark.parametrize("count", [0, 1, 500])
def test_distinct_ids_are_those_of_unique(rows: int, count: int) -> None:
    ids_R = torch.randint(0, rows, (count,), generator=torch.Generator().manual_seed(count))
    found = distinct_ids(ids_R, rows)
    ids_U, position_R = torch.unique(ids_R, return_inverse=True)
    assert torch.equal(found.ids_U, ids_U)
    assert found.ids_U.dtype == torch.int64
    assert torch.equal(found.position_R, position_R)
    ends_U = [*found.begin_U.tolist(), count][1:]
    for u, (begin, end) in enumerate(zip(found.begin_U.tolist(), ends_U, strict=True)):
        assert found.order_R[begin:end].tolist() == (ids_R == ids_U[u]).nonzero().flatten().tolist()


@pytest.mark.parametrize("width", [1, 3, 16, 40])
def test_rows_and_summed_gradients_are_the_bits_of_index_operations(width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    table_NE = torch.randn(90, width, generator=generator)
    ids_R = torch.randint(0, 90, (2000,), generator=generator)
    gradient_RE = torch.randn(2000, width, generator=generator)
    found = distinct_ids(ids_R, 90)
    vectors_UE = take_rows(table_NE, found.ids_U).requires_grad_()
    assert torch.equal(vectors_UE, table_NE[found.ids_U])
    out_RE = HandOut.apply(vectors_UE, found)
    assert torch.equal(out_RE, table_NE[ids_R])
    out_RE.backward(gradient_RE)
    expected_UE = torch.zeros(len(found.ids_U), width).index_add_(0, found.position_R, gradient_RE)
    assert torch.equal(vectors_UE.grad, expected_UE)


def test_a_table_has_the_gradient_of_a_dense_embedding() -> None:
    table = EmbeddingTable(50, 8).double().train()
    ids_R = torch.randint(0, 50, (300,), generator=torch.Generator().manual_seed(0))
    reference = torch.nn.Embedding(50, 8, _weight=table.weight.clone())
    for network in (table, reference):
        (network(ids_R).square().sum(1) * torch.arange(300.0)).sum().backward()
    assert table.touched is not None
    dense_NE = torch.zeros(50, 8, dtype=torch.float64)
    dense_NE[table.touched.ids_U] = table.touched.gradient()
    torch.testing.assert_close(dense_NE, reference.weight.grad, rtol=1e-12, atol=1e-12)


def test_no_rows_have_no_gradient() -> None:
    table = EmbeddingTable(5, 2).train()
    out = table(torch.empty(0, dtype=torch.int64))
    out.sum().backward()
    assert out.shape == (0, 2)
    assert table.touched is not None
    assert table.touched.gradient().shape == (0, 2)
