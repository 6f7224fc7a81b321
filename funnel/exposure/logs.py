"""Logs of the worlds of exposure shares and of one dose, for every command.

python -m jobs.make_data --world shares --out runs/shares                       # MDP2 Forest's simulation
python -m jobs.make_data --world shares --kind views --views FILE --out runs/views      # semi-synthetic, of views
python -m jobs.make_data --world dose --out runs/dose                           # VCNet's simulation
python -m jobs.make_data --world dose --kind ihdp --covariates ihdp.csv --out runs/ihdp
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import UserError
from data.filesystems import UNREADABLE, first_line
from data.schema import Schema
from data.treatment import TreatmentColumns
from data.write import PartFacts, PartWriter, new_log
from funnel.exposure.dose_worlds import DoseRows, ihdp, simulation
from funnel.exposure.reading import BEST
from funnel.exposure.semisynthetic import Recipe, Response, clusters, respond
from funnel.exposure.shares import ShareRows
from funnel.exposure.simulation import simulate
from funnel.exposure.watched import WatchedSettings, from_views

PARTS = (("train", 0.8), ("valid", 0.9), ("test", 1.0))
AVERAGE = "average"
"""Column of a dose log: the true mean outcome at the row's dose."""


@dataclass(frozen=True)
class ShareWorld:
    kind: Literal["simulation", "views"] = "simulation"
    """simulation: six categories, eight groups; views: shares, features and clusters made of a table of views, with a
    response around each cluster's optimum."""
    noise: float = 0.0
    """Standard deviation of the outcome's noise; views: as a share of the outcome's own."""
    views: Path | None = None
    """Parquet file with columns user_id, video_id, watch_ratio."""
    watched: WatchedSettings = field(default_factory=WatchedSettings)
    recipe: Recipe = field(default_factory=Recipe)


@dataclass(frozen=True)
class ShareLog:
    rows: int = 50_000
    """Users in all; 80 per cent are train, 10 valid, 10 test. (Of views, as many as there are.)"""
    seed: int = 0
    """The same settings and seed give the same log."""

    def __post_init__(self) -> None:
        if self.rows < 100:
            raise UserError(f"rows is {self.rows}, must be at least 100")
        if not 0 <= self.seed < 2**31:
            raise UserError(f"seed is {self.seed}, must be from 0 to below 2**31")


def of_views(path: Path, settings: ShareWorld, seed: int) -> tuple[ShareRows, Response]:
    """The semi-synthetic rows of a table of views, and their true response; clusters are of users."""
    try:
        table = pq.read_table(path, columns=["user_id", "video_id", "watch_ratio"])
    except (*UNREADABLE, OSError, KeyError) as error:
        raise UserError(f"{path}: want Parquet with user_id, video_id, watch_ratio ({first_line(error)})") from None
    user_V, item_V, amount_V = (table[name].to_numpy() for name in table.schema.names)
    rows = from_views(user_V, item_V, amount_V, settings.watched, seed)
    users, user_R = np.unique(rows.features_RF, axis=0, return_inverse=True)
    cluster_R = clusters(users, settings.recipe, seed)[user_R.ravel()]
    return respond(rows, cluster_R, settings.recipe, seed, settings.noise)


def by_user(features_RF: np.ndarray, seed: int) -> np.ndarray:
    """An order of rows that draws users (rows of equal features) at random and keeps each one's together, so that parts
    of a log hold different users."""
    users, user_R = np.unique(features_RF, axis=0, return_inverse=True)
    return np.argsort(np.random.default_rng([seed, 5]).permutation(len(users))[user_R.ravel()], kind="stable")


