"""The report, read back by parsing it: figures as formatted, nothing outside the file, absence explained."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from jobs.report import Args, run

VOID = {"meta", "br", "hr", "img", "link", "input"}

# AUC, log-loss, PCOC of CVR in the entire space.
OBJECTIVES = {
    "naive": (0.6911, 0.2012, 1.418),
    "esmm": (0.7040, 0.1978, 1.263),
    "escm2_ips": (0.7312, 0.1921, 1.062),
    "escm2_dr": (0.7298, 0.1924, 0.951),
}


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def record(kind: str, config: dict, data: dict) -> dict:
    return {
        "kind": kind,
        "config": config,
        "started": "2026-05-01T10:00:00+0000",
        "command": f"jobs/{kind}.py --data log --out runs/{kind}",
        "git": "0123456789abcdef0123456789abcdef01234567+changes",
        "versions": {"python": "3.11.9", "ray": "2.60.0", "torch": "2.13.0", "numpy": "2.4.0", "pyarrow": "21.0.0"},
        "hardware": {"cpu": "Intel(R) Xeon(R) Platinum 8481C", "cores": 2, "memory_gib": 7.7},
        "data": data,
    }


def bins(low: float, high: float, factor: float, rows: int) -> list[dict]:
    predictions = np.geomspace(low, high, 10)
    labels = [p / factor * (1 + 0.05 * math.sin(9 * i)) for i, p in enumerate(predictions)]
    return [
        {"mean_prediction": p, "mean_label": label, "count": rows // 10}
        for p, label in zip(predictions, labels, strict=True)
    ]


def metrics(key: str, auc: float, log_loss: float, pcoc: float, rows: int, positives: int) -> dict:
    values = {"auc": auc, "log_loss": log_loss, "pcoc": pcoc, "count": rows, "positives": positives}
    return {f"{key}.{name}": value for name, value in values.items()}


def train_run(out: Path, objective: str = "escm2_ips", truth: bool = True, config: dict | None = None) -> Path:
    """A finished train run as jobs.train writes it."""
    auc, log_loss, pcoc = OBJECTIVES[objective]
    parts = {"train": 800_000, "valid": 100_000, "test": 100_000}
    facts = {name: {"rows": n, "clicks": n // 25, "conversions": n // 500} for name, n in parts.items()}
    settings = {
        "objective": {"name": objective, "clip": 0.01},
        "model": {"backbone": "mmoe"},
        "epochs": 3,
        **(config or {}),
    }
    write(out / "run.json", record("train", settings, {"location": "/logs/demo", "name": "generated", "parts": facts}))

    noise = np.random.default_rng(len(objective))
    lines = []
    levels = {"loss": 0.37, "loss.ctr": 0.16, "loss.cvr": log_loss, "loss.ctcvr": 0.013}
    for step in range(10, 1180, 10):
        fall = 1 + 0.8 * math.exp(-step / 200)
        losses = {key: level * (fall + noise.normal(0, 0.04)) for key, level in levels.items()}
        if objective == "escm2_dr":
            losses["loss.imputation"] = 0.08 + 0.2 * math.exp(-step / 150)
        lines.append(
            {"event": "step", "step": step, "epoch": step / 390, **losses, "rows_per_s": 41000.0, "seconds": step / 19}
        )
        if step % 130 == 0:
            rise = math.exp(-step / 250)
            valid = {
                "ctr.auc": 0.7415 - 0.1 * rise,
                "ctr.log_loss": 0.1601 + 0.02 * rise,
                "ctcvr.auc": 0.77 - 0.1 * rise,
            }
            valid |= {"cvr.click.auc": auc - 0.02 - 0.1 * rise, "cvr.click.log_loss": log_loss + 0.03 * rise}
            if truth:
                valid |= {"cvr.entire.auc": auc - 0.1 * rise}
            lines.append({"event": "valid", "step": step, "epoch": step / 390, **valid})
    (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    ctr_auc = 0.74151 if objective == "escm2_ips" else 0.7403
    summary: dict = {
        "part": "test",
        **metrics("ctr", ctr_auc, 0.16012, 1.0031, 100_000, 4000),
        **metrics("cvr.click", auc - 0.02, log_loss, 1.0123, 4000, 201),
        **metrics("ctcvr", 0.77012, 0.01333, 1.0456, 100_000, 201),
        "propensity.effective_sample_size": 2312.4,
        "propensity.clicks": 4000,
        "propensity.largest_weight": 99.9,
        "propensity.share_clipped": 0.0213,
        "propensity.clip": 0.01,
        "train.rows_per_s": 41234.5,
        "train.steps": 1170,
        "train.epochs": 3,
        "train.seconds": 61.5,
        "train.startup_s": 7.34,
        "train.workers": 2,
        "train.best_step": 1040,
    }
    calibration = {
        "ctr": bins(0.006, 0.15, 1.003, 100_000),
        "ctcvr": bins(0.0002, 0.012, 1.05, 100_000),
        "cvr.click": bins(0.012, 0.16, 1.01, 4000),
    }
    calibration["ctcvr"][0]["mean_label"] = 0.0
    if truth:
        summary |= metrics("cvr.entire", auc, log_loss, pcoc, 100_000, 3120)
        calibration["cvr.entire"] = bins(0.005, 0.12, pcoc, 100_000)
    else:
        summary["absent"] = {"cvr.entire": "the log has no truth files"}
    write(out / "summary.json", summary)
    edges = np.geomspace(1, 100, 25)
    counts = (700 * np.exp(-((np.log(edges[1:]) - 2.6) ** 2) / 0.8)).astype(int).tolist()
    histogram = {"weight_histogram": {"edges": edges.tolist(), "counts": counts}}
    write(out / "evaluation.json", {"part": "test", "calibration": calibration, "propensity": histogram})
    return out


def evolve_run(out: Path, gain: float = 0.0312, low: float = 0.0121, k: int = 10) -> Path:
    """A finished evolve run as jobs.evolve writes it."""
    data = {"scored": "/logs/scored.parquet", "rows": 100_000, "users": 5000, "requests": 8000}
    write(out / "run.json", record("evolve", {"fusion": "product", "generations": 60, "sigma": 0.1}, data))
    lines = []
    for g in range(60):
        centre = 0.72 + 0.04 * (1 - math.exp(-g / 15))
        lines.append({"event": "generation", "generation": g, "return.centre": centre, "return.mean": centre - 0.006,
                      "return.std": 0.005, "return.best": centre + 0.006, "return.min": centre - 0.02,
                      "lost_pairs": int(g == 7), "reissued_pairs": int(g == 7), "failed_evaluations": 0})  # fmt: skip
    (out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary: dict = {
        "fusion.best_single_name": "pctcvr", "fusion.significant": low > 0,
        "fusion.message": "Tuned fusion beats untuned and pctcvr" if low > 0 else "The gain is not significant",
        "fusion.test_users": 2500, "fusion.test_requests": 4010, "es.generations": 60, "es.evaluations": 3840,
        "es.evaluations_per_s": 812.3, "es.workers": 2, "es.dimension": 6, "es.seconds": 4.71, "es.final_return": 0.74,
    }  # fmt: skip
    for metric, base in ((f"value_at_{k}", 0.7312), (f"ndcg_at_{k}", 0.5131)):
        for who, level in (("untuned", base - 0.02), ("best_single", base), ("tuned", base + gain)):
            key = f"fusion.{metric}.{who}"
            summary |= {key: level, f"{key}.low": level - 0.0201, f"{key}.high": level + 0.0202}
        for rival, value in (("untuned", gain + 0.02), ("best_single", gain)):
            key = f"fusion.{metric}.gain_over_{rival}"
            summary |= {key: value, f"{key}.low": value - (gain - low), f"{key}.high": value + (gain - low)}
    write(out / "summary.json", summary)
    names = ["pctr exponent", "pcvr exponent", "pctcvr exponent", "pctr bias", "pcvr bias", "pctcvr bias"]
    after = [0.61, 1.72, 0.44, 0.02, 0.001, -0.01]
    policy = {"fusion": "product", "names": names, "before": [1, 1, 1, 0, 0, 0], "after": after, "k": k}
    write(out / "policy.json", {**policy, "scores": ["pctr", "pcvr", "pctcvr"], "conversion_weight": 10.0})
    return out


class Page(HTMLParser):
    """Tags checked for balance; text, figures, ids, references and table rows gathered."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.words: list[str] = []
        self.figures: list[str] = []
        self.panels: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.rows: list[list[str]] = []
        self.best: list[str] = []
        self.source = text
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.note(tag, dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.note(tag, dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def note(self, tag: str, attrs: dict) -> None:
        if "id" in attrs:
            self.ids.append(attrs["id"])
        self.references += [attrs[key] for key in ("src", "href", "action", "data", "srcset") if key in attrs]
        for value in attrs.values():
            self.references += re.findall(r"url\(([^)]*)\)", value or "")
        if tag == "svg":
            self.figures.append(attrs["aria-label"])
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            if attrs.get("class") == "best":
                self.best.append("")

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words.append(data)
        if "h4" in self.open:
            self.panels.append(data)
        if "tr" in self.open and self.rows[-1]:
            self.rows[-1][-1] += data

    def row(self, head: str, nth: int = 0) -> list[str]:
        rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]
        return [row for row in rows if row and row[0] == head][nth][1:]


def report(tmp_path: Path, *runs: Path) -> Page:
    out = run(Args(list(runs), tmp_path / "report.html"))
    return Page(out.read_text())


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The report of one train run and one evolve run."""
    root = tmp_path_factory.mktemp("both")
    return report(root, train_run(root / "train"), evolve_run(root / "evolve"))


def test_the_headlines_say_what_was_measured(both):
    assert "Predicted conversion rates, raw (not calibrated), are 6.20% too high on average over all" in both.text
    assert "exposures: PCOC 1.062 ± 0.037, AUC 0.7312 ± 0.0102. The model is escm2_ips on mmoe, trained" in both.text
    assert "trained on 800,000 exposures by 2 workers." in both.text
    assert "Tuned fusion beats untuned and pctcvr." in both.text
    assert (
        both.text.index("escm2_ips on mmoe") < both.text.index("Tuned fusion") < both.text.index("Prediction quality")
    )
