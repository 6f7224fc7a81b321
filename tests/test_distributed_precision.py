"""Training with bfloat16 products beside float32."""

import time

import torch

from data.log import open_log
from distributed.config import TrainConfig
from distributed.finished_run import load_model
from distributed.training.launch import prepare, run_training
from jobs.command.settings import override


def test_bfloat16_is_float32_nearly_and_the_same_bits_twice(small_log, tmp_path):
    """Weights stay float32; what is learnt agrees to the precision of the products."""

    def trained(name, precision):
        config = override(TrainConfig(epochs=1, batch_size=128), [f"precision={precision}"])
        run = tmp_path / name
        run.mkdir()
        job, _ = prepare(run, open_log(small_log), config, time.time())
        figures = run_training(job, workers=0)
        return figures, load_model(run)[0].state_dict()

    full, _ = trained("full", "float32")
    half, weights = trained("half", "bfloat16")
    _, again = trained("again", "bfloat16")
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.float32}
    for name, tensor in weights.items():
        assert torch.equal(tensor, again[name]), name
    for figure in ("ctr.auc", "ctcvr.auc"):
        assert abs(half[figure] - full[figure]) < 0.02
    assert half["ctr.log_loss"] != full["ctr.log_loss"]
    assert abs(half["ctr.log_loss"] / full["ctr.log_loss"] - 1) < 0.01
