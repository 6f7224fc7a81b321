"""jobs.export as user and a serving engineer meet it: files that need no code of ours, and say what the model says."""

import dataclasses
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support import arguments as train_arguments
from support import keep_calibration

from data.encode import Encoder, Rows
from data.fields import POOLINGS
from data.generate import generate_log
from data.log import open_log
from data.schema import Schema
from data.world import GeneratedLog
from distributed.finished_run import load_run
from funnel.ranking import exporting, serving_check
from funnel.ranking.calibration import Calibration, Calibrator
from funnel.ranking.export import Ranker, export_program
from funnel.ranking.export_pooling import ExportedPooling
from funnel.ranking.problem import EntireSpace, EntireSpaceSettings
from funnel.ranking.serving_file import example_rows
from jobs import evolve, export, score, train
from models.entire_space import ModelConfig
from models.pooling import build_pooling

MASK = 2**64 - 1


CALIBRATION = Calibration(
    {
        "ctr": Calibrator("isotonic", 1.0, -0.1, ((-3.0, -4.0), (-1.5, -1.4), (-1.0, -1.35), (0.5, 2.0))),
        "cvr": Calibrator("platt", 0.8, 0.3),
    }
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all that an export can hold: a history pooled by attention, and calibration."""
    directory = tmp_path_factory.mktemp("export")
    shape = {"rows_per_file": 2000, "rows_per_group": 400, "users": 200, "items": 100, "history": 5}
    log = directory / "log"
    generate_log(GeneratedLog(world="aligned", rows=6000, seed=3, click_rate=0.2, conversion_rate=0.3, **shape), log)
    train.run(train_arguments(log, directory / "run"))
    keep_calibration(CALIBRATION, directory / "run")
    return directory / "run"


@pytest.fixture(scope="module")
def scored(finished: Path) -> Path:
    log, out = finished.parent / "log", finished.parent / "scored.parquet"
    return score.run(score.Arguments(run=finished, data=str(log), out=out))


def policy_run(scored: Path, fusion: str) -> Path:
    out = scored.parent / fusion
    if not out.exists():
        quick = ("--generations", 3, "--pairs", 4, "--workers", 0)
        evolve.run(evolve.arguments_of("--scored", scored, "--out", out, "--fusion", fusion, *quick))
    return out


@pytest.fixture(scope="module")
def served(finished: Path, scored: Path) -> Path:
    policy = policy_run(scored, "product")
    return export.run(export.Arguments(run=finished, policy=policy, out=finished.parent / "served", rows=500))


# A serving side: no checkout on its path, inputs from a file.
PROGRAM = """
import sys, numpy as np
kind, path, *places = sys.argv[1:]
if kind == "onnx":
    import onnxruntime
    session = onnxruntime.InferenceSession(path)
    answer = lambda given: session.run(None, given)
else:
    import torch
    module = torch.export.load(path).module()
    answer = lambda given: [t.numpy() for t in module(*map(torch.from_numpy, given.values()))]
for place in places:
    np.save(place + ".npy", np.stack(answer(dict(np.load(place)))))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pt2", "onnx"])
def test_a_fresh_process_reproduces_the_scores(
    kind: str, served: Path, finished: Path, scored: Path, tmp_path: Path
) -> None:
    """On real rows: 1, and 1000 at a time (the 600 of the test part and 400 of them again)."""
    trained = load_run(finished)
    ranker = Ranker(trained.network, trained.schema, CALIBRATION)
    real = serving_check.real_rows(ranker, None, open_log(finished.parent / "log"), "test", 600)
    again = dataclasses.replace(real, encoded=Rows.join([real.encoded, real.encoded]))
    table = pq.read_table(scored)
    for rows in (1, 1000):
        inputs = dict(zip(ranker.inputs, again.inputs(ranker, slice(0, rows)), strict=True))
        np.savez(tmp_path / f"{rows}.npz", **inputs)
    command = [sys.executable, "-c", PROGRAM, kind, str(served / exporting.NAMES[kind])]
    subprocess.run([*command, *(str(tmp_path / f"{rows}.npz") for rows in (1, 1000))], cwd=tmp_path, check=True)
    for rows in (1, 1000):
        found = np.load(tmp_path / f"{rows}.npz.npy")
        assert found.shape == (4, rows)
        for name, found_B in zip(("pctr", "pcvr", "pctcvr"), found, strict=False):
            expected_B = table.column(name).to_numpy()[np.arange(rows) % 600]
            np.testing.assert_allclose(found_B, expected_B, rtol=0, atol=1e-6)


def test_the_exported_pooling_is_the_models() -> None:
    """All of them, with empty rows, one row, one value and none."""
    vectors_VE, generator = torch.randn(20, 8), torch.Generator().manual_seed(1)
    for name in POOLINGS:
        pooling = build_pooling(name, 8, 3)
        for length in ([3, 0, 1, 2], [4], [1], [0], [0, 0], [0, 5]):
            offset_B1 = torch.tensor([0, *np.cumsum(length)])
            position_S = torch.randint(0, 20, (sum(length),), generator=generator)
            given = (vectors_VE, position_S, offset_B1, torch.randn(len(length), 3))
            torch.testing.assert_close(ExportedPooling(pooling)(*given), pooling(*given), rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("crossing", ["fm", "dcn_v2"])
def test_crossing_is_exported(crossing: str, finished: Path) -> None:
    schema = load_run(finished).schema
    settings = EntireSpaceSettings(ModelConfig(embedding_width=4, embedding_scale=0.5, crossing=crossing))
    facts = {"tasks": ["ctr", "cvr"], "click_rate": 0.2, "conversion_rate": 0.3}
    network = EntireSpace(settings, schema, facts).network(seed=1)
    ranker = Ranker(network, schema)
    program = export_program(ranker)
    real = serving_check.real_rows(ranker, None, open_log(finished.parent / "log"), "test", 50)
    inputs = [torch.from_numpy(array) for array in real.inputs(ranker, slice(0, 50))]
    expected = ranker(*inputs)
    for found, wanted in zip(program.module()(*inputs), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    assert float(expected[0].std()) > 0


@pytest.mark.slow
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
        assert entry["outputs"]["fused"] == pytest.approx(math.log(product), abs=1e-4)


@pytest.mark.slow
def test_a_sum_is_exported_too(finished: Path, scored: Path, tmp_path: Path) -> None:
    policy = policy_run(scored, "sum")
    out = export.run(export.Arguments(run=finished, policy=policy, out=tmp_path / "sum", rows=50, formats=("pt2",)))
    tuned = json.loads((policy / "policy.json").read_text())
    weights = [
        weight / constant for weight, constant in zip(tuned["after"], tuned["constants"], strict=True)
    ]  # names are weight.SCORE in the order of the scores
    for entry in json.loads((out / "serving.json").read_text())["example"]:
        expected = sum(weight * entry["outputs"][name] for weight, name in zip(weights, tuned["scores"], strict=True))
        assert entry["outputs"]["fused"] == pytest.approx(expected, rel=1e-5)
    assert sorted(path.name for path in out.iterdir()) == ["inputs.py", "ranker.pt2", "serving.json"]


@pytest.mark.slow
def test_a_fused_value_is_an_input(finished: Path, tmp_path: Path) -> None:
    """A log that names a value has it among the scores that are fused."""
    log = tmp_path / "log"
    shutil.copytree(finished.parent / "log", log)
    schema = json.loads((log / "schema.json").read_text())
    (log / "schema.json").write_text(json.dumps({**schema, "value": "discount"}))
    scored = score.run(score.Arguments(run=finished, data=str(log), out=tmp_path / "scored.parquet"))
    policy = policy_run(scored, "product")
    arguments = export.Arguments(run=finished, policy=policy, out=tmp_path / "served", data=str(log), formats=("pt2",))
    serving = json.loads((export.run(arguments) / "serving.json").read_text())
    assert [entry["name"] for entry in serving["inputs"]] == [
        "ids",
        "numeric",
        "value",
        "history.ids",
        "history.begins",
    ]
    assert serving["inputs"][2]["column"] == "discount"
    assert all(row["inputs"]["value"] == pytest.approx(row["values"]["discount"]) for row in serving["example"])


@pytest.mark.slow
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

    inputs = {entry["name"]: entry for entry in serving["inputs"]}
    assert list(inputs) == ["ids", "numeric", "history.ids", "history.begins"]
    fields, numbers, history = inputs["ids"]["columns"], inputs["numeric"]["columns"], inputs["history.ids"]
    assert all(row["inputs"]["history.ids"] for row in serving["example"]), "a history that is empty shows nothing"
    for row in serving["example"]:
        kept = (row["values"]["history"] or [])[-(history["last_values_kept"] or 10**9) :]
        assert [encoded(history, value) for value in kept] == row["inputs"]["history.ids"]
        assert [encoded(field, row["values"][field["column"]]) for field in fields] == row["inputs"]["ids"]
        wanted = [np.float32(row["values"][entry["column"]]) for entry in numbers]
        np.testing.assert_array_equal(np.float32(row["inputs"]["numeric"]), wanted)
        for field, value in zip(fields, row["inputs"]["ids"], strict=True):
            assert field["smallest"] <= value <= field["largest"]
    assert serving["check"]["rows"] == 500
    assert max(serving["check"]["largest_difference"]["onnx"].values()) <= serving["check"]["tolerance"]
    assert set(serving["files"]) == {"inputs.py", "ranker.pt2", "ranker.onnx"}


@pytest.mark.slow
def test_no_warning_of_a_library_leaks_into_the_output(finished: Path, tmp_path: Path) -> None:
    words = ("--run", finished, "--out", tmp_path / "served", "--rows", 200)
    command = [sys.executable, "-m", "jobs.export", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(export.__file__).parents[1])
    assert done.stderr == ""
    assert "Warning" not in done.stdout


@pytest.mark.slow
def test_files_name_no_place_of_the_machine(served: Path) -> None:
    root = str(Path(export.__file__).resolve().parent.parent).encode()
    for path in served.iterdir():
        assert root not in path.read_bytes(), path.name


@pytest.mark.slow
def test_a_difference_leaves_nothing_behind(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = exporting.real_rows

    def shifted(*arguments: object) -> object:
        real = honest(*arguments)  # type: ignore[arg-type]
        expected = {name: values_R + np.float32(1e-3) for name, values_R in real.expected.items()}
        return dataclasses.replace(real, expected=expected)

    monkeypatch.setattr(exporting, "real_rows", shifted)
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
        "no run": ({"run": tmp_path}, r"run\.json: no such file"),
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


def test_example_rows_hold_the_value_and_the_fullest_histories() -> None:
    schema = Schema.from_dict(
        {
            "format": "counterpoint.schema", "version": 2, "name": "examples", "numeric": ["price"],
            "categorical": [{"name": "item", "kind": "range", "size": 9},
                            {"name": "history", "kind": "range", "size": 9, "many": {"pooling": "mean"}}],
            "labels": {"click": "click"}, "value": "order",
        },
        "a test",
    )  # fmt: skip
    table = pa.table(
        {
            "item": [0, 1, 2, 3, 4],
            "price": pa.array([1.0, 2.0, 3.0, 4.0, 5.0]),
            "history": pa.array([[], [5], None, [6, 7], [8]], pa.list_(pa.int64())),
            "click": pa.array([0, 1, 0, 1, 0], pa.int8()),
            "order": pa.array([10.0, 20.0, 30.0, 40.0, 50.0]),
        }
    )
    value_R = table.column("order").to_numpy()
    found = example_rows(schema, table, Encoder(schema).encode(table), value_R, {"pctr": np.arange(5) / 10})
    assert [row["values"]["history"] for row in found] == [[5], [6, 7], [8]]
    assert [row["values"]["order"] for row in found] == [row["inputs"]["value"] for row in found] == [20.0, 40.0, 50.0]
    assert [row["outputs"]["pctr"] for row in found] == [0.1, 0.3, 0.4]
    plain = example_rows(schema, table, Encoder(schema).encode(table), None, {"pctr": np.arange(5) / 10})
    assert "order" not in plain[0]["values"], "the graph does not take it"
