"""Score a part of a log with a trained run: what its model says of every row, as Parquet.

    python -m jobs.score --run runs/ips --data runs/log --out runs/scored.parquet
    python -m jobs.score --run runs/ips --data runs/log --part valid --out runs/valid.parquet
    python -m jobs.score --run runs/ips --data runs/log --keep ts_hour --out runs/scored.parquet

The file also holds the labels and the ids that jobs.evolve groups by. Rows stream through: memory does not grow with
the log.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
import tyro
from rich.progress import track

from data.errors import UserError
from data.files import make_directory, whole_file
from data.identity import log_identity
from data.log import open_log
from funnel.registry import tool
from funnel.tools import Scoring
from jobs.command.call import Place, Result, call
from jobs.command.cli import main
from jobs.command.console import Console
from jobs.command.finished import device, open_run, read_finished
from jobs.run.inputs import MADE_FROM, SCORED, model_of
from jobs.run.progress import Lines, is_live


@dataclass
class Arguments:
    run: Path
    """Directory of a finished training run."""
    data: str
    """Log directory (path or URI)."""
    out: Path
    """Parquet file to write; it must not exist."""
    part: str = "test"
    """Part of the log to score."""
    raw: bool = False
    """Leave out the run's calibration (jobs.calibrate), if it has one."""
    keep: Annotated[tuple[str, ...], tyro.conf.arg(metavar="COLUMN ...")] = ()
    """Columns of the log to write as well, or features made of them such as the hour: jobs.evolve --by takes them."""


def run(arguments: Arguments) -> Path:
    """Score and return the path of the file."""
    out = arguments.out
    if out.exists():
        raise UserError(f"--out {out} exists already: choose another name")
    read_finished(arguments.run)
    finished = open_run(arguments.run)
    log = open_log(arguments.data)
    scoring: Scoring = tool(finished.problem, "score")
    scores = scoring.score_part(finished, log, arguments.part, device(), arguments.raw, arguments.keep)
    part, calibration = scores.part, scores.about["calibration"]
    made_from = {"run": model_of(arguments.run, arguments.raw), "data": log_identity(log, [part.name])}
    about = {"version": 1, "run": str(arguments.run), "data": arguments.data, "part": part.name, **scores.about}
    about[MADE_FROM] = made_from
    console = Console()
    groups = sum(1 for _ in part.row_groups())
    writer = None
    make_directory(out.parent)
    with whole_file(out) as temporary, Lines(console) as lines:
        shown = track(scores.tables, "scoring", total=groups, console=console, disable=not is_live(console))
        for number, table in enumerate(shown, start=1):
            lines.tell(f"scored {number} of {groups} row groups")
            if writer is None:
                described = table.schema.with_metadata({SCORED: json.dumps(about).encode()})
                writer = pq.ParquetWriter(temporary, described, write_page_checksum=True)
            writer.write_table(table.cast(described))
        assert writer is not None, "a part has at least one row"
        writer.close()
    for line in scores.warnings:
        console.print(f"warning: {line}", style="yellow", soft_wrap=True, markup=False, highlight=False)
    how = f", calibrated ({calibration})" if calibration != "none" else ""
    console.print(f"scored {part.rows:,} rows{how}: {out}")
    return out


COMMAND = run
"""Where `run` is a run."""


def score(run: Place, data: Place, out: Place, **options: Any) -> Result:
    """Score a part of a log as `python -m jobs.score` does; returns the Parquet file (docs/notebook.md).

    run: of `train`; data: the log; out: the file to write, which must be new. part="valid", raw=True and so on.
    """
    given = {"run": run, "data": data, "out": out, **options}
    return call("score", COMMAND, Arguments, given, lambda _, out: (out, {"rows": pq.read_metadata(out).num_rows}))


if __name__ == "__main__":
    main(
        run,
        Arguments,
        __doc__ or "",
        then=lambda given: ("evolve", "--scored", given.out, "--out", given.out.parent / "fusion"),
    )
