"""Make an exposure log: from a table of your own, generated with known truth, or from a public data set's files.

    python -m jobs.make_data --rows 300000 --out /tmp/log                       (a laptop CPU: two seconds)
    python -m jobs.make_data --rows 1000000 --hidden 1 --seed 7 --out /tmp/log  (with an unobserved confounder)
    python -m jobs.make_data --rows 300000 --history 50 --out /tmp/log          (with items that users clicked)
    python -m jobs.make_data --rows 300000 --days 7 --out /tmp/days             (days for jobs.pipeline --watch)
    python -m jobs.make_data --world platform --out /tmp/log      (a platform in a closed loop; --world platform --help)
    python -m jobs.make_data --world incentives --days 14 --out /tmp/days     (rewarded users by day, for jobs.operate)
    python -m jobs.make_data --world cascade --out /tmp/log       (whole requests of a small cascade, for pre-ranking)
    python -m jobs.make_data --source table --input RAW --time ts --out /tmp/log    (Parquet or CSV, a file or a folder)
    python -m jobs.make_data --source speed_dating --input DIR --fold 0 --out /tmp/log
    python -m jobs.make_data --source ali_ccp --input DIR --lists 210 109_14 --out /tmp/log
    python -m jobs.make_data --source recflow --input all_stage --out /tmp/log      (stages, for jobs.train --problem)

Simulated worlds with options of their own (--world NAME --help): platform; platform_shares (a platform whose users are
shown different mixes of categories); fresh (the platform's log of what users took); cascade (a funnel of four stages);
incentives (users who are paid to come back); shares (shares of exposure); dose (responses to a dose).

The log is written beside --out and renamed when it is whole: a run that is killed leaves no log, only a hidden
directory .NAME.HOST-PID.partial, which the next one beside it removes.
"""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro
from rich import box
from rich.console import RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from data.errors import UserError
from data.generate import GeneratedLog, generate_days, generate_log
from data.loaders.ali_ccp import LISTS, load_ali_ccp
from data.loaders.ali_express import load_ali_express
from data.loaders.recflow import load_recflow
from data.loaders.speed_dating import load_speed_dating
from data.loaders.table import TableOptions, load_table
from data.loaders.table_draft import KINDS, ROLES, Draft
from data.log import open_log
from data.nearest import correction
from data.sources import zone_of
from data.world import check
from data.worlds import WORLDS
from data.write import PartFacts, check_new
from funnel.registry import LOGGED
from jobs.command.call import Place, Result, call
from jobs.command.cli import glance, main
from jobs.command.console import Console
from jobs.command.simulated import Simulated, following_simulated, simulated_options, write_simulated


@dataclass(frozen=True)
class TableArguments:
    """--source table. Columns that are not named are found by their names; what each has become is printed."""

    title: ClassVar[str] = "--source table"

    split: Literal["auto", "time", "user", "request", "row"] = "auto"
    """What valid and test are: the last days, or a share of the users, the requests or the rows; auto: the first of
    these that the table has enough of."""
    valid_days: int = 1
    """Split by time: days of the valid part, before those of the test part (days in UTC)."""
    test_days: int = 1
    """Split by time: the last days, which are the test part."""
    held_out: float = 0.1
    """Split by user, request or row: the share of each of valid and test."""
    time: str | None = None
    """Column of the moment: a timestamp, a date, text such as 2026-01-31, or seconds or milliseconds since 1970."""
    zone: str | None = None
    """Time zone in which the hour and the weekday of that moment are told, such as Europe/Berlin. Left out: the one
    that the column's type has, else UTC."""
    click: str | None = None
    """Column that is 1 where the exposure was clicked."""
    conversion: str | None = None
    """Column that is 1 where the click converted."""
    conversion_time: str | None = None
    """Column of the moment of the conversion, in any form that --time has; missing where there is none. With it the
    schema names both moments, for trainings as of a moment (docs/propensities.md)."""
    user: str | None = None
    """Column of the user: intervals resample users."""
    request: str | None = None
    """Column of what is ranked together; its rows are kept together."""
    exposure: str | None = None
    """Column of an id of the row; without one the rows are numbered."""
    weight: str | None = None
    """Column of how often a row counts."""
    value: str | None = None
    """Column of what a conversion would be worth, known before the exposure (a price)."""
    reward: str | None = None
    """Column of what the exposure has brought, known only afterwards (revenue): never a feature."""
    categorical: tuple[str, ...] = ()
    """Columns that are ids or kinds, whatever they look like."""
    numeric: tuple[str, ...] = ()
    """Columns that are amounts, whatever they look like."""
    drop: tuple[str, ...] = ()
    """Columns that are no features."""
    text: tuple[str, ...] = ()
    """Columns to read as text: a CSV in which some files or lines hold numbers there and others do not."""
    decimal: Literal[".", ","] = "."
    """CSV: what stands before the digits of a fraction."""

    def options(self, seed: int) -> TableOptions:
        columns = {role: getattr(self, role) for role in ROLES if getattr(self, role) is not None}
        kinds = {column: kind for kind in KINDS for column in getattr(self, kind)}
        return TableOptions(self.split, self.valid_days, self.test_days, self.held_out, columns, kinds, self.text,
                            self.decimal, zone_of(self.zone, "--zone") if self.zone else "", seed)  # fmt: skip


