"""Export a trained ranker for serving: a torch.export program, an ONNX file, and serving.json, which describes them.

    python -m jobs.export --run runs/ips --out runs/served
    python -m jobs.export --run runs/ips --policy runs/fusion --out runs/served     # with the tuned fusion as an output
    python -m jobs.export --run runs/ips --out runs/served --formats pt2            # needs no ONNX packages

Both files are loaded again and run on real rows of the log beside the trained model; where they differ by more than
--tolerance nothing is left behind.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table

from data.log import open_log
from data.write import check_new
from distributed.finished_run import load_run
from funnel.ranking.export import EXPORTED_FUSIONS, SCORES, VALUE, FusionWeights, Ranker, export_program, save_onnx
from funnel.ranking.scoring import for_scoring
from funnel.ranking.serving_check import compare, load, real_rows, refuse
from funnel.ranking.serving_file import (
    FORMAT,
    VERSION,
    describe_inputs,
    describe_outputs,
    encodings,
    example_rows,
    file_facts,
)
from jobs.command.cli import main
from jobs.evolve.conduct import POLICY_FILE
from jobs.run.directory import RUN_FILE, git_commit, read_json, versions, write_json

SERVING_FILE = "serving.json"
NAMES = {"pt2": "ranker.pt2", "onnx": "ranker.onnx"}


@dataclass
class Arguments:
    run: Path
    """Directory of a finished training run."""
    out: Path
    """Directory to write; it must be new or empty."""
    policy: Path | None = None
    """Directory of a jobs.evolve run of score fusion (product or sum); its fusion becomes the output `fused`."""
    data: str | None = None
    """Log to check on (path or URI); by default the one the run was trained on."""
    part: str = "test"
    """Part of the log to check on."""
    rows: int = 10_000
    """Rows to check on."""
    tolerance: float = 1e-5
    """Largest accepted difference: absolute for probabilities, relative to max(1, |fused|) for the fused score."""
    formats: tuple[Literal["pt2", "onnx"], ...] = ("pt2", "onnx")
    """Which files to write."""


def run(arguments: Arguments) -> Path:
    """Export, check and return the directory."""
    out, source = arguments.out.expanduser().absolute(), arguments.run.expanduser().absolute()
    check(arguments, out)
    policy = read_policy(arguments.policy) if arguments.policy else None
    trained, record = load_run(source), read_json(source / RUN_FILE)
    schema, calibration = trained.schema, trained.problem.calibration(trained.directory)
    log = for_scoring(open_log(arguments.data or record["data"]["location"]), schema)
    weights = fusion_weights(policy, log.schema.value) if policy else None
    ranker = Ranker(trained.network, schema, calibration, weights)
    real = real_rows(ranker, policy, log, arguments.part, arguments.rows)
    program = export_program(ranker)

    out.parent.mkdir(parents=True, exist_ok=True)
    directory = out.with_name(f".{out.name}.partial-{os.getpid()}")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    try:
        differences: dict[str, dict[str, float]] = {}
        for kind in arguments.formats:
            path = directory / NAMES[kind]
            if kind == "pt2":
                torch.export.save(program, path)
            else:
                save_onnx(ranker, program, path)
            differences[kind] = compare(load(kind, path), ranker, real)
            refuse(differences[kind], path.name, arguments.tolerance, len(real.table))
        serving = {
            "format": FORMAT,
            "version": VERSION,
            "model": {
                "log": schema.name,
                "objective": record["config"]["train"]["objective"]["name"],
                "backbone": record["config"]["train"]["model"]["backbone"]["name"],
                "trained": record["started"],
                "trained_at_commit": record["git"],
                "exported_at_commit": git_commit(),
                "versions": versions(),
            },
            "inputs": describe_inputs(log.schema, ranker.inputs),
            "outputs": describe_outputs(policy),
            "calibration": calibration.to_dict() if calibration else None,
            "encodings": encodings(),
            "check": {"rows": len(real.table), "tolerance": arguments.tolerance, "largest_difference": differences},
            "example": example_rows(schema, real.table, real.encoded, real.value_R, real.expected),
            "files": {path.name: file_facts(path) for path in sorted(directory.iterdir())},
        }
        write_json(directory / SERVING_FILE, serving)
        directory.replace(out)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    show(Console(), differences, len(real.table), out)
    return out


def check(arguments: Arguments, out: Path) -> None:
    """Raise ValueError, naming the option, for what cannot be, before anything is loaded."""
    check_new(out)
    if arguments.rows < 1:
        raise ValueError(f"--rows is {arguments.rows}: it must be at least 1")
    if not arguments.tolerance > 0:
        raise ValueError(f"--tolerance is {arguments.tolerance}: it must be positive")
    if not arguments.formats:
        raise ValueError("--formats names no file: give pt2, onnx or both")
    if "onnx" in arguments.formats:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            try:
                __import__(package)
            except ImportError:
                raise ValueError(
                    f"{package} is not installed: ONNX files need the extra `export` (pip install '.[export]'); "
                    "--formats pt2 does without"
                ) from None


def read_policy(run: Path) -> dict[str, Any]:
    """policy.json of a jobs.evolve run, checked to be one that a graph can hold."""
    path = run.expanduser() / POLICY_FILE
    policy = read_json(path)
    missing = [key for key in ("fusion", "names", "after", "scores") if key not in policy]
    if missing:
        raise ValueError(f"{path}: key {missing[0]!r} is missing; is this a policy of jobs.evolve's score fusion?")
    if policy["fusion"] not in EXPORTED_FUSIONS:
        raise ValueError(
            f"{path}: {policy['fusion']!r} fusion needs the request's ranks, which a graph of single exposures lacks; "
            f"export {' or '.join(EXPORTED_FUSIONS)}, or no policy, and fuse where the request is known"
        )
    if policy.get("by"):
        raise ValueError(f"{path}: its weights depend on user features ({', '.join(policy['by'])}), "
                         "which the graph has no input for; tune without --by to export the fusion")  # fmt: skip
    return policy


def fusion_weights(policy: dict[str, Any], value: str | None) -> FusionWeights:
    """The numbers of policy.json by score. Raises ValueError for a score that the ranker does not have."""
    known = SCORES + (VALUE,) * (value is not None)
    strange = [name for name in policy["scores"] if name not in known]
    if strange:
        raise ValueError(f"{POLICY_FILE}: fuses {strange[0]!r}; the exported ranker has {', '.join(known)}")
    values = dict(zip(policy["names"], policy["after"], strict=True))
    scores, ones = tuple(policy["scores"]), (1.0,) * len(policy["scores"])
    if policy["fusion"] == "product":
        weight, shift = (tuple(values[f"{what}.{name}"] for name in scores) for what in ("exponent", "bias"))
        return FusionWeights("product", scores, weight, shift, ones)
    weight = tuple(values[f"weight.{name}"] for name in scores)
    return FusionWeights("sum", scores, weight, (0.0,) * len(scores), tuple(policy["constants"]))


def show(console: Console, differences: dict[str, dict[str, float]], rows: int, out: Path) -> None:
    outputs = list(next(iter(differences.values())))
    table = Table("file", *outputs, title=f"largest difference from the model on {rows:,} real rows", title_style="")
    for kind, by_output in differences.items():
        table.add_row(NAMES[kind], *(f"{by_output[name]:.1e}" for name in outputs))
    console.print(table)
    console.print(f"exported: {out}", soft_wrap=True)


if __name__ == "__main__":
    main(run, Arguments, __doc__ or "")
