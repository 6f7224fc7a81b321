"""Widths, shared tables and multi-valued fields against nn.Embedding and nn.EmbeddingBag, forward and backward."""

import math
from collections.abc import Iterator

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from distributed.training.optimizers import RowAdagrad, RowAdam
from models.backbones.base import BackboneConfig
from models.embedding import EmbeddingTable, FieldOptions, FusedEmbedding
from models.entire_space import EntireSpaceModel, ModelConfig
from models.pooling import ActivationPooling, AttentionPooling, BagTensors

# item (own rows), shop (wider), tags (sum), history (the item's rows, mean), seen (the item's, attention by the shop)
ROWS = (7, 5, 6, 0, 0)
OPTIONS = (
    FieldOptions(),
    FieldOptions(width=6),
    FieldOptions(pooling="sum", width=6),
    FieldOptions(owner=0, pooling="mean"),
    FieldOptions(owner=0, pooling="attention", query=1),
)
B = 9


def bag(lengths: list[int], low: int, high: int) -> BagTensors:
    offset_B1 = torch.tensor([0, *lengths]).cumsum(0)
    return BagTensors(torch.randint(low, high, (int(offset_B1[-1]),)), offset_B1)


def batch() -> tuple[Tensor, list[BagTensors]]:
    ids_BK = torch.stack([torch.randint(0, 7, (B,)), torch.randint(7, 12, (B,))], 1)
    lengths = [[0, 1, 2, 3, 0, 1, 4, 2, 0], [3, 0, 0, 2, 1, 1, 1, 5, 2], [2, 1, 0, 4, 3, 0, 1, 1, 6]]
    return ids_BK, [bag(lengths[0], 12, 18), bag(lengths[1], 0, 7), bag(lengths[2], 0, 7)]


def rows_of(bags: BagTensors) -> list[Tensor]:
    return [bags.ids_S[a:b] for a, b in zip(bags.offset_B1, bags.offset_B1[1:], strict=False)]


class Plain(nn.Module):
    """The same fields, one torch module each, attention written out row by row."""

    def __init__(self, fused: FusedEmbedding) -> None:
        super().__init__()
        narrow, wide = (table.weight.clone() for table in fused.tables)
        self.item = nn.Embedding.from_pretrained(narrow, freeze=False)
        self.shop = nn.Embedding.from_pretrained(wide[:5].clone(), freeze=False)
        self.tags = nn.EmbeddingBag.from_pretrained(
            wide[5:].clone(), freeze=False, mode="sum", include_last_offset=True
        )
        self.project = nn.Parameter(fused.pools[2].project.detach().clone())

    def forward(self, ids_BK: Tensor, bags: list[BagTensors]) -> Tensor:
        item_BE, shop_BE = self.item(ids_BK[:, 0]), self.shop(ids_BK[:, 1] - 7)
        tags_BE = self.tags(bags[0].ids_S - 12, bags[0].offset_B1)
        history_BE = nn.functional.embedding_bag(
            bags[1].ids_S, self.item.weight, bags[1].offset_B1, mode="mean", include_last_offset=True
        )
        seen = []
        for row, ids in enumerate(rows_of(bags[2])):
            vectors = self.item(ids)
            scores = vectors @ (self.project @ shop_BE[row]) / math.sqrt(4)
            seen.append((scores.softmax(0).unsqueeze(1) * vectors).sum(0))
        return torch.cat([item_BE, shop_BE, tags_BE, history_BE, torch.stack(seen)], 1)


def fused_embedding() -> FusedEmbedding:
    torch.manual_seed(3)
    fused = FusedEmbedding(ROWS, width=4, scale=1.0, options=OPTIONS)
    nn.init.normal_(fused.pools[2].project)
    return fused


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small steps are faster so, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tables_of(fused: FusedEmbedding) -> list[EmbeddingTable]:
    return [table for table in fused.tables if isinstance(table, EmbeddingTable)]


def gradients(fused: FusedEmbedding) -> list[Tensor]:
    found = []
    for table in tables_of(fused):
        assert table.touched is not None
        found.append(torch.zeros_like(table.weight))
        found[-1][table.touched.ids_U] = table.touched.gradient()
    return found


def test_widths_shares_and_poolings_equal_torch_forward_and_backward() -> None:
    fused = fused_embedding()
    assert [tuple(table.weight.shape) for table in tables_of(fused)] == [(7, 4), (11, 6)]
    assert fused.output_width == 4 + 6 + 6 + 4 + 4
    plain, (ids_BK, bags) = Plain(fused), batch()
    ours, theirs, weight = fused(ids_BK, bags), plain(ids_BK, bags), torch.randn(B, 24)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(fused.eval()(ids_BK, bags), theirs)
    fused.train()
    (fused(ids_BK, bags) * weight).sum().backward()
    (theirs * weight).sum().backward()
    narrow, wide = gradients(fused)
    assert plain.item.weight.grad is not None  # of the item, its history and what was seen, together
    torch.testing.assert_close(narrow, plain.item.weight.grad)
    torch.testing.assert_close(wide, torch.cat([plain.shop.weight.grad, plain.tags.weight.grad]))
    torch.testing.assert_close(fused.pools[2].project.grad, plain.project.grad)


