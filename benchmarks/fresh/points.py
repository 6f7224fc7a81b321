"""The nine points: which arms they compare, what the paper saw, and whether it is seen here."""

from itertools import pairwise
from typing import Any

from benchmarks.fresh.worlds import AUDIENCE, EPISODE, MAIN, NONE, RATE, Lived, arm
from funnel.platform.episodes import Interval

PS = (0.0, 0.4, 0.8, 1.0)
N_LOWS = (1.0, 4.0, 16.0, 64.0)
GRADUATIONS = (10.0, 40.0, 160.0)
FIRST: dict[str, dict[str, Any]] = {
    NONE: MAIN,
    "slot": arm(rate=RATE),
    "multi": arm(),
    "two_tower": arm(nominators="two_tower"),
    "two_tower_with_ids": arm(nominators="two_tower_with_ids"),
    "real_time": arm(nominators="real_time"),
    "p 1": arm(p=1.0),
    "p 1, q 0.4": arm(p=1.0, q=0.4),
}
ARMS: dict[str, dict[str, Any]] = {
    **FIRST,
    "random": arm("random"),
    **{f"p {p:g}": arm(p=p) for p in PS if p not in (0.8, 1.0)},
    **{f"n_low {n:g}": arm(n_low=n) for n in N_LOWS if n != 4},
    **{f"n_grad {n:g}": arm(n_grad=n) for n in GRADUATIONS if n != 160},
    "dynamic 0.1": arm(prior="dynamic", win_chance=0.1),
    "uniform": arm(prior="uniform"),
}
"""p = .8, n_low = 4, n_grad = 160 is "multi": a slot on every page; "slot" is the same on RATE of them."""

Row = list[Any]
DAYS, LAST = slice(EPISODE.settle, None), slice(-3, None)
"""Days of the policy that count, and the last of them."""


def name_of(kind: str, value: float) -> str:
    standard = {"p": 0.8, "n_low": 4.0, "n_grad": 160.0}
    return "multi" if value == standard[kind] else f"{kind} {value:g}"


def points(lived: Lived) -> tuple[list[Row], dict[str, Any]]:
    """(rows of the table, figures by name)."""
    rows: list[Row] = []
    figures: dict[str, Any] = {}

    def row(point: str, what: str, one: str, base: str, metric: str, paper: str, sign: int, days: slice = DAYS) -> None:
        """`sign`: of what the paper saw; 0: level, or within a range that the row's text says."""
        if len(worlds := lived.worlds(one, base)) < 2:
            return
        found = lived.change(one, base, metric, days)
        name = f"{what}: {metric}" + (", the last 3 days" if days == LAST else "")
        figures[f"{point} {name}"] = vars(found)
        rows.append([point, name, str(found), paper, verdict(found, sign), len(worlds)])

    for metric, paper, sign in (
        ("duic_at_5", "+4 to +7.2", 1), ("duic_at_20", "+4 to +7.2", 1), ("dwell", "-.12", 0),
        ("discoverable_at_5_7d", "up", 1), ("discoverable_at_10_7d", "up", 1), ("fresh.positives", "+2.52", 1),
        (f"{AUDIENCE}dwell", "+5.5", 1), (f"{AUDIENCE}positives", "", 1), ("uploads", "up", 1),
    ):  # fmt: skip
        row("1", "slot against none", "slot", NONE, metric, paper, sign)
    row("1", "slot against none", "slot", NONE, "discoverable_at_5_7d", "up, growing", 1, LAST)
    row("1", "a slot on every page against none", "multi", NONE, "discoverable_at_5_7d", "", 1, LAST)
    for metric, sign in (("duic_at_5", 1), ("duic_at_20", 1), ("dwell", 0), ("discoverable_at_5_7d", 1)):
        row("1", "a slot on every page against none", "multi", NONE, metric, "", sign)
    for metric, paper in (("duic_at_5", "+3.3"), ("fresh.dwell", "+2.6")):
        row("2", "ids and popularity out", "two_tower", "two_tower_with_ids", metric, paper, 1)
    row("3", "real-time against two-tower", "real_time", "two_tower", "duic_at_5", "-1.79", -1)
    row("3", "real-time against two-tower", "real_time", "two_tower", "fresh.dwell", "up", 1)
    for other in ("two_tower", "real_time"):
        for metric, paper, sign in (
            ("duic_at_5", "+.65", 1), ("discoverable_at_5_7d", "up", 1), ("fresh.dwell", "", 0),
        ):  # fmt: skip
            row("4", f"multi-funnel against {other}", "multi", other, metric, paper, sign)
    for n in N_LOWS:
        row("5", f"n_low {n:g} against none", name_of("n_low", n), NONE, "duic_at_5", "largest inside", 1)
    for n in (N_LOWS[0], *N_LOWS[2:]):
        for metric in ("duic_at_5", "duic_at_20", "discoverable_at_5_7d"):
            row("5", f"n_low {n:g} against 4", name_of("n_low", n), "multi", metric, "down", -1)
    for p in PS:
        row("6", f"p {p:g} against none", name_of("p", p), NONE, "duic_at_5", "grows with p", 1)
    for before, p in pairwise(PS):
        row("6", f"p {p:g} against p {before:g}", name_of("p", p), name_of("p", before), "duic_at_5", "up", 1)
        row("6", f"p {p:g} against p {before:g}", name_of("p", p), name_of("p", before), "slot.good_ctr", "down", -1)
    for base, what in (("p 1", "q .4 against 0 (p 1)"), ("multi", "q .4 (p 1) against p .8")):
        for metric, sign in (
            ("core.dwell", 1), ("good_ctr.core", 1), ("good_ctr.casual", 0), ("dwell", 1), ("duic_at_5", 0),
        ):  # fmt: skip
            row("7", what, "p 1, q 0.4", base, metric, ("level", "up")[sign], sign)
    for n in GRADUATIONS[:-1]:
        row("8", f"n_grad {n:g} against 160", name_of("n_grad", n), "multi", "duic_at_5", "up", 1)
    for other in ("dynamic 0.1", "uniform"):
        for metric in ("duic_at_5", "slot.good_ctr"):
            row("+", f"prior {other} against likelihood", other, "multi", metric, "not in it", 0)
    for metric in ("dwell", "slot.good_ctr", "duic_at_5", "discoverable_at_5_7d"):
        row("+", "funnel against a random slot", "multi", "random", metric, "not in it", 0)
    return rows, figures


def verdict(found: Interval, sign: int) -> str:
    if sign == 0:
        return "level" if found.sign == 0 else ("up" if found.sign > 0 else "down")
    if found.sign == sign:
        return "yes"
    return "no" if found.sign else "not told from 0"
