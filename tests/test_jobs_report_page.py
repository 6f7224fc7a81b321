"""What a report says of one run, of several, and of what a run does not tell."""

import json
import re

import pytest
from test_jobs_report import OBJECTIVES, Page, evolve_run, report, train_run, write

from funnel.numbers import true_minus
from jobs.report.places import repeatable


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The report of one train run and one evolve run."""
    root = tmp_path_factory.mktemp("both")
    return report(root, train_run(root / "train"), evolve_run(root / "evolve"))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The report of four objectives on the same data."""
    root = tmp_path_factory.mktemp("compared")
    return report(root, *(train_run(root / name, name) for name in OBJECTIVES))


def test_the_figures_are_in_the_tables_as_formatted(both):
    assert both.row("CVR, entire space") == ["0.7312 ±0.0102", "0.1921", "1.062 ±0.037", "100,000", "3,120 3.12%"]
    assert both.row("CTR, all exposures")[:3] == ["0.7415 ±0.0089", "0.1601", "1.003 ±0.031"]
    assert both.row("tuned fusion") == ["0.7624 0.7423 to 0.7826", "0.5443 0.5242 to 0.5645"]
    assert both.row("tuned − best single")[0] == "+0.0312 +4.27%, +0.0121 to +0.0503"
    assert both.row("train", 0) == ["4,000", "2,312 57.8% of clicks", "99.9", "0.01", "2.13%"]
    assert both.row("train", 1) == ["escm2_ips", "mmoe", "2", "3", "1,170", "41,234", "7.3 s", "61.5 s"]
    assert both.row("train", 2) == ["800,000", "32,000", "1,600", "4.00%", "5.00%", "0.200%"]
    assert both.row("evolve") == ["product", "–", "0.74", "2", "6", "60", "3,840", "812.3", "1 / 1 / 0", "4.7 s"]


def test_what_ran_can_be_repeated(both):
    for text in (
        "python -m jobs.train --data log --out runs/train",
        "2026-05-01 10:00:00 +0000",
        "torch 2.13.0",
        "2 cores",
    ):
        assert text in both.text
    assert "0123456789abcdef0123456789abcdef01234567 with uncommitted changes" in both.text
    assert '"clip": 0.01' in both.text


def test_nothing_outside_the_file_is_referred_to(both, compared):
    for page in (both, compared):
        assert not re.search(r"https?:|//[a-z]+\.|@import|<script|<link", page.source)
        assert set(re.findall(r"url\((.)", page.source)) == {"#"}
        assert all(reference.startswith("#") for reference in page.references)
        assert {reference[1:] for reference in page.references} <= set(page.ids)
        assert len(set(page.ids)) == len(page.ids)


def test_every_figure_is_there_and_told(both, compared):
    fusion = ["Gain in value@10 on 2,500 held-out users", "Gain in NDCG@10 on 2,500 held-out users"]
    fusion += ["Fusion parameters, before and after", "Return per generation", "Lost, issued again, failed"]
    spaces = ["CTR, all exposures", "CVR, click space", "CVR, entire space", "CTCVR, all exposures"]
    curves = ["Total loss", "CTR term", "CVR term", "CTCVR term", "CTR: AUC", "CVR, click space: AUC"]
    curves += ["CVR, entire space: AUC", "CTCVR: AUC", "CTR: log-loss", "CVR, click space: log-loss"]
    assert both.panels == [*fusion, *spaces, "Weights of clicked exposures", *curves]
    weights = [f"Weights of clicked exposures: {name}" for name in OBJECTIVES]
    assert sorted(compared.panels) == sorted([*spaces, *weights, *curves, "Imputation term"])
    assert len(both.figures) == len(both.panels)
    assert all(len(alt) > 40 for alt in both.figures)
    assert "over best single 0.0312, 95% 0.0121 to 0.0503" in both.figures[0]
    assert "pcvr exponent before 1; pcvr exponent after 1.72" in both.figures[2]
    assert "naive goes from 0.682 to 0.7406; esmm goes from" in next(
        alt for alt in compared.figures if alt.startswith("CTR: AUC")
    )


def test_several_runs_are_compared_and_no_best_is_marked_where_intervals_tell_nothing(compared):
    assert compared.row("escm2_ips", 2)[:3] == ["0.7312 ±0.0102", "0.1921", "1.062 ±0.037"]
    assert compared.row("escm2_dr", 2)[2] == "0.951 ±0.033"
    assert compared.best == []
    assert "Where nothing is shaded there is no difference to tell." in compared.text
    assert "escm2_dr on mmoe, trained on 800,000 exposures" in compared.text
    assert (
        "rates, raw (not calibrated), are 4.90% too low on average over all exposures: PCOC 0.951 ± 0.033"
        in compared.text
    )


def with_auc(path, auc, rows=100_000, positives=2000, **more):
    """A training whose CVR over all exposures has this AUC, on so many rows."""
    run = train_run(path, "escm2_ips")
    summary = json.loads((run / "summary.json").read_text())
    known = {"cvr.entire.auc": auc, "cvr.entire.count": rows, "cvr.entire.positives": positives, **more}
    write(run / "summary.json", {**summary, **known})
    return run


@pytest.mark.parametrize(
    ("aucs", "positives", "best"),
    [
        ((0.893, 0.892), 26, None),  # +- .1: nothing to tell
        ((0.793, 0.702), 2000, 0),  # each +- .012: told apart
        ((0.793, 0.777), 2000, None),  # .016 apart, sqrt(.0119^2 + .0121^2) = .0170
        ((0.793, 0.775), 2000, 0),  # .018 apart
        ((0.793, 0.702, 0.790), 2000, None),  # better than the second, not than the third
    ],
)
def test_a_best_is_marked_only_where_the_intervals_tell_it_from_every_other(tmp_path, aucs, positives, best):
    runs = [with_auc(tmp_path / f"run{place}", auc, positives=positives) for place, auc in enumerate(aucs)]
    page = report(tmp_path, *runs)
    marked = [place for place in range(len(aucs)) if "(best)" in page.row(f"run{place}", 2)[0]]
    assert marked == ([] if best is None else [best])
    assert not any("(best)" in page.row(f"run{place}", 2)[1] for place in range(len(aucs))), "no interval is known"