KNOBS = tuple(field.name for field in dataclasses.fields(GeneratedLog))


@dataclass(frozen=True, kw_only=True)
class MakeData(GeneratedLog):
    """Which log to make, and where. The knobs of a generated log are those of the equations in data/world.py."""

    out: Path
    """Directory to make; it must be absent or empty."""
    source: Literal["generated", "table", "speed_dating", "ali_ccp", "ali_express", "recflow"] = "generated"
    """Where the rows come from; table: Parquet or CSV of your own."""
    input: str | None = None
    """Directory or file of the table (any URI) or of the public data set; nothing is downloaded."""
    table: Annotated[TableArguments, tyro.conf.arg(name="")] = TableArguments()
    days: int = 0
    """generated: cut the rows into so many day partitions, not into train, valid and test; 0 = do not."""
    folds: int = 7
    """speed_dating: in how many folds the waves are dealt."""
    fold: int = 0
    """speed_dating: which fold is the test part (the next one is valid)."""
    lists: tuple[str, ...] = LISTS
    """ali_ccp: multi-valued fields to bring in as features: 210, and the users' 109_14, 110_14, 127_14, 150_14."""


def options_for(words: Sequence[str]) -> type:
    """MakeData, or the options of the simulated world that the words name. Raises UserError for no such world."""
    world = glance(words, world=GeneratedLog.world)["world"]
    if world in WORLDS:
        return MakeData
    if world not in LOGGED and ":" not in world:
        raise UserError(f"no world {world!r}; {correction(world, [*WORLDS, *LOGGED], 'there are')}")
    return simulated_options(world)


def run(args: MakeData | Simulated) -> Path:
    """Make the log, print what is in it, return its absolute path. Raises UserError for what cannot be made."""
    out = args.out
    if isinstance(args, MakeData):
        check_arguments(args)
    check_new(out)
    console = Console()
    notes: list[RenderableType] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as bar:
        if isinstance(args, Simulated):
            total = None if getattr(args.config, "days", 0) else args.config.rows
            title, task = args.world, bar.add_task(args.world, total=total)
            facts = write_simulated(args, out, lambda rows: bar.advance(task, rows))
            rows = sum(part.rows for part in facts.values())
            bar.update(task, total=rows, completed=rows)
        else:
            title = args.source
            task = bar.add_task(title, total=args.rows if title == "generated" else None)
            facts = make(args, out, lambda rows: bar.advance(task, rows), notes)
    for note in notes:
        console.print(note, markup=False, highlight=False) if isinstance(note, str) else console.print(note)
    console.print(report(title, facts, open_log(out).schema.labels))
    console.print(f"log: {out}", soft_wrap=True)
    return out


def make(
    args: MakeData, out: Path, progress: Callable[[int], None], notes: list[RenderableType]
) -> dict[str, PartFacts]:
    """The log's parts; what is to be said of it beside them is added to `notes`."""
    if args.source == "generated":
        if args.days:
            return generate_days(config_of(args), args.days, out, progress)
        return generate_log(config_of(args), out, progress)
    assert args.input is not None
    if args.source == "table":
        loaded = load_table(args.input, out, args.table.options(args.seed), progress)
        notes += [columns_table(loaded.draft), *loaded.notes]
        return loaded.facts
    source = Path(args.input).expanduser()
    if args.source == "speed_dating":
        return load_speed_dating(source, out, args.folds, args.fold, args.seed, progress)
    if args.source == "ali_ccp":
        return load_ali_ccp(source, out, seed=args.seed, lists=args.lists, progress=progress)
    if args.source == "recflow":
        return load_recflow(source, out, args.seed, progress)
    return load_ali_express(source, out, seed=args.seed, progress=progress)


