"""The server of docs/serve.md, as it stands there, gives the scores that the export promises."""

import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import arguments

from funnel.ranking import request_inputs
from funnel.ranking.serving_file import plain
from jobs import export, score, train

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


CHAIN = [{"missing": [999]}, {"fill": "median"}, {"clip_quantiles": [0.01, 0.99]}, "log1p"]
CHANGED_NUMERIC: list[Any] = [
    {"name": "price", "transform": CHAIN},
    {"name": "rank", "from": "price", "transform": [{"clip": [None, 500]}, {"quantile": "normal"}]},
    {"name": "share", "from": "item_age_days", "transform": {"quantile": "uniform"}},
    {
        "name": "age",
        "from": {"column": "uploaded", "part": "age_days", "at": "ts", "unit": "s"},
        "transform": ["log1p"],
    },
    {"name": "no_price", "from": {"column": "price", "part": "missing"}},
]
CHANGED_CATEGORICAL: list[Any] = [
    {"name": "level", "kind": "range", "from": {"column": "price", "part": "bucket", "quantiles": 7}},
    {"name": "clock", "kind": "range", "from": {"column": "ts", "part": "hour", "zone": "Asia/Kolkata"}},
    {"name": "weekday", "kind": "range", "from": {"column": "ts", "part": "weekday"}},
]


@pytest.fixture(scope="module")
def changed_log(small_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small log with moments, placeholders and missing prices, and a schema that uses what a schema can say."""
    out = tmp_path_factory.mktemp("changed") / "log"
    shutil.copytree(small_log, out)
    rng = np.random.default_rng(0)
    for path in sorted(out.glob("[tv]*/*.parquet")):
        if path.parent.parent != out:
            continue
        table, rows = pq.read_table(path), pq.read_metadata(path).num_rows
        price = table["price"].to_numpy().astype(float)
        price[rng.random(rows) < 0.05] = 999
        seconds = 1_767_225_600 + rng.integers(0, 10 * 86_400, rows)
        table = table.set_column(
            table.column_names.index("price"), "price", pa.array(price, mask=rng.random(rows) < 0.1)
        )
        table = table.append_column("ts", pa.array(seconds * 1000, pa.timestamp("ms")))
        uploaded = pa.array(seconds - rng.integers(0, 10**6, rows), mask=rng.random(rows) < 0.1)
        pq.write_table(table.append_column("uploaded", uploaded), path, row_group_size=200)
    schema = json.loads((out / "schema.json").read_text())
    schema["numeric"] = [name for name in schema["numeric"] if name != "price"] + CHANGED_NUMERIC
    schema["categorical"] = [*schema["categorical"], *CHANGED_CATEGORICAL]
    (out / "schema.json").write_text(json.dumps(schema))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("log", ["small_log", "listed_log", "changed_log"])
def test_the_server_of_the_page_scores_as_the_export_says(
    log: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = request.getfixturevalue(log)
    if log == "small_log":
        run = request.getfixturevalue("trained_run")
    else:
        run = tmp_path / "run"
        train.run(arguments(place, run))
    served = export.run(export.Arguments(run=run, out=tmp_path / "served", formats=("onnx",)))
    text = (ROOT / "docs" / "serve.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "server.py").write_text(code)
    described = json.loads((served / "serving.json").read_text())
    port = free_port()
    server = subprocess.Popen([sys.executable, tmp_path / "server.py", served, str(port)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert time.monotonic() < deadline
            assert server.poll() is None
            time.sleep(0.1)
        examples = described["example"]
        found = ask(port, [example["values"] for example in examples])
        scored = pq.read_table(score.run(score.Arguments(run, str(place), tmp_path / "scored.parquet")))
        files = sorted((place / "test").glob("*.parquet"))
        raw = pa.concat_tables(pq.read_table(path) for path in files)
        rows = [{key: plain(value) for key, value in row.items()} for row in raw.slice(0, 300).to_pylist()]
        served_raw = ask(port, rows)
        with pytest.raises(urllib.error.HTTPError, match="400"):
            ask(port, [{"price": "dear"}])
    finally:
        server.kill()
        server.wait()
    assert {"pctr", "pcvr", "pctcvr"} <= found.keys()
    for name, scores in found.items():
        assert scores == pytest.approx([example["outputs"][name] for example in examples], abs=1e-5), name
        np.testing.assert_allclose(served_raw[name], scored[name].to_numpy()[:300], atol=1e-5)
    assert vectors_hold(described) == (9 if log == "changed_log" else 0)


def ask(port: int, rows: list[dict[str, Any]]) -> dict[str, list[float]]:
    body = json.dumps(rows).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}", data=body, timeout=30) as answer:
        found: dict[str, list[float]] = json.loads(answer.read())
    return found


def vectors_hold(described: dict[str, Any]) -> int:
    """The functions of inputs.py on the test vectors of serving.json; returns how many lists of them there are."""
    lists = 0
    for entry in described["inputs"]:
        for column in entry.get("columns", []):
            for vector in column.get("from_test_vectors", []):
                made = request_inputs.taken(column, vector["values"])
                assert made == (vector["is"] if vector["is"] is None else pytest.approx(vector["is"])), column["column"]
            for vector in column.get("test_vectors", []):
                read = request_inputs.changed(column, vector["value"])
                wanted = np.nan if vector["read"] is None else vector["read"]
                np.testing.assert_allclose(read, wanted, atol=1e-6, err_msg=column["column"])
            lists += ("from_test_vectors" in column) + ("test_vectors" in column)
    return lists
