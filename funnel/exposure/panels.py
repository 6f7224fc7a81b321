"""What the console and a page show of a forest of shares, and of a tuned policy."""

from collections.abc import Mapping
from typing import Any

from funnel.panels import Curve, Glossary, Intervals, Panel, Record, Sentence, Series, Table
from funnel.progress import WORDS, evolution, evolution_cost

SECTION = "Shares of exposure"
POLICIES = {
    "policy": "learnt shares",
    "constant": "best constant shares",
    "mean": "the log's mean shares for everybody",
    "uniform": "the same share of every category",
    "logging": "the log's own shares",
}
LEAST_ROWS = 50
"""Rows that a doubly robust correction comes to, at least, before the page says that one policy is better."""
TERMS = (
    ("Model", "The mean outcome of the shares by a model of outcomes, fitted on rows that the policy was not made of."),
    (
        "Doubly robust",
        "The same, corrected by what came of rows that were shown nearly such shares; `rests on` is how many rows that "
        "correction comes to (effective sample size).",
    ),
    ("Refused", "Users whose shares are nothing like what the log has seen for anybody like them; they get its mean."),
    ("MTSE", "Mean squared distance to the best shares, where a simulation knows them; L1: mean absolute distance."),
)


def spread(figures: Mapping[str, Any], key: str) -> str:
    if f"{key}.low" not in figures:
        return "-"
    value, low, high = (figures[f"{key}{end}"] for end in ("", ".low", ".high"))
    return f"{value:.4f} ({low:.4f} to {high:.4f})"


def sentence(figures: Mapping[str, Any]) -> str:
    """What the figures of value.compare say."""
    gain, low, high = (figures[f"policy.over.constant.doubly_robust{end}"] for end in ("", ".low", ".high"))
    rests = min(figures[f"{name}.effective"] for name in ("policy", "constant"))
    few = rests < LEAST_ROWS
    better = "beat" if low > 0 else "fall behind" if high < 0 else "are not told from"
    told = (
        f"For {figures['users']:,} users, by a model and rows that they were not made of, the learnt shares "
        f"{'cannot be compared with' if few else better} the best constant ones: {gain:+.4f} ({low:+.4f} to "
        f"{high:+.4f}, doubly robust)"
    )
    if few:
        told += f" rests on {rests:.0f} rows, and an interval says little below {LEAST_ROWS}"
    if figures["policy.refused"]:
        told += f"; {figures['policy.refused']:.1%} of the users were refused theirs"
    if figures.get("policy.drawn_in"):
        told += f"; {figures['policy.drawn_in']:.1%} had theirs drawn in to what users like them were shown"
    return told + "."


def policy_results(summary: Mapping[str, Any]) -> Table | None:
    """Values with intervals over users."""
    if "exposure.users" not in summary:
        return None
    figures = {key.removeprefix("exposure."): value for key, value in summary.items() if key.startswith("exposure.")}
    known = "policy.mtse" in figures
    rows = []
    for key, name in POLICIES.items():
        if f"{key}.model" not in figures:
            continue
        cells = [spread(figures, f"{key}.model"), spread(figures, f"{key}.doubly_robust")]
        cells += [f"{figures[f'{key}.effective']:.0f}", f"{figures[f'{key}.refused']:.1%}"]
        cells += [f"{figures[f'{key}.l1']:.3f}", f"{figures[f'{key}.mtse']:.4f}"] if known else []
        rows.append((name, *cells))
    columns = ("policy", "by the model", "doubly robust", "rests on", "refused", *(("L1", "MTSE") if known else ()))
    return Table(f"{figures['users']:,} users that judge (95% intervals)", columns, tuple(rows))


def shown(record: Record) -> list[Panel]:
    """The sentence, the table and the gains."""
    found: list[Panel] = []
    if message := record.summary.get("message"):
        found.append(Sentence(str(message), headline=True))
    if table := policy_results(record.summary):
        found.append(table)
    gains = [
        record.interval(f"exposure.policy.over.{rival}.{estimate}", f"over {POLICIES[rival]}", name)
        for rival in ("constant", "mean", "logging")
        for estimate, name in (("model", "by the model"), ("doubly_robust", "doubly robust"))
    ]
    known = tuple(gain for gain in gains if gain)
    if known:
        note = "Paired over users, with 95% intervals. An open dot is no evidence of a difference."
        found.append(Intervals("What the learnt shares gain", "outcome", known, 0.0, note, SECTION))
    return found


def policy_panels(record: Record) -> list[Panel]:
    """Of a finished or running evolution."""
    course = evolution(record, SECTION, "return on what is tuned on")
    cost = evolution_cost(record, record.setting("objective") or "policy")
    return [*shown(record), *course, cost, Glossary((*TERMS, *WORDS))]


def forest_panels(record: Record) -> list[Panel]:
    """Of a fitted forest: which features split, the groups of its first trees, curves."""
    found, files = shown(record), record.files.get("evaluation") or {}
    importance = files.get("importance") or []
    if importance:
        rows = tuple((each["feature"], f"{each['gain']:.1%}", each["splits"]) for each in importance)
        note = "Gain: the share of what all splits of all trees are worth more than the nodes that they split."
        found.append(Table("What groups are told apart by", ("feature", "gain", "splits"), rows, note, SECTION))
    groups = files.get("groups") or []
    if groups:
        categories = tuple(files["categories"])
        lines = tuple((each["group"], each["users"], *(f"{share:.2f}" for share in each["shares"])) for each in groups)
        note = "Groups of the first tree; the shares are the forest's, on average over the group's users that judge."
        found.append(Table("Who gets what", ("group", "users", *categories), lines, note, SECTION))
    for curve in files.get("curves") or []:
        lines_ = tuple(Series(each["group"], curve["x"], each["y"]) for each in curve["groups"])
        title, note = f"{curve['category']}: outcome by share", "Of the forest's largest groups; 0 at no share."
        found.append(Curve(title, "share", "outcome", lines_, note, section=SECTION))
    return [*found, Glossary(TERMS)]
