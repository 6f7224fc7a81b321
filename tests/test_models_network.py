"""Embedding, experts, backbones and the whole network against slow, obvious references."""

import pytest
import torch

from models.backbones.base import BackboneConfig
from models.backbones.mmoe import MMoE
from models.backbones.shared_bottom import SharedBottom
from models.embedding import EmbeddingTable, FusedEmbedding
from models.entire_space import EntireSpaceModel, ModelConfig
from models.layers import Experts, Standardise
from models.registry import build_backbone


def only_table(embedding: FusedEmbedding) -> EmbeddingTable:
    (table,) = embedding.tables
    assert isinstance(table, EmbeddingTable)
    return table


def test_embedding_equals_torch_forward_and_backward() -> None:
    torch.manual_seed(0)
    embedding = FusedEmbedding((5, 7, 3), width=4)
    table = only_table(embedding)
    ids_BK = torch.stack([torch.randint(0, 5, (64,)), torch.randint(5, 12, (64,)), torch.randint(12, 15, (64,))], 1)
    weight = torch.randn(64, 12)
    (embedding(ids_BK) * weight).sum().backward()
    reference = table.weight.clone().requires_grad_()
    vectors = torch.nn.functional.embedding(ids_BK, reference).reshape(64, 12)
    torch.testing.assert_close(embedding(ids_BK), vectors, rtol=0, atol=0)
    torch.testing.assert_close(embedding.eval()(ids_BK), vectors, rtol=0, atol=0)
    (vectors * weight).sum().backward()
    assert reference.grad is not None
    assert table.touched is not None
    gradient = torch.zeros_like(reference)
    embedding.train()
    (embedding(ids_BK) * weight).sum().backward()
    gradient[table.touched.ids_U] = table.touched.gradient()
    torch.testing.assert_close(gradient, reference.grad)


def test_embedding_gradient_holds_only_touched_rows() -> None:
    embedding = FusedEmbedding((1_000_000,), width=4)
    table = only_table(embedding)
    embedding(torch.tensor([[3], [999_999], [3]])).sum().backward()
    assert table.touched is not None
    assert table.touched.ids_U.tolist() == [3, 999_999]
    assert table.touched.gradient().tolist() == [[2.0] * 4, [1.0] * 4]
    assert table.weight.grad is None


def test_standardise_by_hand() -> None:
    layer = Standardise(2)
    layer.mean.copy_(torch.tensor([1.0, 10.0]))
    layer.std.copy_(torch.tensor([2.0, 0.5]))
    x = torch.tensor([[3.0, 10.25], [float("nan"), 1e9]])
    assert layer(x).tolist() == [[1.0, 0.5], [0.0, 10.0]]


def test_experts_equal_separate_networks() -> None:
    torch.manual_seed(1)
    experts = Experts(6, experts=3, hidden=(5, 4))
    x_BI = torch.randn(8, 6)
    outputs_BXH = experts(x_BI)
    assert outputs_BXH.shape == (8, 3, 4)
    for expert in range(3):
        rows = slice(5 * expert, 5 * (expert + 1))
        h = torch.relu(x_BI @ experts.first.weight[rows].T + experts.first.bias[rows])
        h = torch.relu(h @ experts.weights[0][expert] + experts.biases[0][expert])
        torch.testing.assert_close(outputs_BXH[:, expert], h, rtol=1e-5, atol=1e-6)


def test_mmoe_is_its_formula() -> None:
    torch.manual_seed(2)
    mmoe = MMoE(6, tasks=2, config=BackboneConfig(experts=3, expert_hidden=(5, 4)))
    x_BI = torch.randn(8, 6)
    outputs_BXH = mmoe.experts(x_BI)
    for task, mixture_BH in enumerate(mmoe(x_BI)):
        gate_BX = (x_BI @ mmoe.gates.weight[3 * task : 3 * (task + 1)].T).softmax(1)
        torch.testing.assert_close(mixture_BH, (gate_BX[:, :, None] * outputs_BXH).sum(1), rtol=1e-5, atol=1e-6)


