"""What a fusion tuned earlier is worth on a scored file it has never seen."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import UserError
from funnel.fusion.forms import Fusion
from funnel.fusion.scored_log import largest_reward, read_scored
from funnel.fusion.user_figures import means, too_few_rewards
from funnel.lists.request_blocks import Requests


def judge_policy(scored: Path, policy: Path) -> dict[str, float]:
    """value@k (or NDCG@k) of a policy.json and of the untuned policy it began from, and the gain with its interval.

    Keys value_at_K.tuned, .untuned, .gain, .gain.low, .gain.high: intervals over users, absent for too few. Raises
    UserError for scores that the policy does not fuse.
    """
    record = read_policy(policy)
    log = read_scored(scored, record["conversion_weight"], tuple(record["by"])).log
    if list(log.names) != record["scores"]:
        raise UserError(
            f"{scored}: has the scores {', '.join(log.names)}, {policy} fuses {', '.join(record['scores'])}"
        )
    fitted = Fusion.fit(record["fusion"], log, tuple(record["by"]))
    moments = tuple((entry["mean"], entry["std"]) for entry in record["by"].values())
    constants = tuple(record["constants"]) or fitted.constants
    fusion = dataclasses.replace(fitted, constants=constants, moments=moments)
    values_2D = np.array([record["after"], record["before"]], np.float64)
    metric, k = record["metric"], record["k"]
    requests = Requests.build(log.request_C, fusion.features(log), log.reward_C, k)
    per_2R = requests.per_request(lambda part: fusion.score(values_2D[part]), 2, metric)
    counted_R = np.ones(requests.requests) if metric == "value" else (requests.ideal_R > 0).astype(np.float64)
    user_R = np.zeros(requests.requests, np.int64)
    user_R[log.request_C] = log.user_C
    key = f"{metric}_at_{k}"
    if not counted_R.any():
        return {}
    largest = largest_reward(log, record["conversion_weight"]) if metric == "value" else 1.0
    why = too_few_rewards(requests.rewarded)
    found = means(key, ("tuned", "untuned"), per_2R, counted_R, user_R, largest, why).figures
    return {name.replace("gain_over_untuned", "gain"): value for name, value in found.items()
            if "gain" in name or not name.endswith((".low", ".high"))}  # fmt: skip


def read_policy(path: Path) -> dict[str, Any]:
    """policy.json. Raises UserError, naming the file, for one that is absent, broken or not of score fusion."""
    try:
        record = json.loads(path.read_text())
        if not isinstance(record, dict):
            raise UserError("no object")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not readable as a policy ({error})") from None
    needed = ("fusion", "scores", "before", "after", "constants", "by", "metric", "k", "conversion_weight")
    if missing := [key for key in needed if key not in record]:
        raise UserError(f"{path}: key {missing[0]!r} is missing; is this a policy of score fusion?")
    return record
