"""What the console and a page show of fitted effects: values under the budget, curves, who overlaps."""

from collections.abc import Mapping
from typing import Any

from funnel.numbers import percent
from funnel.panels import Curve, Glossary, Intervals, Panel, Record, Sentence, Series, Table

SECTION = "Effects of incentives"
POLICIES = {
    "user": "each user his own strategy",
    "cluster": "one strategy a cluster",
    "mix": "best mix for everybody",
    "constant": "best single strategy",
    "cheapest": "the cheapest for everybody",
}
ESTIMATORS = ("snips", "dr")
TERMS = (
    ("AUUC", "Area under the uplift curve less that of a random order: 0 where the score orders nobody."),
    ("Qini", "The same for incremental outcomes as a share of the treated (Radcliffe)."),
    ("AUCC", "Mean height of gain against cost as a share of the largest gain: 1/2 is a random choice of users."),
    ("IPS, SNIPS, DR", "Value of a policy from rows of other policies: weighted by 1 / propensity, the same with "
     "weights that sum to 1, and with a model of the outcome for what was not seen."),
    ("Overlap", "Standardised difference of feature means between an arm and everybody; near 0 after weighting where "
     "the propensities account for who got what."),
)  # fmt: skip


def results(summary: Mapping[str, Any]) -> Table | None:
    """Values of the policies by two estimators, with 95% intervals, and what they cost."""
    if "budget" not in summary:
        return None
    rows, limits = [], dict(summary.get("limits", {}))
    for key, name in POLICIES.items():
        cells = [spread(summary, f"{key}.{estimator}") for estimator in ESTIMATORS]
        cells += [spread(summary, f"{key}.cost", 3)]
        rows.append((name, *cells, *(spread(summary, f"{key}.held.{outcome}", 3) for outcome in limits.values())))
    note = ", ".join(f"{name.upper()} {spread(summary, name)}" for name in ("auuc", "qini", "aucc") if name in summary)
    title = f"{summary['rows']:,} rows that judge, budget {summary['budget']:g} a user (95% intervals)"
    return Table(title, ("policy", "SNIPS", "DR", "cost", *limits), tuple(rows), note)


def spread(summary: Mapping[str, Any], key: str, digits: int = 4) -> str:
    if f"{key}.low" not in summary:
        return "-"
    value, low, high = (summary[f"{key}{end}"] for end in ("", ".low", ".high"))
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def panels(record: Record) -> list[Panel]:
    """Of a fit."""
    shown: list[Panel] = []
    if message := record.summary.get("message"):
        shown.append(Sentence(str(message), headline=True))
    if table := results(record.summary):
        shown.append(table)
    gains = [
        record.interval(f"{name}.over.{rival}.dr", f"{POLICIES[name]} over {POLICIES[rival]}")
        for name in ("user", "cluster")
        for rival in ("mix", "constant", "cheapest")
    ]
    if known := tuple(each for each in gains if each):
        note = "Gains by DR on the same rows. An open dot is no evidence of a difference."
        shown.append(Intervals("Does treating users differently pay?", "a user", known, 0.0, note, SECTION))
    plots = record.files.get("evaluation") or {}
    for key, title, x, y in (
        ("uplift", "Uplift curve", "share of users treated, best first", "gain a user"),
        ("qini", "Qini curve", "share of users treated, best first", "incremental outcome a treated user"),
        ("cost", "Cost curve", "cost a user", "gain a user"),
    ):
        if key in plots:
            shown.append(curve(title, plots[key], x, y))
    if shares := plots.get("shares"):
        shown.append(arms_table(shares))
    if overlap := plots.get("overlap"):
        shown.append(overlap_table(overlap))
    if model := plots.get("model"):
        rows = tuple((name.replace("_", " "), str(value)) for name, value in model.items())
        shown.append(Table("What was fitted", ("", ""), rows, section=SECTION))
    return [*shown, Glossary(TERMS)]


def overlap_table(found: Mapping[str, Any]) -> Table:
    """Who could have got what, by strategy."""
    rows = tuple(
        (f"strategy {a}", f"{count:,}", f"{found['smallest'][a]:.4f}", percent(found["rare"][a]),
         f"{found['effective'][a]:,.0f}")
        for a, count in enumerate(found["rows"])
    )  # fmt: skip
    note = (
        f"Largest standardised difference of a feature's mean between a strategy's users and everybody: "
        f"{found['worst_before']:.2f} as they are, {found['worst_after']:.2f} weighted by 1 / propensity."
    )
    head = ("", "rows", "propensity (1% quantile)", "users below 1%", "rows after weighting")
    return Table("Who could have got what", head, rows, note, SECTION)


def curve(title: str, one: Mapping[str, Any], x: str, y: str) -> Curve:
    line = Series("by effect", one["x"], one["y"], one["low"], one["high"])
    chance = Series("random order", [one["x"][0], one["x"][-1]], [one["y"][0], one["y"][-1]], look="grey")
    return Curve(title, x, y, (line, chance), "With 95% intervals.", section=SECTION)


def arms_table(shares: Mapping[str, list[float]]) -> Table:
    """Who gets which strategy: shares of users by policy."""
    arms = range(len(next(iter(shares.values()))))
    rows = tuple((f"strategy {a}", *(percent(shares[name][a]) for name in shares)) for a in arms)
    return Table("Who gets what", ("", *(POLICIES.get(name, name) for name in shares)), rows, section=SECTION)
