"""A log that gains features: a model for fewer goes on with more, and says at first what it said before."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from support import arguments, error_line

from data.encode import Encoder
from data.log import open_log
from distributed.finished_run import load_run
from funnel.batch import Batch
from funnel.growth import grow
from jobs import score, train
from jobs.run.growth import BEGINNING

NEW = ("user_city", "channel", "price", "history")


def edited(log: Path, out: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The same rows with another schema."""
    out.mkdir(parents=True)
    for path in log.iterdir():
        if path.is_dir():
            (out / path.name).symlink_to(path)
    schema = json.loads((log / "schema.json").read_text())
    change(schema)
    (out / "schema.json").write_text(json.dumps(schema))
    return out


def fewer(schema: dict[str, Any]) -> None:
    schema["categorical"] = [entry for entry in schema["categorical"] if entry["name"] not in NEW]
    schema["numeric"] = [name for name in schema["numeric"] if name not in NEW]


def wider(schema: dict[str, Any]) -> None:
    """Every kind of growth: fields before and behind, one of another width, a list, numbers in another order."""
    fields = {entry["name"]: entry for entry in schema["categorical"]}
    fields["channel"]["width"] = 3
    first = [fields.pop("user_city")]
    schema["categorical"] = first + list(fields.values())
    schema["numeric"] = ["price", *reversed([name for name in schema["numeric"] if name != "price"])]


SHAPES = {
    "ple": ["--model.backbone.name", "ple"],
    "mmoe, cross layers": ["--model.backbone.name", "mmoe", "--model.crossing", "dcn_v2"],
    "shared_bottom, cross layers of rank 2": [
        "--model.backbone.name", "shared_bottom", "--model.crossing", "dcn_v2", "--model.cross-rank", 2],
    "cgc": ["--model.backbone.name", "cgc"],
    "pairs": ["--model.crossing", "fm"],
    "pairs, instruments": ["--model.crossing", "fm"],
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_grown_network_says_what_the_small_one_said(shape: str, listed_log: Path, tmp_path: Path) -> None:
    declared = "instruments" in shape

    def instruments(schema: dict[str, Any]) -> None:
        schema["instrument"] = ["position", "discount"] if declared else []

    before = edited(edited(listed_log, tmp_path / "fewer", fewer), tmp_path / "before", instruments)
    now = edited(edited(listed_log, tmp_path / "wider", wider), tmp_path / "now", instruments)
    run = tmp_path / "run"
    train.run(arguments(before, run, *SHAPES[shape]))
    went_on = tmp_path / "grown"
    given = arguments(now, went_on, "--start-from", run, *SHAPES[shape])
    train.run(given)
    small, large = load_run(run), load_run(went_on)
    shown = json.loads((went_on / "run.json").read_text())
    assert sorted(shown["new_features"]) == sorted(NEW)
    network = large.problem.network(seed=5)
    grow(small.network, small.schema, network, large.schema)
    network.eval()
    if shape.startswith(
        "pairs"
    ):  # which are those of all fields: the new ones, and the width they have made two of, left out
        table, rows = network.embedding.blocks[[one.name for one in large.schema.categorical].index("user_city")]
        with torch.no_grad():
            network.embedding.tables[table].weight[rows] = 0
            for width, part in zip(
                network.pairs.widths, network.pairs.second.split(network.pairs.widths, 1), strict=True
            ):
                part.mul_(width in small.network.pairs.widths)
    logs = [(one, open_log(place)) for one, place in ((small, before), (large, now))]
    logits = []
    for one, log in logs:
        model = one.network if one is small else network
        part = log.part("test")
        rows = Encoder(one.schema).encode(log.read_row_group(part.files[0], 0))
        with torch.no_grad():
            logits.append(model(Batch.of(rows)))
    for task, logit_B in logits[0].items():
        assert logit_B.std() > 0
        torch.testing.assert_close(logits[1][task], logit_B, rtol=1e-5, atol=1e-6)
    # What is new begins as in a new run, and is learnt.
    fresh = large.problem.network(seed=5).embedding
    place = [field.name for field in large.schema.categorical].index("channel")
    table, rows = fresh.blocks[place]
    torch.testing.assert_close(network.embedding.tables[table].weight[rows], fresh.tables[table].weight[rows])
    learnt = load_run(went_on).network.embedding.tables[table].weight[rows]
    assert not torch.equal(learnt, fresh.tables[table].weight[rows])
    assert (went_on / BEGINNING / "record.json").exists() or list((went_on / BEGINNING).iterdir())


def test_a_feature_that_is_gone_is_named(
    small_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train.run(arguments(small_log, tmp_path / "run"))
    less = edited(small_log, tmp_path / "less", fewer)
    words = ["--data", less, "--out", tmp_path / "out", "--start-from", tmp_path / "run", "--workers", 0]
    line = error_line(train, words, monkeypatch, capsys)
    assert "its model has the feature 'user_city', which --data has not: a log may gain features, not lose them" in line


def test_statistics_are_those_the_weights_were_learnt_on(small_log: Path, tmp_path: Path) -> None:
    """A warm start on other rows transforms its numbers as the run before did; a new feature is measured."""

    def transformed(schema: dict[str, Any]) -> None:
        schema["numeric"] = [{"name": "price", "transform": [{"quantile": "uniform"}]}, "discount"]

    def more(schema: dict[str, Any]) -> None:
        transformed(schema)
        schema["numeric"].append({"name": "cut", "from": "price", "transform": [{"clip_quantiles": [0.1, 0.9]}]})

    first = edited(small_log, tmp_path / "first", transformed)
    train.run(arguments(first, tmp_path / "run"))
    second = edited(small_log, tmp_path / "second", more)
    shutil.copytree((second / "test").resolve(), tmp_path / "copy")
    (second / "train").unlink()
    shutil.move(tmp_path / "copy", second / "train")
    train.run(arguments(second, tmp_path / "went_on", "--start-from", tmp_path / "run"))
    before, after = (load_run(tmp_path / name).schema.statistics for name in ("run", "went_on"))
    assert after["price"] == before["price"]
    price_R = np.concatenate([pq.read_table(path)["price"].to_numpy() for path in (second / "train").glob("*.parquet")])
    assert after["cut"][0] == tuple(np.nanquantile(price_R.astype(float), [0.1, 0.9]))
    assert not np.allclose(np.nanquantile(price_R.astype(float), np.linspace(0, 1, 256)), before["price"][0])
    # And a log is scored with the model's numbers, whatever is in it.
    paths = [score.run(score.Arguments(tmp_path / "run", str(log), tmp_path / f"{log.name}.parquet")) for log in
             (first, second)]  # fmt: skip
    assert pq.read_table(paths[0]).equals(pq.read_table(paths[1]))