def test_mmoe_with_one_expert_is_shared_bottom() -> None:
    config = BackboneConfig(experts=1, expert_hidden=(5, 4))
    mmoe, bottom = MMoE(6, 2, config), SharedBottom(6, 2, config)
    first, second = bottom.bottom[0], bottom.bottom[2]
    first.weight.data, first.bias.data = mmoe.experts.first.weight.data, mmoe.experts.first.bias.data
    second.weight.data = mmoe.experts.weights[0].data[0].T
    second.bias.data = mmoe.experts.biases[0].data[0, 0]
    x_BI = torch.randn(8, 6)
    for ours, theirs in zip(mmoe(x_BI), bottom(x_BI), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def network(seed: int = 0, backbone: str = "mmoe", tasks: tuple[str, ...] = ("ctr", "cvr")) -> EntireSpaceModel:
    config = ModelConfig(embedding_width=4, backbone=BackboneConfig(name=backbone, experts=2, expert_hidden=(8, 6)))
    return EntireSpaceModel(config, field_rows=(5, 7), numerics=3, tasks=tasks, seed=seed)


@pytest.mark.parametrize("backbone", ["mmoe", "shared_bottom"])
def test_initialisation_is_a_function_of_the_seed_alone(backbone: str) -> None:
    torch.manual_seed(5)
    one = network(1, backbone).state_dict()
    before = torch.get_rng_state()
    torch.manual_seed(6)
    two = network(1, backbone).state_dict()
    other = network(2, backbone).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["embedding.tables.0.weight"], other["embedding.tables.0.weight"])
    torch.manual_seed(5)
    assert torch.equal(before, torch.get_rng_state())  # the global generator is left as it was


def test_model_without_categoricals_or_without_numerics() -> None:
    ids, numeric = torch.zeros(4, 0, dtype=torch.long), torch.randn(4, 3)
    assert EntireSpaceModel(ModelConfig(), (), 3, ("ctr",), 0)(ids, numeric)["ctr"].shape == (4,)
    ids, numeric = torch.ones(4, 1, dtype=torch.long), torch.zeros(4, 0)
    assert EntireSpaceModel(ModelConfig(), (3,), 0, ("ctr",), 0)(ids, numeric)["ctr"].shape == (4,)
    with pytest.raises(ValueError, match="no features"):
        EntireSpaceModel(ModelConfig(), (), 0, ("ctr",), 0)


def test_the_ctr_tower_may_have_a_size_of_its_own() -> None:
    def widths(**settings) -> dict[str, list[int]]:
        model = EntireSpaceModel(ModelConfig(**settings), (5,), 0, ("ctr", "cvr"), seed=0)
        return {
            task: [part.out_features for part in tower if hasattr(part, "out_features")]
            for task, tower in model.towers.items()
        }

    assert widths(tower_hidden=(32,)) == {"ctr": [32, 1], "cvr": [32, 1]}
    assert widths(tower_hidden=(32,), ctr_tower_hidden=(64, 48)) == {"ctr": [64, 48, 1], "cvr": [32, 1]}
    assert widths(tower_hidden=(32,), ctr_tower_hidden=()) == {"ctr": [1], "cvr": [32, 1]}


def test_empty_batch_gives_zero_gradients() -> None:
    """A rank may run out of rows before the others; its step must still work."""
    model = network()
    logits = model(torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, 3))
    sum(logit.sum() for logit in logits.values()).backward()
    table = only_table(model.embedding)
    assert table.touched is not None
    assert table.touched.ids_U.numel() == 0
    assert all(p.grad is not None and p.grad.abs().sum() == 0 for p in model.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BackboneConfig(experts=0), "model.backbone.experts"),
        (lambda: BackboneConfig(expert_hidden=()), "model.backbone.expert_hidden"),
        (lambda: BackboneConfig(dropout=1.0), "model.backbone.dropout"),
        (lambda: ModelConfig(embedding_width=0), "model.embedding_width"),
        (lambda: ModelConfig(tower_hidden=(0,)), "model.tower_hidden"),
        (lambda: ModelConfig(ctr_tower_hidden=(8, -1)), "model.ctr_tower_hidden"),
        (lambda: build_backbone(BackboneConfig(name="transformer"), 3, 2), "valid: cgc, mmoe, omoe, ple, shared"),
    ],
)
def test_bad_settings_name_their_key(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
