"""jobs.export as user and a serving engineer meet it: files that need no code of ours, and say what the model says."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from test_jobs_train import QUICK

from data.log import open_log
from jobs import evolve, export, export_check, score, train

MASK = 2**64 - 1


@pytest.fixture(scope="module")
def finished(small_log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "run"
    train.run(train.Arguments(data=str(small_log), out=out, workers=0, epochs=1, set=QUICK))
    return out


@pytest.fixture(scope="module")
def scored(finished: Path, small_log: Path) -> Path:
    return score.run(score.Arguments(run=finished, data=str(small_log), out=finished.parent / "scored.parquet"))


def policy_run(scored: Path, fusion: str) -> Path:
    out = scored.parent / fusion
    if not out.exists():
        evolve.run(evolve.Arguments(scored=scored, out=out, fusion=fusion, generations=3, pairs=4, workers=0))
    return out


@pytest.fixture(scope="module")
def served(finished: Path, scored: Path) -> Path:
    policy = policy_run(scored, "product")
    return export.run(export.Arguments(run=finished, policy=policy, out=finished.parent / "served", rows=500))


# A serving side: no checkout on its path, inputs and expected outputs from files.
PROGRAM = """
import sys, numpy as np
kind, path, ids, numeric, rows = *sys.argv[1:5], int(sys.argv[5])
ids, numeric = np.load(ids)[:rows], np.load(numeric)[:rows]
if kind == "onnx":
    import onnxruntime
    found = onnxruntime.InferenceSession(path).run(None, {"ids": ids, "numeric": numeric})
else:
    import torch
    found = [t.numpy() for t in torch.export.load(path).module()(torch.from_numpy(ids), torch.from_numpy(numeric))]
