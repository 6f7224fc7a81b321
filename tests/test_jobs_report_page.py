"""What a report says of one run, of several, and of what a run does not tell."""

import json
import re

import pytest
from test_jobs_report import OBJECTIVES, Page, evolve_run, report, train_run, write


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
    for text in ("jobs/train.py --data log --out runs/train", "2026-05-01 10:00:00 +0000", "torch 2.13.0", "2 cores"):
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


def test_several_runs_are_compared_and_the_best_is_marked(compared):
    assert compared.row("escm2_ips", 2)[:3] == ["0.7312 (best) ±0.0102", "0.1921 (best)", "1.062 ±0.037"]
    assert compared.row("escm2_dr", 2)[2] == "0.951 (best) ±0.033"
    # CTR differs in AUC only, click-space CVR in AUC and log-loss, CTCVR in nothing.
    assert len(compared.best) == 1 + 2 + 3
    assert "escm2_dr on mmoe was trained on 800,000 exposures" in compared.text
    assert "PCOC 0.951 ± 0.033 (predictions 4.90% too low on average)" in compared.text


def test_runs_judged_on_different_rows_are_not_ranked(tmp_path):
    runs = [train_run(tmp_path / name, name) for name in ("naive", "escm2_ips")]
    summary = json.loads((runs[0] / "summary.json").read_text())
    write(runs[0] / "summary.json", {**summary, "cvr.entire.count": 90_000})
    page = report(tmp_path, *runs)
    assert "(best)" not in page.row("escm2_ips", 2)[0]
    assert page.row("escm2_ips", 0)[0].endswith("(best) ±0.0089")  # the same rows there


def test_what_is_absent_is_a_dash_with_its_reason(tmp_path):
    page = report(tmp_path, train_run(tmp_path / "train", truth=False))
    assert page.row("CVR, entire space") == ["–1", "–1", "–1", "–", "–"]
    assert "The entire space cannot be judged: the log has no truth files." in page.text
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
