"""Any system's panels on the page: all kinds of them, of one run and of several, and of systems that are not there."""

import re

import pytest
from test_jobs_report import Page, record, report, train_run, write

from funnel.numbers import number
from funnel.panels import (
    Calibration,
    Curve,
    Figure,
    Glossary,
    Interval,
    Intervals,
    Panel,
    Record,
    Sentence,
    Series,
    Table,
)
from jobs.report.draw import rounded
from jobs.report.tables import Grid, Group

EVIL = '<script>alert("x")</script>'


class Heights:
    """A problem of somebody's own that shows every kind of panel."""

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        error = record.number("error")
        bins = [{"mean_prediction": 0.3, "mean_label": 0.4, "count": 100}]
        pair = (Interval("steep", 1.5, 1.2, 1.8), Interval("flat", 0.9, 0.7, 1.1))
        return [
            Sentence(f"Heights are off by {error} m.", headline=True),
            Table("", ("Place", "Error", "Rows"), (("hill", Figure(error, 2, badness=error), 7),), section="Heights",
                  alike=("Rows",)),
            Curve("Error by step", "step", "m", (Series("", [1, 2, 3], [3, 2, 1]),), section="Heights"),
            Curve("Sizes", "m", "hills", (Series("", [0, 1, 2], [4, 5]),), bars=True, section="Heights"),
            Intervals("Ratio", "ratio", pair, 1.0, section="Heights"),
            Calibration("Snow", {"": bins}, section="Heights"),
            Sentence("Nobody measured the north face.", "Heights"),
            Glossary((("Hill", "Higher than what lies around it."),)),
        ]  # fmt: skip


def heights_run(out, error: float, **more: object):
    write(out / "run.json", {**record("train", {}, {"location": "/maps"}), "problem": f"{__name__}:Heights", **more})
    write(out / "summary.json", {"part": "test", "error": error})
    return out


def test_a_page_shows_what_a_system_names(tmp_path):
    page = report(tmp_path, heights_run(tmp_path / "alps", 0.31))
    assert "Heights are off by 0.31 m." in page.text
    assert page.row("hill") == ["0.31", "7"]
    assert page.panels == ["Error by step", "Sizes", "Ratio", "Snow"]
    assert page.figures[0] == "Error by step, linear axis: it goes from 3 to 1."
    assert page.figures[2] == "Ratio: steep 1.5, 95% 1.2 to 1.8; flat 0.9, 95% 0.7 to 1.1."
    assert "1 bins, predictions 30.0% to 30.0%, labels 40.0% to 40.0%" in page.figures[3]
    assert "Nobody measured the north face." in page.text
    assert "Higher than what lies around it." in page.text


def test_runs_of_one_system_stand_beside_each_other(tmp_path):
    page = report(tmp_path, heights_run(tmp_path / "alps", 0.31), heights_run(tmp_path / "andes", 0.12))
    assert (page.row("alps"), page.row("andes")) == (["0.31", "7"], ["0.12 (best)", "7"])
    assert page.panels == ["Error by step", "Sizes: alps", "Sizes: andes", "Ratio", "Snow"]
    assert page.figures[0] == "Error by step, linear axis: alps goes from 3 to 1; andes goes from 3 to 1."
    assert "flat andes 0.9" in page.figures[3]
    assert page.text.count("Nobody measured the north face.") == 1
    assert page.text.count("Higher than what lies around it.") == 1


def test_results_of_every_run_come_before_the_details_of_any(tmp_path):
    page = report(tmp_path, train_run(tmp_path / "train"), heights_run(tmp_path / "alps", 0.31))
    titles = re.findall(r"<h2>([^<]*)</h2>", page.source)
    assert titles == ["Prediction quality", "Heights", "Calibration", "Propensity health", "Training", "What ran",
                      "Glossary"]  # fmt: skip


@pytest.mark.parametrize("problem", ["no_such_module:Anything", "no_such_name"])
def test_a_system_that_is_not_here_shows_its_figures_and_curves(tmp_path, problem):
    out = heights_run(tmp_path / "alps", 0.31, problem=problem)
    (out / "metrics.jsonl").write_text(
        '{"event": "step", "step": 1, "loss": 2.0}\n{"event": "step", "step": 2, "loss": 1.0}\n'
        '{"event": "valid", "step": 2, "error": 0.4, "best": true}\n'
    )
    page = report(tmp_path, out)
    assert page.row("error") == ["0.31"]
    assert page.panels == [], "no picture of two points, and none of one"
    assert page.row("loss") == ["2", "1"]
    assert page.row("error", 1) == ["–", "0.4"]


