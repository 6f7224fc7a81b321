"""A pre-ranker as files for serving (funnel/tools.py: Exporting): the user tower, the items' vectors and index, and the
weights for the platform's stage; each read back and compared with the network's own scores.

Vectors are of the items that the part has, with their features as the part's last row of each says. Shapes: R rows of L
requests, I items, O width.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from data.encode import one_chunk
from data.errors import UserError
from data.fields import CategoricalField
from data.hashing import hash_array
from data.log import Log
from funnel.graph_files import load, save_onnx, save_program, traced
from funnel.prerank.index import ITEMS, VECTORS, TopK
from funnel.prerank.network import PreRankNetwork
from funnel.prerank.problem import PreRank
from funnel.prerank.serving import OUTPUT, UserTower, vectors
from funnel.prerank.units import PreRankBatch, PreRankUnits
from funnel.prerank.weights_file import WEIGHTS, load_weights, save_weights
from funnel.problem import Given
from funnel.tools import Served

NAMES = {"pt2": "user_tower.pt2", "onnx": "user_tower.onnx", "npz": WEIGHTS, "index": VECTORS}
BATCHES = (1, 2, 1000)  # requests; then whatever is left in pieces of the last


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
    """Raises UserError: a policy, a point-wise model (its score is no inner product), no such part, a file that differs
    from the network by more than the tolerance on the requests of the part's first rows."""
    problem, network = run.problem, run.network
    assert isinstance(problem, PreRank)
    assert isinstance(network, PreRankNetwork)
    if policy is not None:
        raise UserError("a pre-ranker's score is no input of a policy; leave --policy out")
    if network.pointwise:
        raise UserError("a point-wise pre-ranker's score is no inner product: there is no index of it to export")
    log = replace(log, schema=problem.schema)
    units, item_R, item_IO = items_of(problem, network, log, part, rows)
    batch = units.batch()
    tower = UserTower(network.rankers[0], problem.schema).eval().requires_grad_(False)
    wanted_LO = np.concatenate([vectors(network, piece)[0].numpy() for piece in pieces(units)])
    program = traced(tower)
    differences: dict[str, dict[str, float]] = {}
    for kind in formats:
        path = directory / NAMES[kind]
        if kind == "pt2":
            save_program(program, path)
        else:
            save_onnx(tower, program, path)
        graph = load(kind, path, tower.inputs)
        found = [graph(tower.arguments(piece))[0] for piece in pieces(units)]
        differences[kind] = {OUTPUT: largest(np.concatenate(found), wanted_LO)}
        refuse(differences[kind], path.name, tolerance)
    item_IO.save(directory)
    index = TopK.load(directory)
    differences["index"] = {OUTPUT: check_index(network, batch, item_R, index, wanted_LO)}
    refuse(differences["index"], f"{VECTORS} (scores)", tolerance * max(1.0, float(network.rankers[0].log_scale.exp())))
    save_weights(problem, network, directory / WEIGHTS)
    again = load_weights(directory / WEIGHTS)[1]
    differences["npz"] = {
        OUTPUT: largest(np.concatenate([vectors(again, piece)[0].numpy() for piece in pieces(units)]), wanted_LO)
    }
    refuse(differences["npz"], WEIGHTS, tolerance)
    scale = float(network.rankers[0].log_scale.exp())
    return {
        "model": {"log": problem.schema.name, "loss": problem.settings.loss, "scale": scale},
        "inputs": describe(problem, tower),
        "outputs": [{"name": OUTPUT, "is": "unit vector times the learnt scale: query . item is the score"}],
        "items": {"count": len(index), "width": index.vector_IO.shape[1], "ids": ITEMS, "vectors": VECTORS},
        "check": {"part": part, "rows": len(batch.rows), "requests": len(batch), "tolerance": tolerance,
                  "largest_difference": differences},
    }  # fmt: skip


