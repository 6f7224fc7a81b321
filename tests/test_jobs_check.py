"""jobs.check: what a run would refuse or warn about, and what each column is like, without a run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import chi2, entropy
from support import change_column, change_schema, copy, error_line

from data.drift import MUCH, by_chance, drifts, id_psi, psi
from data.log import open_log
from jobs import check


def test_psi_is_the_symmetric_divergence() -> None:
    one, two = np.array([4000, 3000, 3000]), np.array([2000, 3000, 5000])
    p, q = one / one.sum(), two / two.sum()
    assert psi(one, two) == pytest.approx(entropy(p, q) + entropy(q, p), rel=1e-3)
    assert psi(one, one) == 0
    rng = np.random.default_rng(0)
    same, moved = rng.integers(0, 20, 5000), rng.integers(10, 30, 5000)
    assert id_psi(same, rng.integers(0, 20, 5000)) < 0.02
    assert id_psi(same, moved) > 1


@pytest.mark.parametrize(("bins", "rows"), [(2, 40), (10, 60), (24, 300), (51, 100)])
def test_small_parts_that_nothing_tells_apart_are_not_far(bins: int, rows: int) -> None:
    """In a thousand draws one or so passes the limit; by 0.25 alone up to all of them would."""
    rng = np.random.default_rng(0)
    found = [id_psi(*(rng.integers(0, bins, size) for size in (3000, rows))) for _ in range(1000)]
    assert np.mean(np.array(found) > MUCH + by_chance(bins, 1 / 3000 + 1 / rows)) <= 0.002
    assert by_chance(bins, 1.0) == pytest.approx(chi2.ppf(0.999, bins - 1), rel=0.04)


def test_a_good_log_has_nothing_to_look_at(small_log: Path, tmp_path: Path) -> None:
    summary = check.run(check.Arguments(str(small_log), tmp_path / "check"))
    # Its rows are in the order of time, a few hours of which are the valid and the test part.
    assert [line for line in summary["warnings"] if "PSI" not in line and "are not in train" not in line] == []
    assert (
        summary["parts"]["train"]["rows"] + summary["parts"]["valid"]["rows"] + summary["parts"]["test"]["rows"] == 6000
    )
    page = (tmp_path / "check" / "report.html").read_text()
    assert "PSI test" in page
    train = summary["parts"]["train"]
    assert f"{train['clicks']:,} ({train['clicks'] / train['rows']:.2%})" in page
    log = open_log(small_log)
    names = {one.column for one in drifts(log, log.part("train"), log.part("test"))}
    assert names == set(log.schema.features)


def test_what_looks_wrong_is_named_by_column(
    small_log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = copy(small_log, tmp_path)
    numeric = json.loads((log / "schema.json").read_text())["numeric"]
    for path in sorted(log.glob("*/*.parquet")):
        if path.parent.name == "truth":
            continue
        table = pq.read_table(path)
        if "conversion" not in table.column_names:
            continue
        rows = table.num_rows
        table = table.append_column("paid", pa.array(table["conversion"].to_numpy() * 3.5))
        table = table.append_column("same", pa.array(np.full(rows, "x")))
        table = table.append_column(
            "far", pa.array(np.where(np.arange(rows) == 7, 9_999_999.0, np.arange(rows) / rows))
        )
        shift = 0 if path.parent.name == "train" else 5
        table = table.append_column("moved", pa.array(np.random.default_rng(1).normal(shift, 1, rows)))
        new = np.arange(rows) % 50 + (0 if path.parent.name == "train" else 10**6)
        pq.write_table(table.append_column("new_id", pa.array(new)), path)
    change_schema(log, lambda schema: schema.update(numeric=[*numeric, "paid", "far", "moved"]))
    extra = [
        {"name": "same", "kind": "vocabulary", "vocabulary": ["x"]},
        {"name": "new_id", "kind": "hash", "size": 5000},
    ]
    change_schema(log, lambda schema: schema["categorical"].extend(extra))
    lines = check.run(check.Arguments(str(log)))["warnings"]
    for name, text in (
        ("paid", "is it an outcome?"),
        ("same", "the same in all rows of train"),
        ("far", "if that is a placeholder"),
        ("moved", "test is far from train"),
        ("new_id", "100% of test has ids that are not in train"),
    ):
        assert any(repr(name) in line and text in line for line in lines), (name, lines)
    assert "to look at" in capsys.readouterr().out


def test_what_a_run_would_refuse_is_refused(
    small_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = copy(small_log, tmp_path)
    change_column(log, "valid", "click", lambda values: np.where(np.arange(len(values)) == 3, 2, values))
    line = error_line(check, ["--data", log], monkeypatch, capsys)
    assert "row 3: column 'click' is 2" in line
    line = error_line(check, ["--data", tmp_path / "absent"], monkeypatch, capsys)
    assert "no such directory" in line
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    line = error_line(check, ["--data", small_log, "--out", tmp_path / "full"], monkeypatch, capsys)
    assert "is not empty" in line


def test_features_made_of_others_are_checked_and_transforms_proposed(
    small_log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bucket is looked at as a column of its own; a long tail without a transform is named, with what to write."""
    log = Path(shutil.copytree(small_log, tmp_path / "log"))
    schema = json.loads((log / "schema.json").read_text())
    schema["categorical"].append(
        {"name": "level", "kind": "range", "from": {"column": "price", "part": "bucket", "quantiles": 4}}
    )
    schema["numeric"] = [*schema["numeric"], {"name": "log_price", "from": "price", "transform": ["log1p"]}]
    (log / "schema.json").write_text(json.dumps(schema))
    summary = check.run(check.Arguments(str(log), tmp_path / "check"))
    assert summary["columns"]["level"]["values"] == 4
    assert not any("level" in line for line in summary["warnings"])
    (line,) = [line for line in summary["proposals"] if "'price'" in line]
    assert '{"name": "price", "transform": [{"clip": [0.0, null]}, "log1p"]}' in line
    assert not any("log_price" in line for line in summary["proposals"])
    assert "perhaps: column 'price': a long tail" in " ".join(capsys.readouterr().out.split())
    assert "Transforms that may help" in (tmp_path / "check" / "report.html").read_text()


