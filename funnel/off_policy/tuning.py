"""Which action for whom: a policy learnt from a Parquet file of logged actions, and judged on rounds held out.

    python -m jobs.evolve --objective off_policy --set data=log.parquet features=age,town --out runs/policy
    python -m jobs.evolve --objective off_policy --out runs/mails --set data=mails.parquet action=segment \\
        propensity=0.333 reward=spend features=recency,history,channel estimator=dr baseline=best_constant

A row is a round: the action taken (numbers or text), the logging policy's probability of it, what came of it, and
features of the context, which are named: what was not known when the action was taken must not be among them, and only
you know which columns those are. Numbers are standardised, text and yes/no become indicators; half of the rounds,
drawn by --seed, are learnt from. OUT/policy.json says what the policy does with a context, OUT/summary.json what it is
worth (off_policy.*: funnel/off_policy/evaluation.py).
"""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from funnel.off_policy.evaluation import compare_policies
from funnel.off_policy.objective import LoggedActions, OffPolicy, OffPolicySettings
from jobs.command.settings import read_settings

MOST_ACTIONS, MOST_VALUES = 1000, 50
FEWEST_ROUNDS = 10


@dataclass
class FileSettings(OffPolicySettings):
    """What `--set` takes for off_policy: where the log is, and the settings of the objective."""

    data: str = ""
    """Parquet file of logged rounds."""
    action: str = "action"
    """Column of the action taken."""
    propensity: str = "propensity"
    """Column of the logging policy's probability of it; a number where it was the same in every round."""
    reward: str = "reward"
    features: tuple[str, ...] = ()
    """Columns of the context, known before the action was taken."""


@dataclass(frozen=True)
class Learnable:
    """The objective on the rounds learnt from, those held out, and what the numbers of theta belong to."""

    objective: OffPolicy
    test: LoggedActions
    actions: list[Any]
    features: list[str]
    scales: list[tuple[float, float]]
    path: Path

    def facts(self) -> dict[str, Any]:
        rows = len(self.test.action_R) + len(self.objective.log.action_R)
        return {"data": {"location": str(self.path), "rows": rows}, "actions": self.actions, "features": self.features}

    def judge(self, theta_D: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
        """Figures for summary.json: the learnt policy against the best constant and the logging policy."""
        figures = compare_policies(self.objective, theta_D, self.test, resamples, seed)
        constant = figures["off_policy.best_constant_action"]
        action = f"always {self.actions[constant]}"
        named = re.sub(rf"always action {constant}\b", lambda match: action, figures["off_policy.message"])
        return figures | {"off_policy.best_constant_action": self.actions[constant], "off_policy.message": named}

    def policy(self, theta_D: np.ndarray) -> dict[str, Any]:
        """policy.json: score(action) = sum over features of weight * (value - mean)/scale; "1" is the intercept."""
        weights_FA = theta_D.reshape(len(self.features), len(self.actions))
        settings = self.objective.settings
        return {
            "policy": settings.policy,
            "temperature": settings.temperature,
            "epsilon": settings.epsilon,
            "actions": self.actions,
            "features": self.features,
            "moments": [{"mean": mean, "scale": scale} for mean, scale in self.scales],
            "weights": [[float(weight) for weight in row] for row in weights_FA],
        }


def learnable(assignments: tuple[str, ...], seed: int) -> Learnable:
    """Read and check `--set` and the file it names; ValueError, one line, for what cannot be."""
    settings = FileSettings(**read_settings(FileSettings, assignments, "--set"))
    settings.check()
    if not settings.data:
        raise ValueError("--set data=FILE is needed for --objective off_policy: the Parquet file of logged rounds")
    path = Path(settings.data).expanduser().absolute()
    table = read_table(path, settings)
    rounds = table.num_rows
    if rounds < FEWEST_ROUNDS:
        raise ValueError(f"{path}: {rounds} rounds, half of them to judge by: too few to learn from")
    tune_R = np.random.default_rng(seed).permutation(rounds) < (rounds + 1) // 2
    names, rows_FR, scales = context(table, settings, path, tune_R)
    actions, action_R = encode_actions(table[settings.action], f"{path}: column {settings.action!r}")
    try:
        log = LoggedActions(
            context_FR=rows_FR,
            action_R=action_R,
            propensity_R=propensities(table, settings, path),
            reward_R=numbers(table[settings.reward], f"{path}: column {settings.reward!r}"),
            actions_EA=np.eye(len(actions), dtype=np.float32),
        )
    except ValueError as error:
        raise error if str(path) in str(error) else ValueError(f"{path}: {error}") from None
    plain = OffPolicySettings(
        **{field.name: getattr(settings, field.name) for field in dataclasses.fields(OffPolicySettings)}
    )
    return Learnable(OffPolicy(plain, log.part(tune_R)), log.part(~tune_R), actions, names, scales, path)


def read_table(path: Path, settings: FileSettings) -> pa.Table:
    if not path.is_file():
        raise ValueError(f"--set data={path}: no such file")
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: not readable as Parquet ({str(error).splitlines()[0]})") from None
    if not settings.features:
        raise ValueError(
            "--set features=a,b is needed for --objective off_policy: the columns known before the action was taken; "
            f"{path} has {', '.join(table.column_names)}"
        )
    given = {"action": settings.action, "reward": settings.reward}
    if not is_number(settings.propensity):
        given["propensity"] = settings.propensity
    for name, column in (*given.items(), *(("features", each) for each in settings.features)):
        if column not in table.column_names:
            raise ValueError(
                f"{path} has no column {column!r} (--set {name}=...): it has {', '.join(table.column_names)}"
            )
    for column in settings.features:
        if column in given.values():
            raise ValueError(f"--set features: {column!r} is what is to be chosen or predicted, not a feature")
    return table


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
        raise ValueError(f"{where} is {kind}: whole numbers, text or yes/no are wanted")
    values = sorted(pc.unique(column).to_pylist())
    if not 2 <= len(values) <= most:
        raise ValueError(f"{where} has {len(values)} distinct values: 2 to {most} {what} are wanted")
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
        raise ValueError(f"{where} is {kind}: numbers are wanted")
    value_R = column.to_numpy() * 1.0 if pa.types.is_boolean(kind) else column.cast(pa.float64(), safe=False).to_numpy()
    bad_R = ~np.isfinite(value_R)
    if bad_R.any():
        raise ValueError(f"{where}, row {int(np.argmax(bad_R))}: {value_R[bad_R][0]} is not a finite number")
    return np.asarray(value_R, np.float64)


def refuse_nulls(column: pa.ChunkedArray, where: str) -> None:
    if column.null_count:
        row = int(np.argmax(pc.is_null(column).to_numpy(zero_copy_only=False)))
        raise ValueError(f"{where}, row {row}: empty ({column.null_count} such rows)")


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
