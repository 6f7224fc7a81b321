"""The report's edges: what it refuses to read and to overwrite, and its small parts."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from support import as_program
from test_jobs_report import report, train_run, write

from funnel.figures.sampling_error import half_width, wilson
from funnel.numbers import compact, duration, number, percent
from jobs.report import Args, run
from jobs.report.bins import merged_bins
from jobs.report.page import MARKER
from jobs.report.runs import distinct_names, load_run


def test_what_is_no_finished_run_is_refused_by_name(tmp_path):
    path = train_run(tmp_path / "train")
    (path / "summary.json").unlink()
    empty = tmp_path / "empty"
    empty.mkdir()
    write(tmp_path / "search" / "run.json", {"kind": "search"})
    out = tmp_path / "report.html"
    for runs, message in (
        ([path], r"train: the run is not finished \(it holds no summary\.json\); repeat its jobs\.train command"),
        ([empty], r"empty: not a run directory \(it holds no run\.json\)"),
        ([tmp_path / "nowhere"], r"nowhere: no such run directory"),
        (
            [tmp_path / "search"],
            r"search/run.json: a 'search' run; a report takes runs of jobs\.train, jobs\.evaluate",
        ),
        ([path, path], r"train is given twice"),
        ([], r"no run given"),
    ):
        with pytest.raises(ValueError, match=message):
            run(Args(runs, out))
    assert not out.exists()


def test_only_an_earlier_report_is_overwritten(tmp_path):
    path = train_run(tmp_path / "train")
    other = tmp_path / "mine.html"
    other.write_text("<html>my own page</html>")
    with pytest.raises(ValueError, match=r"mine\.html exists and is not a report of ours"):
        run(Args([path], other))
    assert other.read_text() == "<html>my own page</html>"
    with pytest.raises(ValueError, match="is a directory; name a file"):
        run(Args([path], tmp_path))
    out = tmp_path / "new" / "report.html"
    assert run(Args([path], out)) == run(Args([path], out)) == out
    assert MARKER in out.read_text()[:4096]
    assert [item.name for item in out.parent.iterdir()] == ["report.html"]


def test_the_command_prints_the_path_and_mistakes_are_one_line(tmp_path, monkeypatch, capsys):
    path = train_run(tmp_path / "train")
    words = ("--out", tmp_path / "r.html", path)
    assert as_program("jobs.report", words, monkeypatch, capsys)[:2] == (0, f"{tmp_path / 'r.html'}\n")
    (path / "summary.json").unlink()
    code, _, said = as_program("jobs.report", words, monkeypatch, capsys)
    assert code == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1


def test_a_half_written_last_line_is_left_out_and_said(tmp_path):
    path = train_run(tmp_path / "train")
    lines = path / "metrics.jsonl"
    whole = lines.read_text()
    lines.write_text(whole + '{"event": "step", "st')
    assert "The last line of metrics.jsonl is half-written and was left out." in report(tmp_path, path).text
    lines.write_text("{broken\n" + whole)
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 1: not readable as JSON"):
        report(tmp_path, path)


def test_steps_logged_again_after_a_restart_count_once(tmp_path):
    path = train_run(tmp_path / "train")
    with (path / "metrics.jsonl").open("a") as file:
        for step in (1160, 1170):
            file.write(json.dumps({"event": "step", "step": step, "loss": 9.0}) + "\n")
    loaded = load_run(path)
    assert loaded.record.course("step", "step", "loss")[0] == list(range(10, 1180, 10))
    assert loaded.record.course("step", "step", "loss")[1][-2:] == [9.0, 9.0]
    assert loaded.notes == (
        "The run was continued from a checkpoint once; steps logged twice are shown as logged last.",
    )


def test_half_widths_are_the_published_formulas():
    # Hanley and McNeil 1982: Q1 = A / (2 - A), Q2 = 2 A^2 / (1 + A).
    a, positives, negatives = 0.8, 50, 150
    q1, q2 = a / (2 - a), 2 * a * a / (1 + a)
    variance = (a * (1 - a) + (positives - 1) * (q1 - a * a) + (negatives - 1) * (q2 - a * a)) / (positives * negatives)
    assert half_width("auc", a, 200, 50) == pytest.approx(1.96 * math.sqrt(variance))
    assert half_width("pcoc", 1.2, 200, 50) == pytest.approx(1.96 * 1.2 / math.sqrt(50))
    assert half_width("auc", a, 200, 0) is None
    assert half_width("log_loss", a, 200, 50) is None


def test_numbers_read_well():
    assert [compact(value) for value in (0.01, 99.9, 0.83124, 12.345, 5310.4, 3, 0, 2e-6, -0.5, None)] == [
        "0.01", "99.9", "0.8312", "12.35", "5,310", "3", "0", "2.00e−06", "−0.5", "–",
    ]  # fmt: skip
    assert [percent(value) for value in (0.0402, 0.00201, 0.5, 1, 0, None)] == [
        "4.02%", "0.201%", "50.0%", "100%", "0%", "–",
    ]  # fmt: skip
    assert [duration(value) for value in (7.34, 61.5, 100, 3725)] == ["7.3 s", "61.5 s", "1 min 40 s", "1 h 02 min"]
    assert number(-0.5, 2) == "−0.50"
    assert distinct_names([Path("/a/x"), Path("/b/x")]) == ["a/x", "b/x"]


def test_calibration_bins_are_merged_until_they_hold_ten_positives():
    def bins_of(*rows: tuple[float, float, int]) -> list[list[float]]:
        named = [dict(zip(("mean_prediction", "mean_label", "count"), row, strict=True)) for row in rows]
        return merged_bins(named)[:, :3].tolist()

    assert bins_of((0.1, 0.1, 100), (0.3, 0.3, 100)) == [[0.1, 0.1, 100], [0.3, 0.3, 100]]
    assert bins_of((0.1, 0.0, 100), (0.3, 0.1, 300)) == [pytest.approx([0.25, 0.075, 400])]
    assert bins_of((0.1, 0.1, 100), (0.3, 0.02, 100)) == [pytest.approx([0.2, 0.06, 200])]
    assert bins_of((0.1, 0.0, 100)) == [[0.1, 0.0, 100]]
    assert bins_of() == []


def test_the_interval_of_a_bin_is_scipys_wilson_interval():
    for positives, rows in ((0, 50), (10, 100), (37, 40)):
        low, high = wilson(np.array([positives / rows]), np.array([float(rows)]), z=1.959963984540054)
        ours = binomtest(positives, rows).proportion_ci(0.95, method="wilson")
        assert (low[0], high[0]) == pytest.approx((ours.low, ours.high), abs=1e-12)
