"""What a person sees of a pipeline at its end: its stages, its last days."""

from typing import Any

from rich.box import SIMPLE
from rich.table import Column, Table

from jobs.command.console import Console
from jobs.pipeline.plan import Plan
from jobs.pipeline.record import PIPELINE_FILE, Record, in_words

REPORT = "report.html"
SHOWN_DAYS = 14
TUNED = (".tuned", ".untuned")
"""What a policy's figures by day end with."""


def show(console: Console, record: Record, summary: dict[str, Any], plan: Plan) -> None:
    table = Table("stage", "seconds", "what came of it", box=SIMPLE)
    for name, entry in record.stages.items():
        if name.split(" ")[0] not in record.days:
            table.add_row(name, f"{entry['seconds']:.1f}", in_words(entry["facts"]))
    if table.row_count:
        console.print(table)
    if record.days:
        tuned = {key: key for facts in record.days.values() for key in facts if key.endswith(TUNED)}
        shown = {"rows": "rows", **{name: key for key, name in plan.problem.watched.items()}, **tuned}
        table = Table(Column("day", no_wrap=True), *shown, box=SIMPLE, caption="judged before they were trained on")
        for day in sorted(record.days)[-SHOWN_DAYS:]:
            facts = record.days[day]
            table.add_row(day, *(in_words({"": facts[key]}).strip() if key in facts else "-" for key in shown.values()))
        console.print(table)
    if message := summary.get("message"):
        console.print(message, soft_wrap=True)
    console.print(f"report: {plan.out / REPORT}, record: {plan.out / PIPELINE_FILE}", soft_wrap=True)
