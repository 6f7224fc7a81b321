"""Which action for whom: a policy learnt from a Parquet file of logged actions, and judged on rounds held out.

    python -m jobs.evolve --objective off_policy --data log.parquet --features age town --out runs/policy
    python -m jobs.evolve --objective off_policy --out runs/mails --data mails.parquet --action segment \\
        --propensity 0.333 --reward spend --features recency history channel --estimator dr --baseline best_constant

A row is a round: the action taken (numbers or text), the logging policy's probability of it, what came of it, and
features of the context, which are named: what was not known when the action was taken must not be among them, and only
you know which columns those are. Numbers are standardised, text and yes/no become indicators. Rounds count as
independent unless --cluster names the column of whose they are. Of the rounds, drawn by --seed, a third is learnt from,
a sixth says how far to follow what was learnt (funnel/off_policy/stopping.py), half judges. OUT/policy.json says what
the policy does with a context, OUT/summary.json what it is worth (off_policy.*: funnel/off_policy/evaluation.py).
"""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.errors import UserError
from data.filesystems import UNREADABLE
from funnel.figures.intervals import effective_size
from funnel.off_policy.evaluation import compare_policies, policy_value
from funnel.off_policy.objective import LoggedActions, OffPolicy, OffPolicySettings, weights
from funnel.off_policy.results import results
from funnel.off_policy.stopping import Settled, settle, warning, with_intercept
from funnel.panels import Panel, Record, Table
from funnel.spaces import Presets, Spaces
from funnel.tunable import HeldOut

MOST_ACTIONS, MOST_VALUES = 1000, 50
FEWEST_ROUNDS = 10
AIMS = ("value", "effective_size")
"""Figures of `measure`."""
FIT, TEST, VALID, STOP = 0, 1, 2, 3
KEPT = {
    "logging": "the log's own shares of actions",
    "best_constant": "the best constant action",
    "uniform": "the uniform policy",
}


@dataclass(frozen=True)
class FileSettings(OffPolicySettings):
    """Where the log is, and the settings of the objective."""

    data: Path | None = None
    """Parquet file of logged rounds."""
    action: str = "action"
    """Column of the action taken."""
    propensity: str = "propensity"
    """Column of the logging policy's probability of it; a number where it was the same in every round."""
    reward: str = "reward"
    """Column of what the action brought in."""
    features: tuple[str, ...] = ()
    """Columns of the context, known before the action was taken."""
    cluster: str = ""
    """Column of whose round it is (a user, a session), where actions were drawn or rewards hang together by it: rounds
    of one stay on one side of the split and intervals are over these. Without it every round counts as independent."""