np.save(sys.argv[6], np.stack(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pt2", "onnx"])
def test_a_fresh_process_reproduces_the_models_scores(
    kind: str, served: Path, finished: Path, small_log: Path, scored: Path, tmp_path: Path
) -> None:
    """On real rows, 1 and 1000 at a time (the 600 of the test part and 400 of them again)."""
    from distributed.export import Ranker
    from distributed.scoring import load_model

    model, _ = load_model(finished)
    ranker = Ranker(model, 11, 2)
    _, (ids_RK, numeric_RN), expected = export_check.real_rows(ranker, None, open_log(small_log), "test", 600)
    order = np.arange(1000) % 600
    np.save(tmp_path / "ids.npy", ids_RK[order])
    np.save(tmp_path / "numeric.npy", numeric_RN[order])
    for rows in (1, 1000):
        paths = [str(tmp_path / name) for name in ("ids.npy", "numeric.npy")]
        command = [sys.executable, "-c", PROGRAM, kind, str(served / export.NAMES[kind]), *paths, str(rows)]
        subprocess.run([*command, str(tmp_path / "found.npy")], cwd=tmp_path, check=True)
        found = np.load(tmp_path / "found.npy")
        assert found.shape == (4, rows)
        for name, found_B in zip(("pctr", "pcvr", "pctcvr"), found, strict=False):
            np.testing.assert_allclose(found_B, expected[name][order][:rows], rtol=0, atol=1e-6)
            np.testing.assert_allclose(
                found_B, pq.read_table(scored).column(name).to_numpy()[order][:rows], rtol=0, atol=1e-6
            )


def test_the_fused_score_is_the_policys_formula(served: Path, scored: Path) -> None:
    serving = json.loads((served / "serving.json").read_text())
    policy = json.loads((scored.parent / "product" / "policy.json").read_text())
    value = dict(zip(policy["names"], policy["after"], strict=True))
    table = pq.read_table(scored)
    for row, entry in enumerate(serving["example"]):
        product = math.prod(
            (table.column(name)[row].as_py() + value[f"bias.{name}"]) ** value[f"exponent.{name}"]
            for name in policy["scores"]
        )
        assert entry["graph"]["fused"] == pytest.approx(math.log(product), abs=1e-4)


def test_a_sum_is_exported_too(finished: Path, scored: Path, tmp_path: Path) -> None:
    policy = policy_run(scored, "sum")
    out = export.run(export.Arguments(run=finished, policy=policy, out=tmp_path / "sum", rows=50, formats=("pt2",)))
    tuned = json.loads((policy / "policy.json").read_text())
    weights = [
        weight / constant for weight, constant in zip(tuned["after"], tuned["constants"], strict=True)
    ]  # names are weight.SCORE in the order of the scores
    for entry in json.loads((out / "serving.json").read_text())["example"]:
        expected = sum(weight * entry["graph"][name] for weight, name in zip(weights, tuned["scores"], strict=True))
        assert entry["graph"]["fused"] == pytest.approx(expected, rel=1e-5)
    assert sorted(path.name for path in out.iterdir()) == ["ranker.pt2", "serving.json"]


def test_serving_json_is_enough_to_encode_a_row(served: Path) -> None:
    """The rules as a serving engineer would write them, on plain integers, against the vectors and the real rows."""
    serving = json.loads((served / "serving.json").read_text())

    def splitmix64(x: int) -> int:
        x = (x + 0x9E3779B97F4A7C15) & MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
        return x ^ (x >> 31)

    def hashed(value: int | str) -> int:
        if isinstance(value, int):
            return splitmix64(value & MASK)
        total, power = len(value.encode()), 1
        for byte in value.encode():
            power = (power * 0x9E3779B97F4A7C15) & MASK
            total = (total + (byte + 1) * power) & MASK
        return splitmix64(total)

    for vector in serving["encodings"]["hash_test_vectors"]:
        value = int(vector["value"]) if vector["type"] == "int64" else vector["value"]
        assert hashed(value) == int(vector["hash"], 16), vector
        assert hashed(value) % 1000 == vector["hash mod 1000"]

    def encoded(field: dict, value: int | str | None) -> int:
        if value is None:
            return field["offset"]
        if field["kind"] == "hash":
            return field["offset"] + 1 + hashed(value) % field["size"]
        known = field["vocabulary"] if field["kind"] == "vocabulary" else range(field["size"])
        return field["offset"] + (2 + known.index(value) if value in known else 1)

    fields, numbers = (entry["columns"] for entry in serving["inputs"])
    for row in serving["example"]:
        assert [encoded(field, row["values"][field["column"]]) for field in fields] == row["graph"]["ids"]
        wanted = [np.float32(row["values"][entry["column"]]) for entry in numbers]
        np.testing.assert_array_equal(np.float32(row["graph"]["numeric"]), wanted)
        assert all(low <= value <= high for value, (low, high) in zip(
            row["graph"]["ids"], [field["ids"] for field in fields], strict=True))  # fmt: skip
    assert serving["check"]["rows"] == 500
    assert max(serving["check"]["largest_difference"]["onnx"].values()) <= serving["check"]["tolerance"]
    assert set(serving["files"]) == {"ranker.pt2", "ranker.onnx"}


def test_files_name_no_place_of_the_machine(served: Path) -> None:
    root = str(Path(export.__file__).resolve().parent.parent).encode()
    for path in served.iterdir():
        assert root not in path.read_bytes(), path.name


def test_a_difference_leaves_nothing_behind(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = export.real_rows

    def shifted(*arguments: object) -> object:
        table, inputs, expected = real(*arguments)  # type: ignore[arg-type]
        return table, inputs, {name: values_R + np.float32(1e-3) for name, values_R in expected.items()}

    monkeypatch.setattr(export, "real_rows", shifted)
    with pytest.raises(ValueError, match=r"ranker\.pt2: pct?c?v?r differs .* by 0\.001 on 20 real rows, more than"):
        export.run(export.Arguments(run=finished, out=tmp_path / "served", rows=20))
    assert not list(tmp_path.iterdir())


def mistakes(finished: Path, scored: Path, tmp_path: Path) -> dict[str, tuple[dict, str]]:
    full = tmp_path / "full"
    full.mkdir()
    (full / "work").touch()
    by = shutil.copytree(policy_run(scored, "sum"), tmp_path / "by")
    policy = json.loads((by / "policy.json").read_text())
    (by / "policy.json").write_text(json.dumps({**policy, "by": {"age": {"mean": 30.0, "std": 9.0}}}))
    strange = tmp_path / "strange"
    strange.mkdir()
    (strange / "policy.json").write_text(json.dumps({**policy, "scores": ["pctr", "pcvr", "quality"]}))
    return {
        "used directory": ({"out": full}, "is not empty"),
        "no run": ({"run": tmp_path}, "holds no trained model"),
        "no policy": ({"policy": finished}, r"policy\.json: no such file"),
        "user features": ({"policy": by}, "its weights depend on user features \\(age\\)"),
        "unknown score": ({"policy": strange}, "fuses 'quality'; the exported ranker has pctr, pcvr, pctcvr"),
        "rank": ({"policy": policy_run(scored, "rank")}, "'rank' fusion needs the request's ranks"),
        "no rows": ({"rows": 0}, "--rows is 0"),
        "no log": ({"data": str(tmp_path / "nowhere")}, "nowhere: no such directory"),
        "no part": ({"part": "later"}, "no part 'later'"),
        "tolerance": ({"tolerance": 0.0}, "--tolerance is 0"),
    }


def test_mistakes_are_one_line_and_leave_nothing(finished: Path, scored: Path, tmp_path: Path) -> None:
    for name, (change, message) in mistakes(finished, scored, tmp_path).items():
        with pytest.raises(ValueError, match=message):
            export.run(export.Arguments(**{"run": finished, "out": tmp_path / "served", **change}))
        assert not list(tmp_path.glob("*served*")), name
        assert not list(tmp_path.glob(".*")), name


def test_without_onnx_the_extra_is_named(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r"onnxscript is not installed: ONNX files need the extra `export`"):
        export.run(export.Arguments(run=finished, out=tmp_path / "served"))