def test_a_ranker_is_told_of_candidates_that_nobody_saw(small_log: Path, tmp_path: Path) -> None:
    """Rows of a log of all stages count as not clicked, though nobody could click."""
    log = copy(small_log, tmp_path)
    for number, path in enumerate(sorted((log / "train").glob("*.parquet"))):
        table = pq.read_table(path)
        shown = np.arange(table.num_rows) % 4 > 0 if number else np.ones(table.num_rows, bool)
        pq.write_table(table.append_column("realshow", pa.array(shown.astype(np.int8))), path)
    rows = pa.concat_tables(pq.read_table(path) for path in sorted((log / "train").glob("*.parquet")))
    unseen = int((rows["realshow"].to_numpy() == 0).sum())
    (line,) = [one for one in check.run(check.Arguments(str(log)))["warnings"] if "stages" in one]
    assert line.startswith(f"a log of stages: {unseen:,} of {rows.num_rows:,} rows of train were never shown")
    change_column(log, "train", "realshow", None)  # a file without the flag: no log of stages
    assert not [one for one in check.run(check.Arguments(str(log)))["warnings"] if "stages" in one]


def test_a_problems_own_settings_are_options_and_go_on_to_the_training(tmp_path: Path) -> None:
    words = ("--data", tmp_path, "--problem", "vcnet", "--dose", "game")
    given = check.arguments_of(*words)
    assert given.settings.dose == "game"
    assert check.following(given) == [
        *("train", "--data", str(tmp_path), "--out", "runs/first", "--problem", "vcnet", "--dose=game"),
    ]  # fmt: skip
    clicks = check.arguments_of("--data", tmp_path, "--preset", "clicks")
    assert clicks.settings.objective.name == "naive"
    assert check.following(clicks)[-2:] == ["--preset", "clicks"]


def test_a_log_without_conversions_is_checked_for_a_model_of_clicks(
    small_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = copy(small_log, tmp_path)
    change_schema(log, lambda schema: schema.update(labels={"click": "click"}, truth=None))
    assert "no label 'conversion'" in error_line(check, ["--data", log], monkeypatch, capsys)
    assert check.run(check.arguments_of("--data", log, "--preset", "clicks"))["parts"]["train"]["clicks"] > 0