class OffPolicyTuning:
    """funnel/tunable.py: Tunable."""

    name: ClassVar[str] = "off_policy"
    settings_type: ClassVar[type] = FileSettings
    presets: ClassVar[Presets] = {}
    spaces: ClassVar[Spaces] = {}
    goal: ClassVar[str] = "value"
    bound: ClassVar[str] = "a bound on the rounds learnt from, made too high by the search"

    def __init__(self, settings: FileSettings, table: pa.Table, part_R: np.ndarray) -> None:
        """`part_R`: of each round whether it is learnt from (FIT), tells how far to follow that (STOP), is held out
        (TEST) or tells trials apart (VALID)."""
        assert settings.data is not None
        self.settings, path = settings, settings.data
        self.features, rows_FR, self.scales = context(table, settings, path, part_R == FIT)
        self.actions, action_R = encode_actions(table[settings.action], f"{path}: column {settings.action!r}")
        try:
            log = LoggedActions(
                context_FR=rows_FR,
                action_R=action_R,
                propensity_R=propensities(table, settings, path),
                reward_R=numbers(table[settings.reward], f"{path}: column {settings.reward!r}"),
                actions_EA=np.eye(len(self.actions), dtype=np.float32),
                cluster_R=clusters(table, settings, path),
            )
        except UserError as error:
            raise error if str(path) in str(error) else UserError(f"{path}: {error}") from None
        self.rounds = len(part_R)
        own = {field.name: getattr(settings, field.name) for field in dataclasses.fields(OffPolicySettings)}
        self.objective = OffPolicy(OffPolicySettings(**own), log.part(part_R == FIT))
        self.stop, self.settled = log.part(part_R == STOP), dict[bytes, Settled]()
        self.held_out = {"test": log.part(part_R == TEST)}
        if (part_R == VALID).any():
            self.held_out["valid"] = log.part(part_R == VALID)

    @classmethod
    def open(cls, settings: FileSettings, seed: int, searching: bool = False) -> Self:
        if settings.data is None:
            raise UserError("--data FILE is needed for off_policy: the Parquet file of logged rounds")
        table = read_table(settings.data, settings)
        unit_R = clusters(table, settings, settings.data)
        units = int(unit_R.max()) + 1 if len(unit_R) else table.num_rows
        if units < FEWEST_ROUNDS * (1 + searching):
            what = f"values of --cluster {settings.cluster}" if settings.cluster else "rounds"
            raise UserError(f"{settings.data}: {units} {what}, half of them to judge by: too few to learn from")
        part_U = split(units, seed, searching)
        return cls(settings, table, part_U[unit_R] if len(unit_R) else part_U)

    def facts(self) -> dict[str, Any]:
        data: dict[str, Any] = {"location": str(self.settings.data), "rows": self.rounds}
        if self.settings.cluster:
            data["clusters"] = sum(len(log.summed(log.reward_R)) for log in self.parts())
        return {"data": data, "actions": self.actions, "features": self.features}

    def describe(self) -> str:
        log, warned = self.objective.log, warning(self.objective)
        return (
            f"a {self.settings.policy} policy of {len(self.actions)} actions by {len(self.features) - 1} features for "
            f"its value by {self.settings.estimator}: {len(log.action_R):,} of {self.rounds:,} rounds "
            f"({log.rewarded:,} rewarded) to learn from" + (f"; {warned}" if warned else "")
        )

    def parts(self) -> list[LoggedActions]:
        return [self.objective.log, self.stop, *self.held_out.values()]

    def settle(self, theta_D: np.ndarray) -> Settled:
        """The theta that is used in place of the learnt one (funnel/off_policy/stopping.py)."""
        key = theta_D.tobytes()
        if key not in self.settled:
            self.settled = {key: settle(self.objective, theta_D, self.stop)}
        return self.settled[key]

    def policy(self, theta_D: np.ndarray) -> dict[str, Any]:
        """score(action) = sum over features of weight * (value - mean)/scale; "1" is the intercept, with the anchor."""
        settings, settled = self.settings, self.settle(theta_D)
        learnt_FA = settled.theta_D.reshape(len(self.features), len(self.actions))
        weights_FA = with_intercept(learnt_FA, self.objective.anchor_A)
        return {
            "policy": settings.policy,
            "temperature": settings.temperature,
            "epsilon": settings.greedy_epsilon,
            "actions": self.actions,
            "features": self.features,
            "moments": [{"mean": mean, "scale": scale} for mean, scale in self.scales],
            "weights": [[float(weight) for weight in row] for row in weights_FA],
            "anchor": settings.anchor,
            "share_of_learnt": settled.share,
        }

    def measure(self, theta_D: np.ndarray) -> dict[str, float]:
        """The policy's value by the settings' estimator, and how many rounds that rests on."""
        valid, used_D = self.held_out["valid"], self.settle(theta_D).theta_D
        weight_R = weights(self.objective.probabilities(used_D, valid), valid)
        value = policy_value(self.objective, used_D, valid)
        return {"value": value, "effective_size": effective_size(valid.summed(weight_R))}

    @classmethod
    def smaller_is_better(cls, figure: str) -> bool:
        if figure not in AIMS:
            raise UserError(f"no figure {figure!r} of off_policy: want one of {', '.join(AIMS)}")
        return False

    def judge(self, theta_D: np.ndarray, resamples: int, seed: int, part: HeldOut = "test") -> dict[str, Any]:
        """The learnt policy against the best constant and the logging policy. Nothing is resampled."""
        settled, warned = self.settle(theta_D), warning(self.objective)
        figures = compare_policies(self.objective, settled.theta_D, self.held_out[part])
        constant = figures["off_policy.best_constant_action"]
        action = f"always {self.actions[constant]}"
        told = re.sub(rf"always action {constant}\b", lambda match: action, figures["message"])
        if not settled.share:
            told = f"{settled.reason[0].upper()}{settled.reason[1:]}: keep {KEPT[self.settings.anchor]}."
        if warned:
            told += f" {warned[0].upper()}{warned[1:]}."
        return figures | {
            "off_policy.best_constant_action": self.actions[constant],
            "off_policy.share_of_learnt": settled.share,
            "off_policy.stopping": settled.reason,
            "off_policy.significant": figures["off_policy.significant"] and settled.share > 0,
            "message": told,
        }

    @classmethod
    def results(cls, summary: Mapping[str, Any]) -> Table | None:
        return results(summary)

    @classmethod
    def panels(cls, record: Record) -> list[Panel]:
        from funnel.off_policy.panels import panels

        return panels(record)


