"""What a page shows of a policy learnt from logged actions: its value on held-out rounds, its gains, its weights."""

from collections.abc import Mapping
from typing import Any

from funnel.numbers import MINUS, compact, count
from funnel.panels import Cell, Glossary, Intervals, Panel, Record, Sentence, Table, told
from funnel.progress import WORDS, evolution, evolution_cost

SECTION = "Policy from logged actions"
POLICIES = {"learnt": "learnt policy", "best_constant": "best constant action", "logging": "logging policy"}
MOST_FEATURES = 30
BOUND = (
    "The return is a bound of the value on the rounds learnt from. The search picks the policy whose bound is highest, "
    "so it is higher than what that policy is worth: only the held-out figures are results."
)
TERMS = (
    ("Round", "One row of the log: a context, the action taken, its probability under the logging policy, the reward."),
    (
        "Effective rounds",
        "(Σw)² / Σw² over held-out rounds, w = probability of the logged action under the learnt policy over its "
        "propensity: how many equally weighted rounds carry the same information.",
    ),
    *WORDS,
)


def panels(record: Record) -> list[Panel]:
    """Of a finished evolution of a policy."""
    found = record.summary.get("message") or record.summary.get("off_policy.message")  # the latter: of earlier versions
    message = str(found or "A policy was learnt; nothing was held out to judge it by")
    values = [record.interval(f"off_policy.{key}", name) for key, name in POLICIES.items()]
    gains = [
        record.interval(f"off_policy.gain_over_{key}", f"over the {name}")
        for key, name in POLICIES.items()
        if key != "learnt"
    ]
    note = "Estimated on rounds that were held out, with 95% intervals. An open dot is no evidence of a gain."
    shown: list[Panel] = [Sentence(message.rstrip(".") + ".", headline=True), figures(record)]
    for title, label, rows, line in (
        ("Value of the policies", "reward a round", values, None),
        ("Gain of the learnt policy", "gain in reward a round", gains, 0.0),
    ):
        known = tuple(row for row in rows if row)
        if known:
            shown.append(Intervals(title, label, known, line, note, SECTION))
    cost = evolution_cost(record, record.setting("objective") or "policy")
    course = evolution(record, SECTION, "bound on the rounds learnt from")
    return [*shown, *weights(record), *course, Sentence(BOUND, SECTION), cost, Glossary(TERMS)]


def figures(record: Record) -> Table:
    rows: list[tuple[Cell, ...]] = [(name, record.cell(f"off_policy.{key}")) for key, name in POLICIES.items()]
    for key, name in POLICIES.items():
        if key != "learnt":
            gain = record.cell(f"off_policy.gain_over_{key}", signed=True)
            rows.append((f"learnt policy {MINUS} {name}", told(gain)))
    effective = f"{count(record.number('off_policy.effective_size'))} of {count(record.number('off_policy.rounds'))}"
    note = f"Best constant action: {record.summary.get('off_policy.best_constant_action', '?')}. Effective rounds of "
    note += (
        f"the learnt policy: {effective} held out. Small: 95% intervals; those of a difference are of the same rounds."
    )
    if stopping := record.summary.get("off_policy.stopping"):
        note += f" Followed: {stopping}."
    return Table("", ("Policy", "Reward a round"), tuple(rows), note, SECTION)


def weights(record: Record) -> list[Panel]:
    """Weight of every feature for every action, as policy.json has them."""
    policy: Mapping[str, Any] = record.files.get("policy") or {}
    actions, features, table = (policy.get(key) or [] for key in ("actions", "features", "weights"))
    if not table or len(table) != len(features) or not 2 <= len(actions) <= 8:
        return []
    rows = [(str(name), *map(compact, row)) for name, row in list(zip(features, table, strict=True))[:MOST_FEATURES]]
    note = 'An action\'s score is the sum of weight times standardised feature; "1" is the intercept.'
    if len(features) > MOST_FEATURES:
        note += f" The first {MOST_FEATURES} of {len(features)} features."
    return [Table("Weights of the policy", ("Feature", *map(str, actions)), tuple(rows), note, SECTION)]
