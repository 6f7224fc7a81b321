"""Score a part of a log with a trained run: pCTR, pCVR and pCTCVR of every exposure, as Parquet.

    python -m jobs.score --run runs/ips --data runs/log --out runs/scored.parquet
    python -m jobs.score --run runs/ips --data runs/log --part valid --out runs/valid.parquet

The file also holds the labels and the user, request and exposure ids that jobs.evolve groups by. Rows stream through:
memory does not grow with the log.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.progress import track

from data.log import open_log
from distributed.finished_run import load_run
from funnel.ranking.scoring import for_scoring, score
from jobs.command.cli import main
from jobs.run.directory import storing
from jobs.run.progress import Lines, is_live

METADATA_KEY = b"counterpoint.scored"


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


def run(arguments: Arguments) -> Path:
    """Score and return the path of the file."""
    out = arguments.out.expanduser().absolute()
    if out.exists():
        raise ValueError(f"--out {out} exists already: choose another name")
    trained = load_run(arguments.run.expanduser().absolute())
    calibration = None if arguments.raw else trained.problem.calibration(trained.directory)
    log = for_scoring(open_log(arguments.data), trained.schema)
    part = log.part(arguments.part)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    about = {"version": 1, "run": str(arguments.run), "data": arguments.data, "part": part.name}
    about["calibration"] = calibration.about.get("method", "none") if calibration else "none"
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    console = Console()
    groups = sum(1 for _ in part.row_groups())
    writer = None
    with storing(out, temporary), discarding(temporary), Lines(console) as told:
        out.parent.mkdir(parents=True, exist_ok=True)
        tables = score(trained.network.to(device), log, part, device, calibration)
        shown = track(tables, "scoring", total=groups, console=console, disable=not is_live(console))
        for number, table in enumerate(shown, start=1):
            told.tell(f"scored {number} of {groups} row groups")
            if writer is None:
                described = table.schema.with_metadata({METADATA_KEY: json.dumps(about).encode()})
                writer = pq.ParquetWriter(temporary, described, write_page_checksum=True)
            writer.write_table(table.cast(described))
        assert writer is not None, "a part has at least one row"
        writer.close()
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(out)
    how = f", calibrated ({about['calibration']})" if calibration else ""
    console.print(f"scored {part.rows:,} exposures{how}: {out}")
    return out


@contextmanager
def discarding(temporary: Path) -> Iterator[None]:
    """Nothing half-written stays."""
    try:
        yield
    finally:
        temporary.unlink(missing_ok=True)


if __name__ == "__main__":
    main(run, Arguments, __doc__ or "")
