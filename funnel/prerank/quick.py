"""Trainings of a second: a pre-ranker on requests in memory, for whoever needs hundreds of them.

The same samples, network and losses as the problem's (problem.py), without files, checkpoints or other workers. Shapes:
L requests, D drawn rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from data.errors import UserError
from data.log import Log, Part
from funnel.lists.units import Lists
from funnel.prerank.counts import ranks
from funnel.prerank.problem import PreRank
from funnel.prerank.samples import draw_places
from funnel.prerank.settings import PreRankSettings
from funnel.prerank.units import PreRankBatch, PreRankUnits

ALL = 1 << 30


@dataclass
class Quick:
    """Requests in memory, by part, with how early each row would be drawn of its stage."""

    problem: PreRank
    train_units: PreRankUnits
    place_R: np.ndarray
    """Of the training rows: place in the draw of their stage."""
    judged: dict[str, PreRankBatch]
    """All candidates of the requests that are tuned on ("tune") and of those that are not ("valid", "test")."""
    most: dict[str, int]
    """Ranked and cut rows of the request that has most of them."""

    @classmethod
    def open(
        cls, log: Log, settings: PreRankSettings, requests: int, judged: int, seed: int, searching: bool
    ) -> "Quick":
        """Raises UserError for a log that no pre-ranker could learn from."""
        parts = {name: log.part(name) for name in ("train", "valid", "test")}
        # Everything that is there is drawn; a training takes the first of each stage.
        whole = replace(settings, ranked=ALL, cut=ALL)
        facts = PreRank.prepare(whole, log, parts)
        problem = PreRank(whole, log.schema, facts, {})
        units = first_units(problem, log, parts["train"], requests)
        place_R, most = places(problem, log, parts["train"], units)
        valid = first_units(problem, log, parts["valid"], judged)
        order_L = np.random.default_rng([seed, 77]).permutation(len(valid))
        half = len(order_L) // 2 if searching else len(order_L)
        if half < 1:
            raise UserError("the valid part has too few requests to tune on")
        found = {"tune": valid.take(np.sort(order_L[:half])), "valid": valid.take(np.sort(order_L[half:] if searching
                 else order_L))}  # fmt: skip
        found["test"] = first_units(problem, log, parts["test"], judged)
        return cls(problem, units, place_R, {name: some.batch() for name, some in found.items()}, most)

    def counts(self) -> dict[str, int]:
        return {"train": len(self.train_units), **{name: len(batch) for name, batch in self.judged.items()}}

    def train(
        self, chosen: Mapping[str, Any], steps: int, batch: int, rate: float, seed: int, part: str
    ) -> tuple[float, float]:
        """(ASPH@k on the part, rows a request that were learnt from) of a training from the seed."""
        settings = replace(self.problem.settings, **chosen)
        units, rows = self.drawn(settings)
        problem = PreRank(settings, self.problem.schema, self.problem.facts, {})
        network = problem.network(seed=seed).train()
        optimizer = torch.optim.Adam(network.parameters(), lr=rate)
        rng, order, step = np.random.default_rng(seed), np.empty(0, np.int64), 0
        while step < steps:
            if len(order) < batch:
                order = np.concatenate([order, rng.permutation(len(units))])
            now, order = order[:batch], order[batch:]
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 - step / steps)
            some = units.take(now).batch()
            outputs = network(some)
            loss = problem.loss(outputs, some, problem.totals(outputs, some), step)["loss"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            for ranker in network.rankers:
                touched = ranker.table.touched
                if touched is not None:
                    ranker.table.weight.index_add_(0, touched.ids_U, touched.gradient(), alpha=-10 * rate)
            step += 1
        return self.asph(network.eval(), self.judged[part]), rows

    def drawn(self, settings: PreRankSettings) -> tuple[PreRankUnits, float]:
        """The training requests with the rows of these quotas alone, and how many a request those are."""
        lists = self.train_units.lists
        label = lists.rows.labels
        kept_R = label["exposed"] > 0.5
        for name in ("ranked", "cut"):
            kept_R |= (label[name] > 0.5) & (label["drawn"] > 0.5) & (self.place_R < getattr(settings, name))
        before_R1 = np.concatenate([[0], np.cumsum(kept_R)])
        kept = Lists(lists.rows.take(np.flatnonzero(kept_R)), before_R1[lists.begin_L1])
        return PreRankUnits(kept), float(kept_R.sum()) / len(lists)

    @torch.inference_mode()
    def asph(self, network: Any, batch: PreRankBatch) -> float:
        """ASPH@k of these requests; 0 where nothing was bought elsewhere."""
        score_B, list_B = network(batch)["score"].double().numpy(), batch.list_B.numpy()
        mark = {name: batch.rows.labels[name].numpy() > 0.5 for name in ("candidate", "elsewhere_purchase")}
        place_B = np.arange(len(list_B)) - batch.begin_L1[:-1].numpy()[list_B]
        score_LC = np.full((len(batch), int(place_B.max()) + 1), -np.inf)
        score_LC[list_B[mark["candidate"]], place_B[mark["candidate"]]] = score_B[mark["candidate"]]
        at = (list_B[mark["elsewhere_purchase"]], place_B[mark["elsewhere_purchase"]])
        found_T = ranks(score_LC)[at] < self.problem.settings.k
        targets_L = np.bincount(at[0], minlength=len(batch))
        hits_L = np.bincount(at[0], found_T, len(batch))
        return float((hits_L[targets_L > 0] / targets_L[targets_L > 0]).mean()) if targets_L.any() else 0.0


def first_units(problem: PreRank, log: Log, part: Part, requests: int) -> PreRankUnits:
    """The first requests of a part."""
    found: list[PreRankUnits] = []
    for table in log.read(part, list(problem.columns)):
        found.append(problem.encode(table))
        if sum(map(len, found)) >= requests:
            break
    return PreRankUnits.join(found).take(slice(0, requests))


def places(problem: PreRank, log: Log, part: Part, units: PreRankUnits) -> tuple[np.ndarray, dict[str, int]]:
    """(place_R of each row in the draw of its stage, the most rows that a request has of each stage)."""
    rows = len(units.lists.rows)
    tables, held = [], 0
    for table in log.read(part, list(problem.columns)):
        tables.append(table)
        held += table.num_rows
        if held >= rows:
            break
    place_R = draw_places(problem.settings, pa.concat_tables(tables).slice(0, rows), problem.request)
    label = units.lists.rows.labels
    most = {}
    for name in ("ranked", "cut"):
        wanted_R = (label[name] > 0.5) & (label["drawn"] > 0.5)
        most[name] = int(np.add.reduceat(wanted_R.astype(np.int64), units.lists.begin_L1[:-1]).max(initial=0))
    return place_R, most
