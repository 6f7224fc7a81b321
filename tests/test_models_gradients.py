"""How far the gradient of each loss term reaches: towers, experts, embedding."""

import pytest
import torch
from torch import Tensor

from models.backbones.base import BackboneConfig
from models.embedding import EmbeddingTable
from models.entire_space import EntireSpaceModel, ModelConfig
from models.objectives.base import Labels, Objective, ObjectiveConfig
from models.registry import BACKBONES, OBJECTIVES, build_objective

ROWS = 300


def gradients(
    config: ObjectiveConfig, backbone: str = "mmoe", term: str = "loss", dropout: float = 0.0
) -> dict[str, Tensor]:
    """Of one term, or of a weighted sum of terms ("ctr + 2 ctcvr"), by parameter; 0 where none reaches."""
    objective = build_objective(config, click_rate=0.2)
    network = network_of(objective, backbone, dropout)
    generator = torch.Generator().manual_seed(1)
    ids_BK = torch.stack([torch.randint(0, 9, (ROWS,)), torch.randint(9, 20, (ROWS,))], 1)
    numeric_BN = torch.randn(ROWS, 2, generator=generator, dtype=torch.float64)
    click_B = (torch.rand(ROWS, generator=generator) < 0.2).double()
    labels = Labels(click_B, click_B * (torch.rand(ROWS, generator=generator) < 0.4).double())
    logits = network.logits(ids_BK, numeric_BN)
    terms = objective(logits, labels, objective.totals(logits, labels))
    loss = terms["loss"] if term == "loss" else weighted(terms, config, term)
    loss.backward()
    found = {name: zero_or(p.grad, p) for name, p in network.named_parameters()}
    for name, module in network.named_modules():
        if isinstance(module, EmbeddingTable):
            assert module.touched is not None
            found[name] = module.touched.gradient()
    return found


def network_of(objective: Objective, backbone: str, dropout: float) -> EntireSpaceModel:
    torch.manual_seed(7)
    settings = ModelConfig(4, 0.5, (6,), backbone=BackboneConfig(backbone, expert_hidden=(8, 5), dropout=dropout))
    network = EntireSpaceModel(settings, (9, 11), 2, objective.tasks, seed=3).double().train()
    network.ending = objective.config.ending(objective.tasks)
    return network


def weighted(terms: dict[str, Tensor], config: ObjectiveConfig, names: str) -> Tensor:
    weight = {"ctr": config.lambda_ctr, "cvr": config.lambda_c, "ctcvr": config.lambda_g}
    weight["imputation"] = config.lambda_imp
    return torch.stack([weight[name] * terms[name] for name in names.split(" + ")]).sum()


def zero_or(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if gradient is None else gradient.clone()


def of_shared(found: dict[str, Tensor]) -> dict[str, Tensor]:
    shared = {name: g for name, g in found.items() if not name.startswith("towers.")}
    assert any(name.startswith("embedding") for name in shared)
    assert any(name.startswith("backbone") for name in shared)
    return shared


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-12, atol=1e-17, msg=lambda m, name=name: name + m)


def size(found: dict[str, Tensor]) -> float:
    return torch.cat([g.flatten() for g in found.values()]).norm().item()


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
@pytest.mark.parametrize("name", ["escm2_dr", "escm2_mrdr"])
@pytest.mark.parametrize("imputation", ["error", "label"])
def test_imputation_stays_out_of_the_shared_layers(backbone: str, name: str, imputation: str) -> None:
    """The default: embedding, experts and gates learn from CTR, CVR and CTCVR, exactly; the imputation tower learns."""
    config = ObjectiveConfig(name=name, imputation=imputation, lambda_imp=3.0, lambda_c=0.7)
    whole, others = gradients(config, backbone), gradients(config, backbone, "ctr + cvr + ctcvr")
    same(of_shared(whole), of_shared(others))
    own = gradients(config, backbone, "imputation")
    assert size(of_shared(own)) == 0
    tower = {n: g for n, g in whole.items() if n.startswith("towers.imputation")}
    assert size(tower) > 0
    same(tower, {n: g for n, g in own.items() if n in tower})


# escm2_joint and escm2_joint_ips: the CVR term is a likelihood of both towers, and reaches the shared layers by way of
# the click tower.
@pytest.mark.parametrize("name", sorted(OBJECTIVES.keys() - {"esmm", "escm2_joint", "escm2_joint_ips"}))
def test_cvr_stays_out_of_the_shared_layers_if_told_to(name: str) -> None:
    """They learn from the terms that are left, exactly; the CVR tower learns what it learned."""
    terms = "ctr" if name in ("naive", "mtl_imp") else "ctr + ctcvr"
    config = ObjectiveConfig(name=name, cvr_gradient="tower", lambda_g=2.0, lambda_c=1.0)
    whole = gradients(config)
    same(of_shared(whole), of_shared(gradients(config, term=terms)))
    shared = gradients(ObjectiveConfig(name=name, lambda_g=2.0, lambda_c=1.0))
    assert size(of_shared(shared)) > 1.01 * size(of_shared(whole))
    towers = [{n: g for n, g in found.items() if n.startswith("towers.")} for found in (whole, shared)]
    same(*towers)


def test_shared_gradients_are_those_of_all_terms() -> None:
    config = ObjectiveConfig(name="escm2_mrdr", imputation_gradient="shared", lambda_imp=0.4, lambda_c=0.7)
    same(gradients(config), gradients(config, term="ctr + cvr + ctcvr + imputation"))
    assert size(of_shared(gradients(config, term="imputation"))) > 0


def test_dr_with_the_imputation_kept_apart_steps_as_ips() -> None:
    """`imputation: error` is held constant in L_CVR; with its own gradient ending in its tower nothing else is left."""
    dr, ips = (gradients(ObjectiveConfig(name=name), "shared_bottom") for name in ("escm2_dr", "escm2_ips"))
    same({name: dr[name] for name in ips}, ips)


def test_an_evaluating_network_gives_its_tasks_alone() -> None:
    objective = build_objective(ObjectiveConfig(name="escm2_dr", cvr_gradient="tower"), 0.2)
    network = network_of(objective, "mmoe", 0.0)
    ids_BK, numeric_BN = torch.tensor([[1, 10]]), torch.zeros(1, 2, dtype=torch.float64)
    assert set(network.logits(ids_BK, numeric_BN)) == {*objective.tasks, "cvr.tower", "imputation.tower"}
    assert set(network.eval().logits(ids_BK, numeric_BN)) == set(objective.tasks)
