"""Pictures of docs/rerank.md from the results: what searches cost and what they lose.

python benchmarks/rerank/pictures.py
"""

import json
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.bench import RESULTS

mpl.rcParams["svg.hashsalt"] = "counterpoint"
COLOURS = {"20": "#1f77b4", "50": "#d62728"}


def latest(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(max(RESULTS.glob(f"*-{name}.json")).read_text())
    return found


def search() -> None:
    """List value against the full beam by evaluations a decision, in the world of benchmarks/rerank/search.py."""
    figures = latest("rerank-search")
    figure = Figure(figsize=(7.2, 4.2))
    axes = figure.subplots()
    for candidates, colour in COLOURS.items():
        rows = figures[f"context 1.0, {candidates} candidates"]
        points = {row["search"]: (float(row["evaluations a decision"]), float(row[LOSS].split()[0])) for row in rows}
        line = [point for name, point in points.items() if name.startswith("adaptive, t = 0.")] + [points["full beam"]]
        axes.plot(*zip(*line, strict=True), "o-", color=colour, label=f"adaptive to full beam, {candidates} candidates")
        for name, mark in (("pointwise", "v"), ("greedy", "^"), ("160 lists drawn", "x"), ("40 lists drawn", "x")):
            axes.plot(*points[name], mark, color=colour)
            axes.annotate(name, points[name], textcoords="offset points", xytext=(6, -3), fontsize=8)
        for name, (x, y) in points.items():
            if name.startswith("adaptive, t = 0."):
                axes.annotate(name.removeprefix("adaptive, t = 0"), (x, y), textcoords="offset points", xytext=(2, 6),
                              fontsize=7)  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("evaluations a decision (log scale)")
    axes.set_ylabel("list value against the full beam, %")
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.legend(loc="lower right", fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(RESULTS / f"{figures['date']}-rerank-search.svg", metadata={"Date": None})


LOSS = "list value against the full beam, %"

if __name__ == "__main__":
    search()