class ShareLogs:
    """What jobs.make_data --world shares writes (funnel/simulator.py: Logging)."""

    settings_type = ShareWorld
    log_settings_type = ShareLog
    presets: Mapping[str, str] = {}
    leads_to: ClassVar[tuple[str, ...]] = ("fit", "--system", "exposure")

    @classmethod
    def write(
        cls,
        settings: ShareWorld,
        asked: ShareLog,
        policy: Mapping[str, Any],
        where: str,
        out: str | Path,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> dict[str, PartFacts]:
        """The log of one world. Raises UserError for views that are not there, or if `out` is not empty."""
        if settings.kind == "views":
            if settings.views is None:
                raise UserError("--views FILE is needed for --kind views: Parquet of user_id, video_id, watch_ratio")
            rows, _ = of_views(settings.views, settings, asked.seed)
            rows = rows.take(by_user(rows.features_RF, asked.seed))
        else:
            rows = simulate(asked.rows, asked.seed, settings.noise)
        columns = {
            **dict(zip(rows.feature_names, rows.features_RF.T, strict=True)),
            **dict(zip(rows.categories, rows.shares_RK.T, strict=True)),
            "value": rows.outcome_R,
        }
        if rows.best_RK is not None:
            columns |= {f"{BEST}{name}": best_R for name, best_R in zip(rows.categories, rows.best_RK.T, strict=True)}
        schema = Schema(
            name="shares of exposure",
            categorical=(),
            numeric=rows.feature_names,
            labels={},
            treatment=TreatmentColumns(vector=rows.categories),
            outcome={"value": "value"},
        )
        return write_parts(out, schema, pa.table(columns), progress)


@dataclass(frozen=True)
class DoseWorld:
    kind: Literal["simulation", "ihdp"] = "simulation"
    """simulation: six features, all users one population; ihdp: the covariates of 747 children."""
    covariates: Path | None = None
    """ihdp.csv."""
    split: int = 0
    """ihdp: which split into 471 to learn from and 276 to judge by."""


@dataclass(frozen=True)
class DoseLog:
    rows: int = 500
    """Rows to learn from. (Of ihdp always 471.)"""
    repeat: int = 1
    """How often the rows to learn from stand in the log. An epoch of a few hundred rows is one step; of twenty times
    as many, twenty, with as many fewer validations and checkpoints."""
    test_rows: int = 200
    """Rows of each of valid and test, drawn beside them. (Of ihdp, 276 judge and select.)"""
    seed: int = 0
    """The same settings and seed give the same log."""

    def __post_init__(self) -> None:
        if self.repeat < 1:
            raise UserError(f"repeat is {self.repeat}, must be at least 1")
        for name in ("rows", "test_rows"):
            if getattr(self, name) < 10:
                raise UserError(f"{name} is {getattr(self, name)}, must be at least 10")
        if not 0 <= self.seed < 2**31:
            raise UserError(f"seed is {self.seed}, must be from 0 to below 2**31")


class DoseLogs:
    """What jobs.make_data --world dose writes (funnel/simulator.py: Logging)."""

    settings_type = DoseWorld
    log_settings_type = DoseLog
    presets: Mapping[str, str] = {}
    leads_to: ClassVar[tuple[str, ...]] = ("train", "--problem", "vcnet")

    @classmethod
    def write(
        cls,
        settings: DoseWorld,
        asked: DoseLog,
        policy: Mapping[str, Any],
        where: str,
        out: str | Path,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> dict[str, PartFacts]:
        """The log of one world. IHDP has no rows to spare: its valid part is its train part again, so that the best
        epoch is chosen by the fit to rows that are learnt from and the judging rows choose nothing."""
        if settings.kind == "ihdp":
            if settings.covariates is None:
                raise UserError("--covariates FILE is needed for --kind ihdp: ihdp.csv")
            train, test = ihdp(settings.covariates, asked.seed, settings.split)
            parts = {"train": train, "valid": train, "test": test}
        else:
            parts = {
                name: simulation(asked.rows if name == "train" else asked.test_rows, asked.seed, number)
                for number, name in enumerate(("train", "valid", "test"))
            }
        names = tuple(f"x{f + 1}" for f in range(parts["train"].features_RF.shape[1]))
        schema = Schema(
            name="responses to a dose",
            categorical=(),
            numeric=names,
            labels={},
            treatment=TreatmentColumns(vector=("dose",)),
            outcome={"response": "response"},
        )
        facts = {}
        with new_log(out, schema) as directory:
            for name, rows in parts.items():
                times = asked.repeat if name == "train" else 1
                with PartWriter(directory, name, schema) as writer:
                    for _ in range(times):
                        writer.write(pa.table(dose_columns(rows, names)))
                progress(times * len(rows))
                facts[name] = PartFacts(rows=times * len(rows))
        return facts


def dose_columns(rows: DoseRows, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    return {
        **dict(zip(names, rows.features_RF.T, strict=True)),
        "dose": rows.dose_R,
        "response": rows.outcome_R,
        AVERAGE: rows.average_R,
    }


def write_parts(
    out: str | Path, schema: Schema, table: pa.Table, progress: Callable[[int], None] = lambda rows: None
) -> dict[str, PartFacts]:
    """Rows in their order: the first 80 per cent are train, then 10 valid and 10 test."""
    begin, facts = 0, {}
    with new_log(out, schema) as directory:
        for name, share in PARTS:
            end = round(share * table.num_rows)
            with PartWriter(directory, name, schema) as writer:
                writer.write(table.slice(begin, end - begin))
            facts[name] = PartFacts(rows=end - begin)
            progress(end - begin)
            begin = end
    return facts