def test_touched_rows_are_those_of_all_fields_of_a_table() -> None:
    fused, (ids_BK, bags) = fused_embedding(), batch()
    fused(ids_BK, bags)
    narrow, wide = (table.touched for table in tables_of(fused))
    assert narrow is not None
    assert wide is not None
    ours = torch.cat([ids_BK[:, 0], bags[1].ids_S, bags[2].ids_S])
    assert narrow.ids_U.tolist() == sorted(set(ours.tolist()))
    others = torch.cat([ids_BK[:, 1] - 7, bags[0].ids_S - 7])
    assert wide.ids_U.tolist() == sorted(set(others.tolist()))


def test_no_values_give_the_zero_vector_and_no_gradient() -> None:
    fused, (ids_BK, _) = fused_embedding(), batch()
    nothing = [bag([0] * B, 0, 1) for _ in range(3)]
    for mode in (True, False):
        fused.train(mode)
        assert fused(ids_BK, nothing)[:, 10:].abs().sum() == 0
    fused.train()
    fused(ids_BK, nothing)[:, 10:].sum().backward()
    assert all(gradient.abs().sum() == 0 for gradient in gradients(fused))


def test_a_batch_of_no_rows() -> None:
    fused = fused_embedding()
    out = fused(torch.zeros(0, 2, dtype=torch.int64), [bag([], 0, 1) for _ in range(3)])
    assert out.shape == (0, 24)
    out.sum().backward()
    assert all(gradient.abs().sum() == 0 for gradient in gradients(fused))


def test_only_multi_valued_fields() -> None:
    torch.manual_seed(0)
    fused = FusedEmbedding((6, 0), 3, options=(FieldOptions(pooling="sum"), FieldOptions(owner=0, pooling="mean")))
    bags = [bag([2, 0], 0, 6), bag([1, 3], 0, 6)]
    table = tables_of(fused)[0].weight
    expected = [torch.cat([table[a].sum(0), table[b].mean(0)]) for a, b in zip(*map(rows_of, bags), strict=True)]
    torch.testing.assert_close(fused(torch.zeros(2, 0, dtype=torch.int64), bags), torch.stack(expected))


def test_attention_of_large_scores_and_of_one_value() -> None:
    pool = AttentionPooling(2, 3)
    assert pool.project.tolist() == [[1, 0, 0], [0, 1, 0]]
    vectors, query = torch.tensor([[300.0, 0.0], [0.0, 300.0]]), torch.tensor([[200.0, 0.0, 5.0], [0.0, 0.0, 1.0]])
    pooled = pool(vectors, torch.tensor([0, 1, 1]), torch.tensor([0, 2, 3]), query)
    assert pooled.tolist() == [[300.0, 0.0], [0.0, 300.0]]
    even = pool(vectors, torch.tensor([0, 1]), torch.tensor([0, 2]), torch.zeros(1, 3))
    assert even.tolist() == [[150.0, 150.0]]


@pytest.mark.parametrize("query_width", [2, 4])
def test_din_weighs_values_as_its_formula_says(query_width: int) -> None:
    torch.manual_seed(5)
    pool = ActivationPooling(4, query_width)
    vectors, query, offset = torch.randn(6, 4), torch.randn(3, query_width), torch.tensor([0, 2, 2, 5])
    position = torch.tensor([5, 1, 0, 0, 3])
    pooled = pool(vectors, position, offset, query)
    assert pooled[1].tolist() == [0, 0, 0, 0]
    for row in (0, 2):
        shown = pool.project(query[row])
        expected = torch.zeros(4)
        for value in vectors[position[offset[row] : offset[row + 1]]]:
            hidden = torch.relu(pool.first.weight @ torch.cat([value, value * shown, shown]) + pool.first.bias)
            expected += (pool.last.weight[0] @ hidden + pool.last.bias[0]) * value
        torch.testing.assert_close(pooled[row], expected)


