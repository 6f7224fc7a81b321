"""Features that a schema makes of other columns, such as hours and ages, cut figures and lead a fusion's weights."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import arguments, copy

from data.errors import UserError
from funnel.fusion.tuning import FusionSettings, FusionTuning
from jobs import evaluate, evolve, pipeline, score, train

HOUR_MS = 3_600_000
SMALL = ("--workers", 0, "--generations", 3, "--pairs", 4)


@pytest.fixture
def timed_log(small_log: Path, tmp_path: Path) -> Path:
    """The small log with a moment of each request and an upload of each row; both become features."""
    log = copy(small_log, tmp_path)
    for path in sorted(log.glob("*/*.parquet")):
        table = pq.read_table(path)
        moment = (table["request_id"].to_numpy() * 7919 % 500) * HOUR_MS
        uploaded = moment - table["item_id"].to_numpy() % 90 * 24 * HOUR_MS
        table = table.append_column("ts", pa.array(moment, pa.timestamp("ms")))
        pq.write_table(table.append_column("uploaded", pa.array(uploaded, pa.timestamp("ms"))), path)
    schema = json.loads((log / "schema.json").read_text())
    schema["categorical"] += [
        {"name": "clock", "kind": "range", "from": {"column": "ts", "part": "hour"}},
        {"name": "level", "kind": "range", "from": {"column": "price", "part": "bucket", "quantiles": 4}},
    ]
    schema["numeric"] += [{"name": "age", "from": {"column": "uploaded", "part": "age_days", "at": "ts"}}]
    (log / "schema.json").write_text(json.dumps(schema))
    return log


@pytest.mark.slow
def test_derived_features_cut_figures_and_lead_weights(timed_log: Path, tmp_path: Path) -> None:
    run, data = tmp_path / "run", str(timed_log)
    train.run(arguments(timed_log, run))
    asked = evaluate.Arguments(run=run, data=data, by=("clock", "level", "age"), replicates=40)
    figures = evaluate.run(asked)
    raw = pa.concat_tables(pq.read_table(path) for path in sorted((timed_log / "test").glob("*.parquet")))
    cut = json.loads((run / "evaluations" / "test" / "evaluation.json").read_text())["slices"]
    assert [one["column"] for one in cut] == ["clock", "level", "age"]
    assert [one["label"] for one in cut[1]["slices"] if one["label"] != "missing"] == ["0", "1", "2", "3"]
    for one in cut:
        assert sum(each["rows"] for each in one["slices"]) == raw.num_rows
    assert any(key.startswith("by.age.> ") for key in figures)
    with pytest.raises(UserError, match=r"--by day: no such column; the log has .*, clock, level, age; or @activity"):
        evaluate.run(evaluate.Arguments(run=run, data=data, by=("day",), out=tmp_path / "other"))

    keep = ("clock", "age", "uploaded")
    with pytest.raises(UserError, match="--keep uploaded: a column of timestamp"):
        score.run(score.Arguments(run=run, data=data, out=tmp_path / "scored.parquet", keep=keep))
    with pytest.raises(UserError, match="--keep click: the file of scores has a column of that name already"):
        score.run(score.Arguments(run=run, data=data, out=tmp_path / "scored.parquet", keep=("click",)))
    scored = score.run(score.Arguments(run=run, data=data, out=tmp_path / "scored.parquet", keep=keep[:2]))
    found, seconds = pq.read_table(scored), raw["ts"].to_numpy().astype("datetime64[s]").astype(np.int64)
    np.testing.assert_array_equal(found["clock"].to_numpy(), seconds // 3600 % 24)
    uploaded = raw["uploaded"].to_numpy().astype("datetime64[s]").astype(np.int64)
    np.testing.assert_allclose(found["age"].to_numpy(), (seconds - uploaded) / 86_400)

    words = ("--scored", scored, "--by", "clock", *SMALL)
    evolve.run(evolve.arguments_of(*words, "--out", tmp_path / "tuned"))
    policy = json.loads((tmp_path / "tuned" / "policy.json").read_text())
    assert "slope.pctr.clock" in policy["names"]
    with pytest.raises(UserError, match="'age' differs from the request's first row"):  # each item has its own
        evolve.run(evolve.arguments_of("--scored", scored, "--by", "age", *SMALL, "--out", tmp_path / "no"))


@pytest.mark.slow
def test_a_pipeline_keeps_what_its_fusion_follows(timed_log: Path, tmp_path: Path) -> None:
    words = ("--data", timed_log, "--workers", 0, "--epochs", 1, "--formats", "--replicates", 40)
    small = ("--es.generations", 2, "--es.pairs", 4, "--es.workers", 0)
    with pytest.raises(UserError, match=r"log/valid: column 'age' differs from the request's first row"):
        pipeline.run(pipeline.arguments_of(*words, *small, "--tuning.by", "age", "--out", tmp_path / "no"))
    pipeline.run(pipeline.arguments_of(*words, *small, "--tuning.by", "clock", "--out", tmp_path / "all"))
    assert "clock" in pq.read_schema(tmp_path / "all" / "scored" / "valid.parquet").names
    why = "its weights follow clock, which the graph has no input for"  # so exports leave the policy out
    assert FusionTuning.not_served(FusionSettings(by=("clock",))) == why
