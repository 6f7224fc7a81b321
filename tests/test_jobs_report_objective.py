"""The report of a run of jobs.evolve --objective NAME: curves, sigma, time, losses; alone and beside other runs."""

import json
import re
from pathlib import Path

import pytest
from test_jobs_report import Page, evolve_run, record, report, train_run, write

from jobs.evolve import run as evolve
from jobs.evolve.options import arguments_of

GENERATIONS = 50


def objective_run(out: Path, wrong: bool = True, sigma: float = 0.97, centre_every: int = 1) -> Path:
    """A finished run as jobs.evolve writes it; `sigma` is what sigma falls by, a generation."""
    settings = {"objective": "control", "env": "CartPole-v1"}
    config = {"objective": "control", "settings": settings, "workers": 2, "es": {"algorithm": "pgpe", "pairs": 20}}
    facts = record("evolve_objective", config, {})
    del facts["data"]
    write(out / "run.json", facts)
    lines = []
    for g in range(GENERATIONS):
        centre = 10 + 9.5 * g
        lines.append({"event": "generation", "generation": g,
                      "return.centre": centre if g % centre_every == 0 else None, "return.mean": centre - 6,
                      "return.std": 5.0, "return.best": centre + 6, "return.min": centre - 20,
                      "sigma": 0.1 * sigma**g, "update_ratio": 0.1 / (1 + g * g) if g else 0.0,
                      "seconds": 0.25 + 0.001 * (g % 7),
                      "idle_share": 0.1 + 0.01 * (g % 3), "lost_pairs": 4 * int(wrong and g in (7, 31)),
                      "reissued_pairs": 3 * int(wrong and g == 19), "failed_evaluations": 0})  # fmt: skip
    (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary = {
        "es.generations": GENERATIONS, "es.evaluations": 41 * GENERATIONS, "es.evaluations_per_s": 163.4,
        "es.workers": 2, "es.dimension": 4610, "es.seconds": 12.55, "es.final_return": 487.25,
        "es.failed_evaluations": 0, "es.lost_pairs": 8 * int(wrong), "es.reissued_pairs": 3 * int(wrong),
        "es.steps": 492863.0, "es.steps_per_s": 39271.9,
    }  # fmt: skip
    write(out / "summary.json", summary)
    return out


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Page:
    root = tmp_path_factory.mktemp("alone")
    return report(root, objective_run(root / "cartpole"))


def test_the_headline_and_the_table_say_what_was_reached(alone):
    headline = "The return of control CartPole-v1 (4,610 parameters) rose from 10 to 487.2 in 50 generations, "
    assert headline + "2,050 evaluations and 12.6 s." in alone.text
    assert "492,863 steps of the task were played, 39,272 a second." in alone.text
    assert alone.row("cartpole") == [
        "control CartPole-v1", "pgpe", "487.2", "2", "4,610", "50", "2,050", "163.4", "8 / 3 / 0", "12.6 s",
    ]  # fmt: skip


def test_every_figure_is_there_and_told(alone):
    assert alone.panels == [
        "Return per generation",
        "Lost, issued again, failed",
        "Size of the perturbations (sigma), mean over parameters",
        "Size of a step / size of the parameters",
        "Milliseconds a generation",
        "Share of the workers' time without work",
    ]
    climb, losses, sigma, update, time, idle = alone.figures
    assert "result so far goes from 10 to 475.5" in climb
    assert "lost: 8 in 2 generations" in losses
    assert "issued again: 3 in 1 generation" in losses
    assert "failed:" not in losses
    assert "linear axis: it goes from 0.1 to 0.02248" in sigma
    assert "logarithmic axis: it goes from 0.05 to" in update  # theta = 0 at first has no size to compare with
    assert "linear axis: it goes from 250 to 250" in time
    assert "linear axis: it goes from 0.1 to" in idle
    assert len(set(alone.ids)) == len(alone.ids)
    assert "Data" not in re.findall(r"<h3>(\w+)", alone.source)


def test_what_did_not_happen_is_said_and_not_drawn(tmp_path):
    page = report(tmp_path, objective_run(tmp_path / "quiet", wrong=False, sigma=1.0))
    assert "Lost, issued again, failed" not in page.panels
    assert "Size of the perturbations (sigma), mean over parameters" not in page.panels
    assert (
        "Perturbations have size 0.1 (sigma) throughout. No pair was lost or issued again, and no evaluation failed."
        in page.text
    )


def test_a_centre_that_was_seldom_evaluated_is_drawn_where_it_was(tmp_path):
    page = report(tmp_path, objective_run(tmp_path / "seldom", centre_every=20))
    assert "result so far goes from 10 to 390" in page.figures[0]
    without = report(tmp_path, objective_run(tmp_path / "never", centre_every=10**6))
    assert "rose from 10 to 487.2" in without.text  # the first generation's is always there


def test_beside_runs_of_other_kinds(tmp_path):
    runs = [objective_run(tmp_path / "cartpole"), train_run(tmp_path / "train"), evolve_run(tmp_path / "fusion")]
    page = report(tmp_path, *runs, objective_run(tmp_path / "pole", wrong=False))
    assert page.row("cartpole")[8] == "8 / 3 / 0"
    assert page.row("pole")[8] == "0 / 0 / 0"
    assert sum(title.startswith("Return per generation") for title in page.panels) == 3
    assert len(set(page.ids)) == len(page.ids)


def test_a_real_run(tmp_path):
    """What jobs.evolve writes is what the report reads."""
    out = tmp_path / "valley"
    words = ("--objective", "rosenbrock", "--dimension", 4, "--workers", 0, "--generations", 40, "--pairs", 8)
    evolve(arguments_of("--out", out, *words, "--algorithm", "xnes"))
    page = report(tmp_path, out)
    assert "The return of rosenbrock (4 parameters) rose from −3 to −" in page.text
    assert page.row("valley")[1] == "xnes"
    assert "Size of the perturbations (sigma), mean over parameters" in page.panels
    (out / "summary.json").unlink()
    with pytest.raises(ValueError, match=r"repeat its jobs\.evolve command"):
        report(tmp_path, out)