@pytest.mark.parametrize(("pooling", "at_least", "at_most"), [("mean", 0, 0.8), ("attention", 0.9, 1), ("din", 0.9, 1)])
def test_weighing_by_the_query_finds_the_shown_item_in_a_history(
    pooling: str, at_least: float, at_most: float, one_thread: None
) -> None:
    """The label is whether the item shown is among the last eight: a mean hides it, a weighed sum can show it."""
    items, length = 20, 8
    rng = torch.Generator().manual_seed(0)
    item_R = torch.randint(0, items, (24_000,), generator=rng)
    past_RL = torch.randint(0, items, (24_000, length), generator=rng)
    label_R = (past_RL == item_R.unsqueeze(1)).any(1).float()
    options = (FieldOptions(), FieldOptions(owner=0, pooling=pooling, query=None if pooling == "mean" else 0))
    backbone = BackboneConfig(name="shared_bottom", expert_hidden=(32,))
    config = ModelConfig(embedding_width=8, embedding_scale=0.5, backbone=backbone)
    model = EntireSpaceModel(config, (items, 0), 0, ("ctr",), seed=0, options=options)
    (table,) = tables_of(model.embedding)
    row_optimizer, optimizer = RowAdagrad(table.weight, 0.05), torch.optim.Adam(model.parameters(), 5e-3)

    def logits(rows: slice) -> Tensor:
        past = past_RL[rows]
        bags = [BagTensors(past.reshape(-1), torch.arange(len(past) + 1) * length)]
        return model(item_R[rows].unsqueeze(1), torch.zeros(len(past), 0), bags)["ctr"]

    for begin in range(0, 20_000, 200):
        rows = slice(begin, begin + 200)
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(logits(rows), label_R[rows]).backward()
        optimizer.step()
        assert table.touched is not None
        row_optimizer.step(table.weight, table.touched.ids_U, table.touched.gradient())
    model.eval()
    held = slice(20_000, 24_000)
    assert at_least <= roc_auc_score(label_R[held], logits(held).detach()) <= at_most


def test_attention_gradients_by_finite_differences() -> None:
    torch.manual_seed(1)
    pool = AttentionPooling(3, 2).double()
    vectors, query = torch.randn(5, 3).double().requires_grad_(), torch.randn(3, 2).double().requires_grad_()
    position, offset = torch.tensor([0, 3, 3, 4, 1, 2]), torch.tensor([0, 4, 4, 6])
    project = pool.project.detach().clone().requires_grad_()

    def attended(v: Tensor, q: Tensor, w: Tensor) -> Tensor:
        return torch.func.functional_call(pool, {"project": w}, (v, position, offset, q))

    assert torch.autograd.gradcheck(attended, (vectors, query, project))


@pytest.mark.parametrize("name", ["adam", "adagrad"])
def test_row_optimizers_on_shared_tables_equal_torch(name: str) -> None:
    """Five steps of the fused tables against torch.optim.SparseAdam, and against Adagrad's row-wise formula."""
    fused = fused_embedding()
    plain = Plain(fused)
    ours = [(RowAdam if name == "adam" else RowAdagrad)(table.weight, 0.05) for table in tables_of(fused)]
    parameters = [plain.item.weight, plain.shop.weight, plain.tags.weight]
    adam = torch.optim.SparseAdam(parameters, lr=0.05)
    totals = [torch.zeros(len(parameter)) for parameter in parameters]
    for step in range(5):
        torch.manual_seed(10 + step)
        ids_BK, bags = batch()
        weight = torch.randn(B, 24)
        (fused(ids_BK, bags) * weight).sum().backward()
        for table, optimizer in zip(tables_of(fused), ours, strict=True):
            assert table.touched is not None
            optimizer.step(table.weight, table.touched.ids_U, table.touched.gradient())
        plain.zero_grad()
        (plain(ids_BK, bags) * weight).sum().backward()
        item = torch.cat([ids_BK[:, 0], bags[1].ids_S, bags[2].ids_S])
        touched_of = [ids.unique() for ids in (item, ids_BK[:, 1] - 7, bags[0].ids_S - 12)]
        for parameter, total, touched in zip(parameters, totals, touched_of, strict=True):
            assert parameter.grad is not None
            gradient = parameter.grad[touched]
            if name == "adam":
                parameter.grad = torch.sparse_coo_tensor(
                    touched.unsqueeze(0), gradient, parameter.shape, check_invariants=True
                )
            else:
                total[touched] += gradient.square().mean(1)
                with torch.no_grad():
                    parameter[touched] -= 0.05 * gradient / total[touched].sqrt().unsqueeze(1)
        if name == "adam":
            adam.step()
    narrow, wide = (table.weight for table in tables_of(fused))
    torch.testing.assert_close(narrow, plain.item.weight.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(wide, torch.cat([plain.shop.weight, plain.tags.weight]).detach(), rtol=1e-4, atol=1e-5)


def test_the_model_takes_bags_beside_ids_and_numbers() -> None:
    model = EntireSpaceModel(ModelConfig(embedding_width=4), ROWS, 2, ("ctr", "cvr"), seed=1, options=OPTIONS)
    ids_BK, bags = batch()
    logits = model(ids_BK, torch.randn(B, 2), bags)
    assert {task: logit.shape for task, logit in logits.items()} == {"ctr": (B,), "cvr": (B,)}
    assert "embedding.pools.2.project" in dict(model.named_parameters())
