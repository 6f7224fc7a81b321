"""The list scorer as files for devices (funnel/tools.py: Exporting): exported, read back, compared, described.

A session of the log is one call of the graph: its rows are the items, and each row is asked after those before it.
What the graph says of each row after its own context must be what the network says of it in scoring.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.errors import UserError
from data.log import Log
from funnel.graph_files import load, save_onnx, save_program, traced
from funnel.problem import Given
from funnel.rerank.calibration import load as load_calibration
from funnel.rerank.counts import TITLES, Maps
from funnel.rerank.graph import INPUTS, ListGraph
from funnel.rerank.problem import Rerank, SessionNetwork
from funnel.rerank.units import Sessions
from funnel.rerank.weights import load as load_weights
from funnel.rerank.weights import save as save_weights
from funnel.tools import Served
from models.list_scorer import HEADS

NAMES = {"pt2": "list_scorer.pt2", "onnx": "list_scorer.onnx", "npz": "list_scorer.npz"}


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
    """Write the files, the weights in one (list_scorer.npz) always; see the protocol."""
    if policy is not None:
        raise UserError("--policy: a list scorer has no scores of single exposures to fuse")
    problem, network = run.problem, run.network
    assert isinstance(problem, Rerank)
    assert isinstance(network, SessionNetwork)
    maps = load_calibration(run.directory, run.checksum)
    fields, numerics = len(problem.views.schema.single), len(problem.views.schema.numeric)
    graph = ListGraph(network.scorer, maps, fields, numerics)
    sessions = first_sessions(problem, log, part, rows)
    expected_B3 = scored(network, sessions, maps)
    save_weights(directory / NAMES["npz"], problem, network.scorer, maps)
    again = load_weights(directory / NAMES["npz"])
    found_B3 = scored(SessionNetwork(again.scorer).eval(), sessions, again.maps)
    differences = {"npz": largest(found_B3, expected_B3)}
    program = traced(graph)
    for kind in formats:
        path = directory / NAMES[kind]
        if kind == "pt2":
            save_program(program, path)
        else:
            save_onnx(graph, program, path)
        run_file = load(kind, path, INPUTS)
        found_B3 = np.concatenate([diagonal(run_file(inputs)) for inputs in session_inputs(graph, sessions)])
        differences[kind] = largest(found_B3, expected_B3)
    for kind, found in differences.items():
        worst = max(found, key=lambda head: found[head])
        if not found[worst] <= tolerance:
            raise UserError(
                f"{NAMES[kind]} differs from the model by {found[worst]:.1e} in {worst!r} on {len(expected_B3)} rows, "
                f"more than the tolerance of {tolerance:.1e}"
            )
    return {
        "model": {"log": problem.schema.name, "problem": problem.name},
        "inputs": describe_inputs(problem, graph),
        "outputs": [
            {"name": head, "dtype": "float32", "shape": ["contexts", "items"], "is": f"P({TITLES[head]})"}
            for head in HEADS
        ],
        "calibration": {head: list(pair) for head, pair in maps.items()} if maps else None,
        "check": {"part": part, "rows": len(expected_B3), "tolerance": tolerance, "largest_difference": differences},
    }


def first_sessions(problem: Rerank, log: Log, part: str, rows: int) -> Sessions:
    """Whole sessions from the beginning of the part, of at least so many rows if it has them."""
    found, count = [], 0
    for table in log.read(log.part(part), problem.columns):
        sessions = problem.encode(table)
        wanted = int(np.searchsorted(sessions.lists.begin_L1, rows - count, side="left"))
        found.append(sessions.take(slice(0, min(max(wanted, 1), len(sessions)))))
        count += len(found[-1].label_R3)
        if count >= rows:
            break
    if not count:
        raise UserError(f"part {part!r} has no rows to check the files on")
    return Sessions.join(found)


@torch.no_grad()
def scored(network: SessionNetwork, sessions: Sessions, maps: Maps | None) -> np.ndarray:
    """(B, 3): what the network says of each row after what stands before it, calibrated."""
    outputs = network.eval()(sessions.batch())
    found = []
    for head in HEADS:
        slope, offset = (maps or {}).get(head, (1.0, 0.0))
        found.append((outputs[head] * slope + offset).sigmoid())
    return np.asarray(torch.stack(found, 1).numpy())


def session_inputs(graph: ListGraph, sessions: Sessions) -> Iterator[list[np.ndarray]]:
    """The graph's inputs for each session: its rows as items, and as many contexts."""
    places = graph.scorer.config.before
    for begin, end in zip(sessions.lists.begin_L1[:-1].tolist(), sessions.lists.begin_L1[1:].tolist(), strict=True):
        rows, feedback_IF = sessions.lists.rows.take(slice(begin, end)), sessions.feedback_RF[begin:end]
        before_CN = np.arange(end - begin)[:, None] - 1 - np.arange(places)[None]
        there_CN = before_CN >= 0
        feedback_CNF = feedback_IF[np.maximum(before_CN, 0)] * there_CN[:, :, None]
        arrays = [
            rows.ids_RK,
            rows.numeric_RN.astype(np.float32),
            np.arange(end - begin),
            np.where(there_CN, before_CN, -1),
            there_CN.astype(np.float32),
            feedback_CNF.astype(np.float32),
        ]
        yield [np.require(array, requirements=["C", "W"]) for array in arrays]


def diagonal(outputs: Sequence[np.ndarray]) -> np.ndarray:
    """(I, 3): of (C, I) by head, each row in its own context."""
    return np.stack([np.diagonal(value_CI) for value_CI in outputs], 1)


def largest(found_B3: np.ndarray, expected_B3: np.ndarray) -> dict[str, float]:
    """Largest absolute difference by head; NaN counts as infinite."""
    gap_B3 = np.nan_to_num(np.abs(found_B3.astype(np.float64) - expected_B3), nan=np.inf)
    return {head: float(gap_B3[:, h].max()) for h, head in enumerate(HEADS)}


def describe_inputs(problem: Rerank, graph: ListGraph) -> list[dict[str, Any]]:
    """The graph's inputs in order, with the columns that fill them."""
    seen, before = problem.views.schema, graph.scorer.config.before
    offsets = dict(zip((field.name for field in seen.categorical), problem.encoder.offsets, strict=True))
    columns = [
        {"column": one.name, "kind": one.kind, "size": one.size, "offset": offsets[one.name],
         **({"vocabulary": list(one.vocabulary)} if one.kind == "vocabulary" else {})}
        for one in seen.single
    ]  # fmt: skip
    shapes: dict[str, tuple[str, list[Any], Any]] = {
        "ids": ("int64", ["items", len(columns)], columns),
        "numeric": ("float32", ["items", len(seen.numeric)], list(seen.numeric)),
        "asking": ("int64", ["contexts"], "the item whose row has the request's features"),
        "before": ("int64", ["contexts", before], "places among the items, the latest first; -1: none"),
        "known": ("float32", ["contexts", before], "1: it was watched, and its feedback is known"),
        "feedback": (
            "float32", ["contexts", before, graph.scorer.feedback],
            f"log(1 + x) of {', '.join(problem.settings.feedback) or 'nothing'}; 0 where it is not known",
        ),
    }  # fmt: skip
    return [
        {"name": name, "dtype": shapes[name][0], "shape": shapes[name][1], "columns": shapes[name][2]}
        for name in INPUTS
    ]
