"""The picture of docs/prerank.md, from the lines of the ablation.

python -m benchmarks.prerank.picture
"""

from pathlib import Path

import matplotlib
import numpy as np

from benchmarks.prerank.ablation import LINES, LOGGED, known

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OUT = Path(__file__).resolve().parents[2] / "docs" / "prerank.png"
CURVES = ("whole", "without RC", "without PRC", "exposures only", "point-wise", "online pre-ranker", "online ranker")
KS = (10, 20, 30, 40, 60, 80, 100, 150, 200, 300)


def main() -> None:
    lines = known(LINES)
    names = list(dict.fromkeys(line["variant"] for line in lines))
    mean = {
        name: {
            key: 100 * float(np.mean([line["figures"][key] for line in lines if line["variant"] == name]))
            for key in (*(f"asph.{k}" for k in KS), "asph", "pauc.true")
        }
        for name in names
    }
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for number, name in enumerate(one for one in CURVES if one in mean):
        style = "--" if name in LOGGED else "-"
        left.plot(KS, [mean[name][f"asph.{k}"] for k in KS], style, color=f"C{number}", label=name)
    left.axvline(60, color="grey", lw=0.8, ls=":")
    left.set(xscale="log", xlabel="k (dotted: handed on)", ylabel="ASPH@k, %", title="Bought elsewhere, in the first k")
    left.set_xticks((10, 30, 60, 100, 300), ("10", "30", "60", "100", "300"))
    left.legend(fontsize=8, frameon=False)
    for name in names:
        if name not in LOGGED:
            right.plot(mean[name]["asph"], mean[name]["pauc.true"], "o", color="C0")
            right.annotate(name, (mean[name]["asph"], mean[name]["pauc.true"]), (4, 3), textcoords="offset points",
                           fontsize=8)  # fmt: skip
    right.set(xlabel="ASPH@60, %: the set", ylabel="weighted PAUC, %: the order", title="Set against order")
    right.margins(x=0.15)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(OUT, dpi=110)
    print(OUT)


if __name__ == "__main__":
    main()