def split(units: int, seed: int, searching: bool) -> np.ndarray:
    """The part of each unit (rounds, or clusters of them): half judges, a third of the others stops, (U,)."""
    order_U, tuned = np.random.default_rng(seed).permutation(units), (units + 1) // 2
    part_U = np.where(order_U < tuned, FIT, TEST)
    fit = tuned // 2 if searching else tuned
    part_U[(order_U >= fit) & (order_U < tuned)] = VALID
    part_U[(order_U >= fit - fit // 3) & (order_U < fit)] = STOP
    return part_U


def clusters(table: pa.Table, settings: FileSettings, path: Path) -> np.ndarray:
    """Of each round the number of its cluster, from 0; empty where every round is independent."""
    if not settings.cluster:
        return np.empty(0, np.int64)
    column, where = table[settings.cluster], f"{path}: column {settings.cluster!r}"
    refuse_nulls(column, where)
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
            or pa.types.is_dictionary(kind)):  # fmt: skip
        raise UserError(f"{where} is {kind}: whole numbers or text are wanted (--cluster)")
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
    return np.asarray(pc.dictionary_encode(column.combine_chunks()).indices, np.int64)


def read_table(path: Path, settings: FileSettings) -> pa.Table:
    """The named columns. Raises UserError, with the file and the column, for what is not there or named twice."""
    if not path.is_file():
        raise UserError(f"--data {path}: no such file")
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except UNREADABLE as error:
        raise UserError(f"{path}: not readable as Parquet ({str(error).splitlines()[0]})") from None
    names = file.schema_arrow.names
    if not settings.features:
        raise UserError(
            "--features A B is needed for off_policy: the columns known before the action was taken; "
            f"{path} has {', '.join(names)}"
        )
    given = {"action": settings.action, "reward": settings.reward}
    if not is_number(settings.propensity):
        given["propensity"] = settings.propensity
    if settings.cluster:
        given["cluster"] = settings.cluster
    wanted = [*given.items(), *(("features", each) for each in settings.features)]
    for name, column in wanted:
        if column not in names:
            raise UserError(f"{path} has no column {column!r} (--{name}): it has {', '.join(names)}")
        if names.count(column) > 1:
            raise UserError(
                f"{path} has {names.count(column)} columns named {column!r} (--{name}): which one is meant?"
            )
    for column in settings.features:
        if column in given.values():
            raise UserError(f"--features {column}: {column!r} is what is to be chosen or predicted, not a feature")
        if settings.features.count(column) > 1:
            raise UserError(f"--features {column}: named twice")
    try:
        return file.read(list(dict.fromkeys(column for _, column in wanted)))
    except UNREADABLE as error:
        raise UserError(f"{path}: its data are corrupt ({str(error).splitlines()[0]})") from None


def context(
    table: pa.Table, settings: FileSettings, path: Path, tune_R: np.ndarray
) -> tuple[list[str], np.ndarray, list[tuple[float, float]]]:
    """Names, rows (F, R) float32 and (mean, scale) of the features, an intercept first."""
    names, rows, scales = ["1"], [np.ones(table.num_rows)], [(0.0, 1.0)]
    for name in settings.features:
        column, where = table[name], f"{path}: column {name!r}"
        kind = column.type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            value_R = numbers(column, where)
            mean, scale = float(value_R[tune_R].mean()), float(value_R[tune_R].std()) or 1.0
            names, rows, scales = [*names, name], [*rows, (value_R - mean) / scale], [*scales, (mean, scale)]
            continue
        values, index_R = encode_actions(column, where, MOST_VALUES, "values of a feature")
        for place, value in enumerate(values[1:], start=1):
            names, scales = [*names, f"{name}={value}"], [*scales, (0.0, 1.0)]
            rows.append((index_R == place).astype(np.float64))
    return names, np.stack(rows).astype(np.float32), scales


def encode_actions(
    column: pa.ChunkedArray, where: str, most: int = MOST_ACTIONS, what: str = "actions"
) -> tuple[list[Any], np.ndarray]:
    """The distinct values in order and each row's place among them."""
    refuse_nulls(column, where)
    kind = column.type
    plain = pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (plain or pa.types.is_boolean(kind) or pa.types.is_dictionary(kind)):
        raise UserError(f"{where} is {kind}: whole numbers, text or yes/no are wanted")
    values = sorted(pc.unique(column).to_pylist())
    if not 2 <= len(values) <= most:
        raise UserError(f"{where} has {len(values)} distinct values: 2 to {most} {what} are wanted")
    places = {value: place for place, value in enumerate(values)}
    return values, np.asarray([places[value] for value in column.to_pylist()], np.int64)


def propensities(table: pa.Table, settings: FileSettings, path: Path) -> np.ndarray:
    if is_number(settings.propensity):
        return np.full(table.num_rows, float(settings.propensity))
    return numbers(table[settings.propensity], f"{path}: column {settings.propensity!r}")


def numbers(column: pa.ChunkedArray, where: str) -> np.ndarray:
    """(R,) float64, finite."""
    refuse_nulls(column, where)
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise UserError(f"{where} is {kind}: numbers are wanted")
    value_R = column.to_numpy() * 1.0 if pa.types.is_boolean(kind) else column.cast(pa.float64(), safe=False).to_numpy()
    bad_R = ~np.isfinite(value_R)
    if bad_R.any():
        raise UserError(f"{where}, row {int(np.argmax(bad_R))}: {value_R[bad_R][0]} is not a finite number")
    return np.asarray(value_R, np.float64)


def refuse_nulls(column: pa.ChunkedArray, where: str) -> None:
    if column.null_count:
        row = int(np.argmax(pc.is_null(column).to_numpy(zero_copy_only=False)))
        raise UserError(f"{where}, row {row}: empty ({column.null_count} such rows)")


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
