"""Two public logs with known propensities as arrays: Hillstrom's e-mails and the Open Bandit Dataset.

F context features, E action features, A actions, R rounds.
"""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from funnel.off_policy.objective import LoggedActions

MAILS = ("No E-Mail", "Mens E-Mail", "Womens E-Mail")


def hillstrom(folder: Path, reward: str = "spend", cost: float = 0.0) -> LoggedActions:
    """Who got which mail (a third each, at random), and what came of it within two weeks.

    `reward`: a column (spend in dollars, visit, conversion); `cost` of sending a mail in its units.
    """
    table = pq.read_table(folder / "log.parquet").to_pydict()
    action_R = np.asarray([MAILS.index(each) for each in table["segment"]])
    context = [np.ones(len(action_R))]
    context += [standardised(np.asarray(table[name], float)) for name in ("recency", "mens", "womens", "newbie")]
    context.append(standardised(np.log(np.asarray(table["history"], float))))
    for name in ("zip_code", "channel"):
        context += one_hot(table[name])[1:]
    return LoggedActions(
        context_FR=np.stack(context).astype(np.float32),
        action_R=action_R,
        propensity_R=np.full(len(action_R), 1 / 3),
        reward_R=np.asarray(table[reward], float) - cost * (action_R > 0),
        actions_EA=np.eye(3, dtype=np.float32),
    )


def open_bandit(folder: Path, logger: str, campaign: str) -> LoggedActions:
    """Which fashion item stood in one of three places, and whether it was clicked; propensities as logged.

    `logger`: random or bts (Bernoulli Thompson sampling); `campaign`: all (80 items) or men (34). A score is linear in
    item x (1, price feature, place) and in the user's affinity to the item: what 50 clicks can hope to say.
    """
    table = pq.read_table(folder / f"{logger}_{campaign}.parquet")
    items = pq.read_table(folder / f"items_{campaign}.parquet").sort_by("item_id")
    count, rounds = items.num_rows, table.num_rows
    affinity_AR = np.stack([table[f"user-item_affinity_{item}"].to_numpy() for item in range(count)])
    feature_A = standardised(items["item_feature_0"].to_numpy())
    categories = [row for name in ("item_feature_1", "item_feature_2") for row in one_hot(items[name].to_pylist())]
    common = [row for row in categories if row.sum() >= 3]
    return LoggedActions(
        context_FR=np.ones((1, rounds), np.float32),
        action_R=table["item_id"].to_numpy().astype(np.int64),
        propensity_R=table["propensity_score"].to_numpy().astype(np.float64),
        reward_R=table["click"].to_numpy().astype(np.float64),
        actions_EA=np.stack([feature_A, *common, *np.eye(count)]).astype(np.float32),
        pairs_JAR=affinity_AR[None].astype(np.float32),
    )


def standardised(values: np.ndarray) -> np.ndarray:
    return np.asarray((values - values.mean()) / values.std())


def one_hot(values: list[str]) -> list[np.ndarray]:
    return [np.asarray([value == name for value in values], float) for name in sorted(set(values))]
