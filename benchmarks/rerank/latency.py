"""Milliseconds of one decision on one core: adaptive beam beside the full beam, 50 candidates, one request at a time.

    python benchmarks/rerank/latency.py            # alone on the machine, seconds

The trained scorer of benchmarks/rerank/worlds.py (plain) on candidates from its log, 8 items watched, k = 4, 10 places
ahead; in torch, and as the exported ONNX graph, one call a step of the search. Median, 10% and 90% of DECISIONS.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.bench import markdown, write_result
from benchmarks.rerank.worlds import logs, trained
from data.log import open_log
from funnel.graph_files import load as load_graph
from funnel.graph_files import save_onnx, traced
from funnel.rerank.graph import INPUTS, ListGraph
from funnel.rerank.list_value import Chances, SearchSettings
from funnel.rerank.scorer import NetworkScorer, NumpyScorer, Watched
from funnel.rerank.search import search
from funnel.rerank.units import Sessions
from funnel.rerank.weights import Weights, load

CANDIDATES, WATCHED, PLACES, DECISIONS = 50, 8, 10, 150


@dataclass(frozen=True)
class GraphScorer:
    """list_value.py: Scorer, by the exported graph; the items are the candidates, then those watched, latest first."""

    run: Any
    ids_IK: np.ndarray
    numeric_IN: np.ndarray
    told_WF: np.ndarray
    places: int

    def __call__(self, row_R: np.ndarray, prefix_RKL: np.ndarray) -> Chances:
        _, lists, length = prefix_RKL.shape
        watched = np.broadcast_to(CANDIDATES + np.arange(WATCHED), (lists, WATCHED))
        before_CN = np.concatenate([prefix_RKL[0, :, ::-1], watched], 1)[:, : self.places]
        known_CN = np.concatenate([np.zeros((lists, length)), np.ones((lists, WATCHED))], 1)[:, : self.places]
        told_CNF = np.zeros((lists, self.places, self.told_WF.shape[1]), np.float32)
        kept = before_CN.shape[1] - length
        told_CNF[:, length : length + kept] = self.told_WF[:kept]
        pad = self.places - before_CN.shape[1]
        before_CN = np.pad(before_CN, ((0, 0), (0, pad)), constant_values=-1)
        known_CN = np.pad(known_CN, ((0, 0), (0, pad))).astype(np.float32)
        # The request's features stand in the row of any candidate.
        asking_C = np.zeros(lists, np.int64)
        found = self.run([self.ids_IK, self.numeric_IN, asking_C, before_CN, known_CN, told_CNF])
        return Chances(*(value[None, :, :CANDIDATES] for value in found))

    def alone(self, row_R: np.ndarray) -> Chances:
        raise NotImplementedError


def requests(weights: Weights, sessions: Sessions, run: Any) -> list[tuple[Any, Any]]:
    """(scorer in torch, scorer by the graph) of DECISIONS requests."""
    rows, found = sessions.lists.rows, []
    for number in range(DECISIONS):
        here = slice(number * (CANDIDATES + WATCHED), (number + 1) * (CANDIDATES + WATCHED))
        one = rows.take(here)
        told_WF = sessions.feedback_RF[here][CANDIDATES:]
        numeric_IN = one.numeric_RN.astype(np.float32)
        with torch.inference_mode():
            query_BO, item_BO = weights.scorer.vectors(torch.from_numpy(one.ids_RK), torch.from_numpy(numeric_IN))
        true = torch.ones(1, WATCHED, dtype=torch.bool)
        watched = Watched(item_BO[None, CANDIDATES:], true, torch.from_numpy(told_WF)[None])
        network = NetworkScorer(weights.scorer, weights.maps, query_BO[:1], item_BO[None, :CANDIDATES], watched)
        graph = GraphScorer(run, one.ids_RK, numeric_IN, told_WF, weights.scorer.config.before)
        found.append((NumpyScorer(network), graph))
    return found


def main() -> None:
    torch.set_num_threads(1)
    weights = load(trained("plain", "full"))
    log = open_log(logs("plain"))
    problem = weights.problem
    wanted, tables = DECISIONS * (CANDIDATES + WATCHED), []
    for table in log.read(log.part("test"), problem.columns):
        tables.append(problem.encode(table))
        if sum(len(one.label_R3) for one in tables) >= wanted:
            break
    sessions = Sessions.join(tables)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "list_scorer.onnx"
        views = problem.views.schema
        graph = ListGraph(weights.scorer, weights.maps, len(views.single), len(views.numeric))
        save_onnx(graph, traced(graph), path)
        size = path.stat().st_size
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        run = load_graph("onnx", path, INPUTS, options)
    both = requests(weights, sessions, run)
    left_RM = np.ones((1, CANDIDATES), bool)
    rows, figures = [], {}
    for name, settings in (
        ("full beam", SearchSettings(method="beam")),
        ("adaptive, t = .95", SearchSettings()),
        ("adaptive, t = .9", SearchSettings(stability=0.9)),
        ("greedy", SearchSettings(method="greedy")),
    ):
        for kind, place in (("torch", 0), ("ONNX", 1)):
            seconds, evaluations = [], []
            for pair in both:
                begun = time.perf_counter()
                found = search(pair[place], left_RM, settings, PLACES)
                seconds.append(time.perf_counter() - begun)
                evaluations.append(int(found.evaluations_R[0]))
            low, middle, high = np.percentile(1000 * np.array(seconds), [10, 50, 90])
            figures[f"{name}, {kind}"] = {"ms": middle, "evaluations": float(np.mean(evaluations))}
            rows.append([name, kind, f"{middle:.2f} ({low:.2f} to {high:.2f})", f"{np.mean(evaluations):.0f}"])
    text = (
        f"{CANDIDATES} candidates, {WATCHED} watched, {PLACES} places ahead, one thread; ONNX file {size:,} bytes.\n\n"
    )
    text += markdown(["search", "scorer", "ms a decision: median (10% to 90%)", "evaluations"], rows)
    write_result("rerank-latency", {**figures, "onnx_bytes": size}, text)


if __name__ == "__main__":
    main()
