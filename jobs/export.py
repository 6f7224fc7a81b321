"""Export a trained model for serving: a torch.export program, an ONNX file, and serving.json, which describes them.

    python -m jobs.export --run runs/ips --out runs/served
    python -m jobs.export --run runs/ips --policy runs/fusion --out runs/served     # with the tuned policy as an output
    python -m jobs.export --run runs/ips --out runs/served --formats pt2            # needs no ONNX packages

Both files are loaded again and run on real rows of the log beside the trained model; where they differ by more than
--tolerance nothing is left behind.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data.errors import UserError
from data.files import whole_directory
from data.identity import file_checksum
from data.log import open_log
from data.write import check_new
from distributed.finished_run import load_run
from funnel.panels import Table
from funnel.registry import DEFAULT_TUNABLE, find_serving, tool
from funnel.tools import Exporting, Served, Serving
from jobs.command.call import Place, Result, call
from jobs.command.cli import main
from jobs.command.console import Console
from jobs.command.finished import read_finished
from jobs.command.tables import print_table
from jobs.evolve.conduct import POLICY_FILE
from jobs.run.directory import RUN_FILE, git_commit, location_of, read_json, versions, write_json
from jobs.run.inputs import MADE_FROM, model_of

FORMAT, VERSION = "counterpoint.serving", 1
SERVING_FILE = "serving.json"


@dataclass
class Arguments:
    run: Path
    """Directory of a finished training run."""
    out: Path
    """Directory to write; it must be new or empty."""
    policy: Path | None = None
    """Directory of a jobs.evolve run of the model's scores; what its policy makes of them becomes an output."""
    data: str | None = None
    """Log to check on (path or URI); by default the one the run was trained on."""
    part: str = "test"
    """Part of the log to check on."""
    rows: int = 10_000
    """Rows to check on."""
    tolerance: float = 1e-5
    """Largest accepted difference: absolute for the model's outputs, relative to max(1, |x|) for a policy's."""
    formats: tuple[Literal["pt2", "onnx"], ...] = ("pt2", "onnx")
    """Which files to write."""


def run(arguments: Arguments) -> Path:
    """Export, check and return the directory."""
    out, source = arguments.out, arguments.run
    check(arguments, out)
    record, model = read_finished(source), model_of(source)
    policy = read_policy(arguments.policy, model) if arguments.policy else None
    finished = load_run(source).given
    exporting: Exporting = tool(finished.problem, "export")
    log = open_log(arguments.data or location_of(source, record))

    with whole_directory(out) as directory:
        asked = (arguments.part, arguments.rows, policy, arguments.formats, arguments.tolerance)
        serving = exporting.export(finished, log, *asked, directory)
        serving["model"] |= {
            "trained": record.get("started"),
            "trained_at_commit": record.get("git"),
            "exported_at_commit": git_commit(),
            "versions": versions(),
        }
        serving[MADE_FROM] = {"run": model, **(record.get(MADE_FROM) or {})}
        if arguments.policy:
            serving[MADE_FROM]["policy"] = {"checksum": file_checksum(arguments.policy / POLICY_FILE)}
        files = {path.name: file_facts(path) for path in sorted(directory.iterdir())}
        write_json(directory / SERVING_FILE, {"format": FORMAT, "version": VERSION, **serving, "files": files})
    show(serving["check"], exporting.NAMES, out)
    return out


def check(arguments: Arguments, out: Path) -> None:
    """Raise UserError, naming the option, for what cannot be, before anything is loaded."""
    check_new(out)
    if arguments.rows < 1:
        raise UserError(f"--rows is {arguments.rows}: it must be at least 1")
    if not arguments.tolerance > 0:
        raise UserError(f"--tolerance is {arguments.tolerance}: it must be positive")
    if not arguments.formats:
        raise UserError("--formats names no file: give pt2, onnx or both")
    if "onnx" in arguments.formats:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            try:
                __import__(package)
            except ImportError:
                raise UserError(
                    f"{package} is not installed: ONNX files need the extra `export` (pip install '.[export]'); "
                    "--formats pt2 does without"
                ) from None


def read_policy(run: Path, model: dict[str, Any]) -> Served:
    """The policy of a jobs.evolve run. Raises UserError for one that no graph of single exposures can hold, or that was
    tuned on the scores of another model than this one (jobs/run/inputs.py: model_of)."""
    policy, record = read_json(run / POLICY_FILE), run / RUN_FILE
    check_scored_by(policy, model, f"--policy {run}")
    config = read_json(record).get("config", {}) if record.exists() else {}
    serving: Serving = find_serving(config.get("objective", DEFAULT_TUNABLE))
    return serving.serve(policy, run / POLICY_FILE)


def check_scored_by(policy: dict[str, Any], model: dict[str, Any], where: str) -> None:
    """UserError if the policy names scores of another model, or with another calibration; it may name none."""
    for about in (policy.get(MADE_FROM) or {}).values():
        if "model" in about and about["model"] != model["model"]:
            raise UserError(f"{where}: was tuned on the scores of another model; score with --run and tune on that")
        if "with" in about and about["with"] != model["with"]:
            raise UserError(
                f"{where}: was tuned on scores that were calibrated otherwise ({calibrated(about)}; --run is "
                f"{calibrated(model)}); score with --run and tune on that"
            )


def calibrated(about: dict[str, Any]) -> str:
    return "calibrated" if about["with"] else "not calibrated"


def file_facts(path: Path) -> dict[str, Any]:
    """For whoever fetches the file: its size and checksum."""
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def show(check: dict[str, Any], names: Any, out: Path) -> None:
    """The largest differences by file and output."""
    differences, console = check["largest_difference"], Console()
    outputs = tuple(next(iter(differences.values())))
    rows = tuple((names[kind], *(f"{found[name]:.1e}" for name in outputs)) for kind, found in differences.items())
    title = f"largest difference from the model on {check['rows']:,} real rows"
    print_table(console, Table(title, ("file", *outputs), rows))
    console.print(f"exported: {out} (docs/serve.md: a server that needs nothing of this checkout)", soft_wrap=True)


COMMAND = run
"""Where `run` is a run."""


def export(run: Place, out: Place, **options: Any) -> Result:
    """Export a trained model as `python -m jobs.export` does; returns the directory (docs/notebook.md).

    run: of `train`; out: a new directory. policy=RUN of `evolve`, formats=["onnx"] and so on. The figures are those of
    the check on real rows.
    """
    given = {"run": run, "out": out, **options}
    return call("export", COMMAND, Arguments, given, lambda _, out: (out, read_json(out / SERVING_FILE)["check"]))


if __name__ == "__main__":
    main(run, Arguments, __doc__ or "")
