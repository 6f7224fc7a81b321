"""Numbers far from 0: the mean is taken away in float64 before anything is float32, in training, scores and exports."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support import arguments as train_arguments

from data.encode import numeric_moments, numeric_values
from data.log import open_log
from jobs import export, score, train
from models.layers import Standardise

ROWS, START = 4000, 1_770_000_000_000
SCHEMA = {
    "format": "counterpoint.schema",
    "version": 2,
    "name": "epochs",
    "categorical": [{"name": "user", "kind": "hash", "size": 50}],
    "numeric": ["epoch_ms", "price"],
    "labels": {"click": "click", "conversion": "conversion"},
}


def toy(seed: int) -> pa.Table:
    """4,000 moments within four seconds; what is shown in the second half of them is clicked."""
    rng = np.random.default_rng(seed)
    late = rng.permutation(ROWS)
    click = rng.random(ROWS) < np.where(late >= ROWS // 2, 0.9, 0.1)
    conversion = click & (rng.random(ROWS) < 0.3)
    return pa.table(
        {
            "user": rng.integers(0, 20, ROWS),
            "epoch_ms": START + late,
            "price": rng.normal(size=ROWS).astype(np.float32),
            "click": click,
            "conversion": conversion,
        }
    )


def write(where: Path) -> Path:
    for seed, part in enumerate(("train", "valid", "test")):
        (where / part).mkdir(parents=True)
        pq.write_table(toy(seed), where / part / "a.parquet")
    (where / "schema.json").write_text(json.dumps(SCHEMA))
    return where


def test_epoch_milliseconds_stay_apart(tmp_path: Path) -> None:
    log = open_log(write(tmp_path))
    mean_N, std_N = numeric_moments(log, log.part("train"))
    assert (mean_N[0], std_N[0]) == (START + (ROWS - 1) / 2, pytest.approx(np.arange(ROWS).std(), rel=1e-12))
    standardise = Standardise(2)
    standardise.mean.copy_(torch.from_numpy(mean_N))
    standardise.std.copy_(torch.from_numpy(std_N))
    values_RN = numeric_values(toy(0), ["epoch_ms", "price"])
    found_RN = standardise(torch.from_numpy(values_RN))
    assert found_RN.dtype == torch.float32
    assert len(found_RN[:, 0].unique()) == ROWS
    expected_R = (toy(0)["epoch_ms"].to_numpy() - mean_N[0]) / std_N[0]
    np.testing.assert_allclose(found_RN[:, 0].numpy(), expected_R, atol=1e-6)


def test_ordinary_features_keep_their_bits() -> None:
    """(x - mean) / std in float32, whether the other columns made the values float64 or not."""
    values_RN = torch.randn(1000, 3) * 7 + 100
    standardise = Standardise(3)
    standardise.mean.copy_(torch.tensor([100.1, 99.7, -3.3], dtype=torch.float64))
    standardise.std.copy_(torch.tensor([7.1, 0.3, 2.2], dtype=torch.float64))
    plain_RN = ((values_RN - standardise.mean.float()) / standardise.std.float()).clamp(-10, 10)
    assert torch.equal(standardise(values_RN), plain_RN)
    assert torch.equal(standardise(values_RN.double()), plain_RN)


def test_columns_of_few_bits_are_read_as_float32() -> None:
    table = pa.table(
        {"a": pa.array([1, None], pa.int16()), "b": pa.array([True, False]), "c": pa.array([1, 2], pa.int32())}
    )
    assert numeric_values(table, ["a", "b"]).dtype == np.float32
    assert numeric_values(table, ["a", "c"]).dtype == np.float64
    np.testing.assert_array_equal(numeric_values(table, ["a", "b"]), [[1, 1], [np.nan, 0]])


@pytest.mark.slow
def test_a_model_learns_from_them_and_is_served_with_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The best that can be known of a click is its half: AUC 0.9. In float32 all moments are one: AUC 0.5."""
    log = write(tmp_path / "log")
    words = ("--epochs", 8, "--optimizer.learning-rate", 0.01, "--batch-size", 200)
    summary = train.run(train_arguments(log, tmp_path / "run", *words))
    assert summary["ctr.auc"] > 0.85
    assert "warning" not in capsys.readouterr().out
    out = score.run(score.Arguments(run=tmp_path / "run", data=str(log), out=tmp_path / "scored.parquet"))
    late = toy(2)["epoch_ms"].to_numpy() >= START + ROWS // 2
    pctr = pq.read_table(out)["pctr"].to_numpy()
    assert pctr[late].mean() - pctr[~late].mean() > 0.5
    export.run(export.Arguments(run=tmp_path / "run", out=tmp_path / "served"))
    served = json.loads((tmp_path / "served/serving.json").read_text())
    (numeric,) = [entry for entry in served["inputs"] if entry["name"] == "numeric"]
    assert numeric["dtype"] == "float64"
    example = served["example"][0]
    assert example["inputs"]["numeric"][0] == example["values"]["epoch_ms"]