@pytest.mark.slow
def test_runs_judged_on_different_rows_are_not_ranked(tmp_path):
    runs = [with_auc(tmp_path / "one", 0.793), with_auc(tmp_path / "two", 0.702, rows=90_000)]
    assert "(best)" not in report(tmp_path, *runs).row("one", 2)[0]
    runs[1] = with_auc(tmp_path / "same rows" / "two", 0.702)
    assert report(tmp_path, *runs).row("one", 2)[0].endswith("(best) ±0.0119")


def test_the_headline_of_a_calibrated_run_is_calibrated_and_says_so(tmp_path):
    calibrated = {"calibration.method": "platt", "calibrated.ctr.pcoc": 1.0, "calibrated.cvr.entire.pcoc": 1.011}
    run = with_auc(tmp_path / "run", 0.79, **calibrated, **{"cvr.entire.pcoc": 1.3})
    page = report(tmp_path, run)
    assert (
        "conversion rates, calibrated (platt), are 1.10% too high on average over all exposures: PCOC 1.011 ± 0.044"
        in page.text
    )
    assert "Raw figures, before the calibration (platt)" in page.text


def test_pages_hold_no_absolute_paths_and_commands_that_can_be_typed(tmp_path):
    run = train_run(tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    record |= {"command": f"{tmp_path}/jobs/train.py --data log --out run", "data": {"location": str(tmp_path / "log")}}
    record["config"]["data"], record["config"]["far"] = str(tmp_path / "log"), "/data/logs/today"
    write(run / "run.json", record)
    page = report(tmp_path, run)
    assert str(tmp_path) not in page.source
    assert "python -m jobs.train --data log --out run" in page.text
    assert '"data": "log"' in page.text
    assert '"far": "…/logs/today"' in page.text
    assert "<title>run: Counterpoint</title>" in page.source
    assert repeatable("/a/jobs/evolve/__main__.py --out x") == "python -m jobs.evolve --out x"
    assert repeatable("python -m jobs.tune --out x") == "python -m jobs.tune --out x"


def test_negative_numbers_have_a_minus_sign():
    assert true_minus("gain -0.0062 [-0.01, +0.002] of -5%") == "gain −0.0062 [−0.01, +0.002] of −5%"
    assert true_minus("2026-01-02, top-5, 1e-05, --x, a -b") == "2026-01-02, top-5, 1e-05, --x, a -b"


def test_what_is_absent_is_a_dash_with_its_reason(tmp_path):
    page = report(tmp_path, train_run(tmp_path / "train", truth=False))
    assert page.row("CVR, entire space") == ["–1", "–1", "–1", "–", "–"]
    assert "Over all exposures they cannot be judged: the log has no truth files." in page.text
    assert page.text.count("the log has no truth files") == 2
    assert "CVR, entire space" not in page.panels


def test_a_run_without_evaluation_and_curves_still_reports(tmp_path):
    path = train_run(tmp_path / "train")
    (path / "evaluation.json").unlink()
    (path / "metrics.jsonl").unlink()
    page = report(tmp_path, path)
    assert page.figures == []
    assert "evaluation.json is absent, so there is no calibration and no weight histogram." in page.text
    assert "metrics.jsonl is absent, so there are no curves." in page.text


def test_a_gain_that_is_not_significant_is_an_open_dot(tmp_path):
    page = report(tmp_path, evolve_run(tmp_path / "evolve", gain=0.004, low=-0.011, k=5))
    assert "The gain is not significant." in page.text
    assert page.row("tuned − best single")[0] == "+0.0040 +0.547%, no difference to tell: −0.0110 to +0.0190"
    sure = report(tmp_path, evolve_run(tmp_path / "sure", k=5))
    assert (open_dots(page), open_dots(sure)) == (1, 0)  # over the best single score; over the untuned it is sure


def open_dots(page: Page) -> int:
    picture = page.source.split("<h4>Gain in value@5")[1].split("</svg>")[0]
    return picture.count("fill: var(--paper)")


def test_values_of_a_run_are_escaped(tmp_path):
    path = train_run(tmp_path / "a<b>&$x$", config={"note": "<b>bold</b>", "url": "a&b"})
    page = report(tmp_path, path, train_run(tmp_path / "other"))
    assert "<b>bold" not in page.source
    assert "a<b>" not in page.source
    assert '"note": "<b>bold</b>"' in page.text
    assert "a<b>&$x$" in page.text


def test_gains_without_intervals_are_no_picture_and_say_why(tmp_path):
    """A dot alone would look like a gain that is sure."""
    out = evolve_run(tmp_path / "evolve")
    summary = json.loads((out / "summary.json").read_text())
    why = "12 users held out: too few for an interval"
    kept = {key: value for key, value in summary.items() if not key.endswith((".low", ".high"))}
    write(out / "summary.json", kept | {"absent": {"fusion.value_at_10": why, "fusion.ndcg_at_10": why}})
    page = report(tmp_path, out)
    assert page.row("tuned − best single")[0] == "+0.0312 +4.27%"
    assert not [title for title in page.panels if title.startswith("Gain in")]
    assert f"No interval of value@10: {why}. No interval of NDCG@10: {why}." in page.text
    assert "95% intervals over users" not in page.text
