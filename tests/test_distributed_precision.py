"""Training with bfloat16 products beside float32."""

import torch
from support import settings_of, train_here

from distributed.finished_run import load_run


def test_bfloat16_is_float32_nearly_and_the_same_bits_twice(small_log, tmp_path):
    """Weights stay float32; what is learnt agrees to the precision of the products."""

    def trained(name, precision):
        settings = settings_of({"epochs": 1, "batch_size": 128, "precision": precision})
        figures = train_here(tmp_path / name, small_log, settings)
        return figures, load_run(tmp_path / name).network.state_dict()

    full, _ = trained("full", "float32")
    half, weights = trained("half", "bfloat16")
    _, again = trained("again", "bfloat16")
    kinds = {name: tensor.dtype for name, tensor in weights.items() if tensor.is_floating_point()}
    assert {kind for name, kind in kinds.items() if not name.startswith("standardise.")} == {torch.float32}
    for name, tensor in weights.items():
        assert torch.equal(tensor, again[name]), name
    for figure in ("ctr.auc", "ctcvr.auc"):
        assert abs(half[figure] - full[figure]) < 0.02
    assert half["ctr.log_loss"] != full["ctr.log_loss"]
    assert abs(half["ctr.log_loss"] / full["ctr.log_loss"] - 1) < 0.01