def test_words_of_a_system_and_names_of_runs_are_text(tmp_path, monkeypatch):
    panels = [
        Sentence(EVIL, headline=True),
        Sentence(EVIL, EVIL),
        Table(EVIL, (EVIL, EVIL), ((EVIL, Figure(None, why=EVIL)),), EVIL, EVIL),
        Curve(EVIL, EVIL, EVIL, (Series(EVIL, [1, 2], [1, 2]), Series('"--> url(#x) id="', [1, 2], [2, 1])), EVIL,
              section=EVIL, bound=(1.5, EVIL)),
        Intervals(EVIL, EVIL, (Interval(EVIL, 1.0, group=EVIL), Interval(EVIL, 2.0)), 1.0, EVIL, EVIL),
        Calibration(EVIL, {EVIL: [{"mean_prediction": 0.5, "mean_label": 0.5, "count": 100}]}, EVIL, EVIL),
        Glossary(((EVIL, EVIL),)),
    ]  # fmt: skip
    monkeypatch.setattr(Heights, "panels", classmethod(lambda cls, record: panels))
    page: Page = report(tmp_path, heights_run(tmp_path / "alps", 0.31), heights_run(tmp_path / "andes", 0.12))
    assert "<script" not in page.source
    assert page.text.count(EVIL) > 10
    assert "--> url(#x) id=" in page.text  # a name is not rewritten as if it were a part of the picture
    assert len(set(page.ids)) == len(page.ids)


def short_curves_run(out):
    write(out / "run.json", {**record("train", {}, {"location": "/maps"}), "problem": f"{__name__}:Short"})
    write(out / "summary.json", {"part": "test"})
    return out


class Short:
    """A problem whose curves have two points."""

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        named = [Series("best", [1, 2], [0.5, 0.6]), Series("default", [1, 2], [0.4, 0.5]), Series("", [1], [0.1])]
        return [
            Curve("AUC of each trial", "epoch", "", tuple(named), section="Short"),
            Sentence("Between them.", "Short"),
            Curve("AUC", "epoch", "", (Series("", [1, 2], [0.7, 0.8]),), section="Short"),
            Curve("Loss", "epoch", "", (Series("", [2], [0.3]),), section="Short"),
        ]


def test_curves_of_two_points_are_tables_of_their_named_lines(tmp_path):
    page = report(tmp_path, short_curves_run(tmp_path / "run"))
    assert page.panels == []
    assert page.row("best") == ["0.5", "0.6"]
    assert page.row("default") == ["0.4", "0.5"]
    assert "<h3>AUC of each trial</h3>" in page.source
    assert page.row("AUC") == ["0.7", "0.8"]
    assert page.row("Loss") == ["–", "0.3"]
    assert not any(row and row[0] == "AUC of each trial" for row in page.rows), "the many behind are left out"


def test_columns_of_words_stand_left_and_of_numbers_right():
    rows = (("1", "text of a sentence that is long enough", "–", 3.0), ("2", "short", "word", 4.0))
    grid = Grid.of(Table("", ("Nr", "What", "Kind", "Size"), rows), [Group("", [list(row) for row in rows])])
    assert grid.names == (True, True, True, False)
    assert grid.looks == ""
    wide = Table("", tuple("abcdefgh"), (tuple("12345678"),))
    assert [Grid.of(wide, [Group("", [list(wide.rows[0])] * count)]).looks for count in (1, 2, 9)] == [
        " facts", " dense cards", " dense",
    ]  # fmt: skip


def test_a_gain_that_is_nothing_beside_the_others_is_zero(tmp_path):
    assert rounded(-1.5e-6, 0.12) == 0
    assert rounded(0.01234567, 0.12) == 0.01235
    assert rounded(5.0, 0) == 5.0
    assert number(-0.00001) == "0.0000"
    assert number(-0.00001, signed=True) == "+0.0000"