def items_of(
    problem: PreRank, network: PreRankNetwork, log: Log, part: str, rows: int
) -> tuple[PreRankUnits, np.ndarray, TopK]:
    """(the requests of the part's first rows, the place of each of their rows' item; -1 where a later row of the part
    says something else of the item, index of all items of the part)."""
    kept: list[PreRankUnits] = []
    kept_hashes: list[np.ndarray] = []
    hashes, ids, found = [], [], []
    for table in log.read(log.part(part), list(dict.fromkeys([*problem.columns, problem.settings.item_id]))):
        units = problem.encode(table)
        item_R = one_chunk(table, problem.settings.item_id)
        hash_R = hash_array(item_R)
        row_I = last_of_each(hash_R)
        vector_RO = vectors(network.eval(), units.batch())[1].numpy()
        hashes.append(hash_R[row_I])
        ids.append(item_R.take(pa.array(row_I)))
        found.append(vector_RO[row_I])
        held = sum(map(len, kept_hashes))
        if held < rows:
            kept.append(units.take(slice(0, max(int(np.searchsorted(units.lists.begin_L1, rows - held)), 1))))
            kept_hashes.append(hash_R[: len(kept[-1].lists.rows)])
    hash_A, vector_AO = np.concatenate(hashes), np.concatenate(found)
    last_I = last_of_each(hash_A)
    index = TopK(pa.concat_arrays(ids).take(pa.array(last_I)), np.ascontiguousarray(vector_AO[last_I]))
    units = PreRankUnits.join(kept)
    order_I = np.argsort(hash_A[last_I])
    place_R = order_I[np.searchsorted(hash_A[last_I], np.concatenate(kept_hashes), sorter=order_I)]
    own_RO = np.concatenate([vectors(network, piece)[1].numpy() for piece in pieces(units)])
    same_R = np.abs(index.vector_IO[place_R] - own_RO).max(1, initial=0.0) < 1e-4
    return units, np.where(same_R, place_R, -1), index


def last_of_each(hash_R: np.ndarray) -> np.ndarray:
    """int64: where each value stands last, rising. numpy finds the first ones, so from behind."""
    _, back_I = np.unique(hash_R[::-1], return_index=True)
    return np.sort(len(hash_R) - 1 - back_I)


def pieces(units: PreRankUnits) -> list[PreRankBatch]:
    """Batches of 1, 2 and 1,000 requests."""
    ends, sizes = [0], iter(BATCHES)
    while ends[-1] < len(units):
        ends.append(min(ends[-1] + next(sizes, BATCHES[-1]), len(units)))
    return [units.take(slice(a, b)).batch() for a, b in pairwise(ends)]


def check_index(
    network: PreRankNetwork, batch: PreRankBatch, place_R: np.ndarray, index: TopK, query_LO: np.ndarray
) -> float:
    """The largest difference of query . vector from the network's score, over the rows whose item is as the index has
    it; and the index's own order against a plain sort of all products, which must be the same."""
    with torch.inference_mode():
        score_R = network.eval()(batch)["score"].numpy()
    list_R, known_R = batch.list_B.numpy(), place_R >= 0
    if not known_R.any():
        raise UserError("no item of these rows is as the part's last row of it says: the index cannot be checked")
    product_R = (query_LO[list_R[known_R]] * index.vector_IO[place_R[known_R]]).sum(1)
    some_QO, k = query_LO[:32], min(100, len(index))
    places, scores = index.top(some_QO, k)
    whole_QI = some_QO @ index.vector_IO.T
    sorted_Qk = -np.sort(-whole_QI, axis=1)[:, :k]
    apart = largest(np.take_along_axis(whole_QI, places, 1), sorted_Qk)
    return max(largest(product_R, score_R[known_R]), apart, largest(scores, sorted_Qk))


def largest(found: np.ndarray, wanted: np.ndarray) -> float:
    # A NaN on either side must not pass for equal.
    return float(np.nan_to_num(np.abs(found.astype(np.float64) - wanted), nan=np.inf).max(initial=0.0))


def refuse(differences: dict[str, float], name: str, tolerance: float) -> None:
    worst = max(differences.values())
    if worst > tolerance:
        raise UserError(
            f"{name}: differs from the network by {worst:.3g}, more than {tolerance:g}; nothing was written"
        )


def describe(problem: PreRank, tower: UserTower) -> list[dict[str, Any]]:
    """The graph's inputs in order, each with the columns that fill it. How a value becomes an id: docs/serve.md."""
    schema, offsets = problem.schema, problem.encoder.offsets
    offset = {field.name: offsets[k] for k, field in enumerate(schema.categorical)}
    single = [schema.single[k] for k in tower.single]
    found: dict[str, dict[str, Any]] = {
        "ids": {"dtype": "int64", "columns": [column(field, offset[field.name]) for field in single]},
        "numeric": {"dtype": "float32", "columns": [schema.numeric[n] for n in tower.numerics]},
    }
    for field in schema.many:
        found[f"{field.name}.ids"] = {"dtype": "int64", **column(field, offset[field.name]), "of": "all rows' values"}
        found[f"{field.name}.begins"] = {"dtype": "int64", "of": "where each row's values begin"}
    return [{"name": name, **found[name]} for name in tower.inputs]


def column(field: CategoricalField, offset: int) -> dict[str, Any]:
    values = {"vocabulary": list(field.vocabulary)} if field.kind == "vocabulary" else {"size": field.size}
    return {"column": field.name, "kind": field.kind, "offset": offset, **values}
