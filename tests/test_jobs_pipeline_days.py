"""Days as other programs write them: none is passed over in silence; what cannot be tuned is still trained on."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data.days import look
from data.errors import UserError
from data.generate import generate_days
from data.world import GeneratedLog
from distributed.finished_run import load_run
from jobs import pipeline
from jobs.pipeline.watch import Watch
from tests.test_jobs_pipeline import WORLD, options


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    days = tmp_path_factory.mktemp("days") / "days"
    shape = {"rows": 4000, "seed": 3, "click_rate": 0.2, "conversion_rate": 0.3, **WORLD}
    generate_days(GeneratedLog(world="aligned", **shape), 2, days)
    return days


@pytest.fixture
def days(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "days"))


def watched(where: Path, out: Path, *words: object, **changes: Any) -> pipeline.Arguments:
    given = {"watch": where, "epochs": 1, "valid_share": 0.3, "until_idle": 0.0, **changes}
    return options(None, out, "--day-generations", 3, *words, **given)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "days.jsonl").read_text().splitlines()]


def test_days_are_found_however_they_are_written(tmp_path: Path) -> None:
    for name in ("dt=2026-01-02", "20260101", "2026-01-03", "day_x=20260104"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "_SUCCESS").touch()
    for name in ("2026-01-05", "backup", "truth", "_temporary", ".spark", "2026-0106"):
        (tmp_path / name).mkdir()
    found = look(tmp_path)
    assert found.whole == {"2026-01-01": "20260101", "2026-01-02": "dt=2026-01-02", "2026-01-03": "2026-01-03",
                           "2026-01-04": "day_x=20260104"}  # fmt: skip
    assert set(found.passed_over) == {"2026-01-05", "backup", "2026-0106"}
    assert "no _SUCCESS in it" in found.passed_over["2026-01-05"]
    (tmp_path / "2026-01-01").mkdir()
    (tmp_path / "2026-01-01" / "_SUCCESS").touch()
    with pytest.raises(UserError, match=r"20260101: .*2026-01-01 is the same day"):
        look(tmp_path)


@pytest.mark.slow
def test_partitions_of_hive_are_taken_and_half_days_are_named(
    days: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for root in (days, days / "truth"):
        (root / "2026-01-01").rename(root / "dt=2026-01-01")
        (root / "2026-01-02").rename(root / "20260102")
    (days / "20260102" / "_SUCCESS").unlink()
    out = tmp_path / "run"
    pipeline.run(watched(days, out))
    printed = capsys.readouterr().out
    assert printed.startswith(f"watching {days}: 1 day, 2026-01-01; 0 taken in before, 1 to go")
    assert printed.count("20260102: passed over, no _SUCCESS in it") == 1
    assert [line["day"] for line in lines(out)] == ["2026-01-01"]
    (days / "20260102" / "_SUCCESS").touch()
    pipeline.run(watched(days, out))
    second = lines(out)[1]
    assert (second["day"], second["model"]) == ("2026-01-02", "2026-01-01")
    assert "ctr.auc" in second, "judged, so read by the directory's name"
    assert "value_at_3.tuned" in second


@pytest.mark.slow
def test_lists_too_short_to_tune_on_are_still_trained_on(
    days: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    pipeline.run(watched(days, out, "--tuning.k", 1000))
    printed = capsys.readouterr().out
    first, second = lines(out)
    assert printed.count("trained on, but its policy is not tuned: ") == 2
    assert first["steps"] > 0
    assert second["model"] == "2026-01-01"
    assert "ctr.auc" in second
    assert "theta_crc32" not in second
    assert (out / "current").resolve() == out / "days" / "2026-01-02"
    pipeline.run(watched(days, out, "--tuning.k", 1000))  # nothing is left to do, and nothing is done again
    assert "done again" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_policy_outlives_a_day_that_cannot_be_tuned_on(
    days: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    pipeline.run(watched(days, out, days=1))
    monkeypatch.setattr("jobs.pipeline.watch.untunable", lambda plan, log: "its lists are short")
    pipeline.run(watched(days, out, keep=1))
    first, second = lines(out)
    assert second["untuned"] == "its lists are short"
    assert second["theta_crc32"] == first["theta_crc32"]
    assert not (out / "days" / "2026-01-01" / "tuned").exists(), "only one day is kept"
    assert (out / "current" / "tuned" / "policy.json").is_file()


@pytest.mark.slow
def test_no_day_learned_from_is_no_success(days: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = Watch.cut
    monkeypatch.setattr(Watch, "cut", lambda self, day, out: {**cut(self, day, out), "skipped": "no conversion"})
    with pytest.raises(UserError, match="none of 2 days could be learned from; 2026-01-02: no conversion"):
        pipeline.run(watched(days, tmp_path / "run"))
    assert len(lines(tmp_path / "run")) == 2
    for day in ("2026-01-01", "2026-01-02"):
        (days / day / "_SUCCESS").unlink()
    with pytest.raises(UserError, match=r"no day was taken in; 2026-01-01: no _SUCCESS in it.*\(and 1 more\)"):
        pipeline.run(watched(days, tmp_path / "other"))


def test_a_wait_without_end_says_what_for(
    days: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Ended(Exception): ...

    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            raise Ended

    for day in ("2026-01-01", "2026-01-02"):
        (days / day / "_SUCCESS").unlink()
    monkeypatch.setattr("jobs.pipeline.watch.time.sleep", sleep)
    given = watched(days, tmp_path / "run")
    given.until_idle = None
    with pytest.raises(Ended):
        pipeline.run(given)
    printed = capsys.readouterr().out
    assert printed.count(f"waiting for a day in {days}, with _SUCCESS in it; looking every 0.05 s") == 1
    assert printed.count("2026-01-01: passed over") == 1


@pytest.mark.slow
def test_a_log_of_days_may_gain_columns(days: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first day has no price and no channel: its model does without, and the second day's gains both."""
    first, second = sorted(path for path in days.iterdir() if path.is_dir() and path.name != "truth")
    for path in first.glob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["price", "channel"]), path)
    schema = json.loads((days / "schema.json").read_text())
    schema["numeric"] = [name for name in schema["numeric"] if name != "price"]
    schema["numeric"].append({"name": "price", "transform": [{"fill": "median"}, "log1p"]})
    (days / "schema.json").write_text(json.dumps(schema))
    out = tmp_path / "out"
    pipeline.run(watched(days, out))
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("has no channel, price; a day that lacks a feature is trained on without it") == 1
    assert "new features beside those of" in said
    before, after = (load_run(out / "days" / day.name / "train").schema for day in (first, second))
    assert set(after.features) - set(before.features) == {"price", "channel"}
    assert "price" in after.statistics
    records = [json.loads((out / "days" / day.name / "train" / "run.json").read_text()) for day in (first, second)]
    assert [sorted(record.get("new_features", ())) for record in records] == [[], ["channel", "price"]]
    assert [line["day"] for line in lines(out)] == [first.name, second.name]
    third = days / "2026-01-03"
    shutil.copytree(second, third)
    for path in third.glob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["price"]), path)
    with pytest.raises(UserError, match=rf"^{third}: has no price, which the model of {second.name} reads: write the"):
        pipeline.run(watched(days, out))
    assert len(lines(out)) == 2
    assert "trained on without it" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_day_is_trained_on_what_was_known_by_its_end(tmp_path: Path) -> None:
    """--as-of train: conversions that came on a later day are none yet."""
    days = tmp_path / "days"
    shape = {"rows": 4000, "seed": 3, "click_rate": 0.4, "conversion_rate": 0.5, "delay": 0.5, **WORLD}
    generate_days(GeneratedLog(world="aligned", **shape), 2, days)
    out = tmp_path / "out"
    pipeline.run(watched(days, out, "--as-of", "train", "--objective.delay", "exponential"))
    ends = []
    for name in ("2026-01-01", "2026-01-02"):
        facts = load_run(out / "days" / name / "train").problem.facts
        table = pq.read_table(out / "days" / name / "log" / "train")
        clicks, final = (float(table.column(label).to_numpy().sum()) for label in ("click", "conversion"))
        assert facts["conversion_rate"] < 0.85 * final / clicks
        ends.append(facts["as_of"])
    assert 0 < ends[1] - ends[0] < 2 * 86_400_000_000
