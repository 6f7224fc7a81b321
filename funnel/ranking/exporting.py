"""The ranker as files for serving (funnel/tools.py: Exporting): exported, read back, compared, described."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.errors import UserError
from data.log import Log
from funnel.graph_files import load, save_onnx, save_program
from funnel.problem import Given
from funnel.ranking import request_inputs
from funnel.ranking.calibration import Calibration
from funnel.ranking.export import SCORES, VALUE, Ranker, export_program
from funnel.ranking.serving_check import compare, real_rows, refuse
from funnel.ranking.serving_file import describe_inputs, describe_outputs, encodings, example_rows
from funnel.tools import Served
from funnel.trained_log import for_scoring

NAMES = {"pt2": "ranker.pt2", "onnx": "ranker.onnx"}
INPUTS = "inputs.py"


def export(
    run: Given,
    log: Log,
    part: str,
    rows: int,
    policy: Served | None,
    formats: Sequence[str],
    tolerance: float,
    directory: Path,
) -> dict[str, Any]:
    """Write the files into the directory and return what serving.json says of them.

    Raises UserError: a score that the policy takes and the ranker does not have, no such part, a file that differs
    from the model by more than the tolerance on the part's first rows.
    """
    schema, calibration = run.problem.schema, Calibration.load(run.directory, run.checksum)
    log = for_scoring(log, schema)
    known = SCORES + (VALUE,) * (log.schema.value is not None)
    strange = [name for name in (policy.scores if policy else ()) if name not in known]
    if strange:
        raise UserError(f"the policy fuses {strange[0]!r}; the exported ranker has {', '.join(known)}")
    ranker = Ranker(run.network, schema, calibration, policy)  # type: ignore[arg-type]
    real = real_rows(ranker, policy, log, part, rows)
    program = export_program(ranker)
    differences: dict[str, dict[str, float]] = {}
    for kind in formats:
        path = directory / NAMES[kind]
        if kind == "pt2":
            save_program(program, path)
        else:
            save_onnx(ranker, program, path)
        differences[kind] = compare(load(kind, path, ranker.inputs), ranker, real)
        refuse(differences[kind], path.name, tolerance, len(real.table))
    (directory / INPUTS).write_text(inspect.getsource(request_inputs))
    numeric = str(ranker.numeric_type).removeprefix("torch.")
    return {
        "model": {"log": schema.name, **run.problem.choices()},
        "inputs": describe_inputs(log.schema, ranker.inputs, numeric),
        "outputs": describe_outputs(policy),
        "calibration": calibration.to_dict() if calibration else None,
        "encodings": encodings(log.schema),
        "check": {"part": part, "rows": len(real.table), "tolerance": tolerance, "largest_difference": differences},
        "example": example_rows(log.schema, real.table, real.encoded, real.value_R, real.expected, numeric),
    }