def columns_table(draft: Draft) -> Table:
    """What each column of a table has become, and why; a question mark where it may as well be something else."""
    table = Table(title="columns", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for name in ("column", "is", "", "because"):
        table.add_column(name, overflow="fold")
    for one in draft.decisions:
        table.add_row(escape(one.column), one.what, "" if one.sure else "?", escape(one.why))
    if not all(one.sure for one in draft.decisions):
        table.caption = "?: a guess. Name it with an option of its own (--help), or change schema.json."
    return table


def config_of(args: MakeData) -> GeneratedLog:
    return GeneratedLog(**{name: getattr(args, name) for name in KNOBS})


def check_arguments(args: MakeData) -> None:
    """Raise UserError where a flag and the source do not go together: a flag without effect is a mistake."""
    if args.source != "generated" and args.input is None:
        raise UserError(f"--source {args.source} needs --input, the directory of its files")
    if args.source == "generated" and args.input is not None:
        raise UserError("--input goes with --source table, speed_dating, ali_ccp, ali_express or recflow")
    fixed = [] if args.source == "generated" else ["days", *(name for name in KNOBS if name != "seed")]
    fixed += [] if args.source == "speed_dating" else ["folds", "fold"]
    fixed += [] if args.source == "ali_ccp" else ["lists"]
    for field in dataclasses.fields(MakeData):
        if field.name in fixed and getattr(args, field.name) != field.default:
            raise UserError(f"--{field.name.replace('_', '-')} has no effect with --source {args.source}")
    for field in dataclasses.fields(TableArguments) if args.source != "table" else ():
        if getattr(args.table, field.name) != field.default:
            raise UserError(f"--{field.name.replace('_', '-')} goes with --source table")
    if args.source == "generated":
        check(config_of(args))
    elif not 0 <= args.seed < 2**63:
        raise UserError(f"--seed is {args.seed}, must be from 0 to below 2**63")


def report(title: str, facts: dict[str, PartFacts], labels: Collection[str]) -> Table:
    """One line a part, by the labels that the log has; with truth also what clicks hide: E[r] over all exposures
    against E[r] over clicks."""
    table = Table(title=f"{title} log", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0))
    truth = any(part.potential is not None for part in facts.values())
    dropped = any(part.dropped for part in facts.values())
    # A log of nothing but clicks says nothing of how often what was shown was clicked.
    clicked = all(part.clicks == part.rows for part in facts.values())
    converted = "click" in labels and "conversion" in labels
    cells_of: dict[str, Callable[[PartFacts], str]] = {"rows": lambda part: f"{part.rows:,}"}
    if "click" in labels:
        cells_of["clicks"] = lambda part: f"{part.clicks:,}"
    if converted:
        cells_of["conversions"] = lambda part: f"{part.conversions:,}"
    if "click" in labels:
        cells_of["CTR"] = lambda part: share(None if clicked else part.clicks, part.rows)
    if converted:
        cells_of["CVR"] = lambda part: share(part.conversions, part.clicks)
    if truth:
        cells_of["E\\[r|all]"] = lambda part: share(part.potential, part.rows)
        cells_of["E\\[r|click]"] = lambda part: share(part.potential_clicked, part.clicks)
    if dropped:
        cells_of["dropped"] = lambda part: f"{part.dropped:,}"
    for name in ("part", *cells_of):
        table.add_column(name, justify="left" if name == "part" else "right")
    for name, part in facts.items():
        table.add_row(name, *(cell(part) for cell in cells_of.values()))
    return table


def share(count: int | None, total: int) -> str:
    return "-" if count is None or total == 0 else f"{count / total:.4f}"


def following(args: MakeData | Simulated) -> tuple[object, ...]:
    """A look at the log, or what a simulated one is for; of days, what takes them in."""
    if isinstance(args, Simulated):
        return following_simulated(args)
    if args.days:
        return ("pipeline", "--watch", args.out, "--out", "runs/days")
    alone = args.source == "table" and list(open_log(args.out).schema.labels) == ["click"]
    return ("check", "--data", args.out, *(("--preset", "clicks") if alone else ()))


def make_data(out: Place, **options: Any) -> Result:
    """Make a log as `python -m jobs.make_data` does; returns its directory (docs/notebook.md).

    out: a new directory. rows=300_000 for a generated one; source="table", input=RAW, time="ts" for one of a table.
    """
    return call("make_data", run, options_for, {"out": out, **options}, lambda _, out: (out, {}))


if __name__ == "__main__":
    main(run, options_for, __doc__, then=following)
