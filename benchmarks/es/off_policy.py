"""Does a policy learnt off-policy by ES beat the best constant action and the logging policy, on rounds held out?

    python -m benchmarks.es.off_policy --data ../shared/data

Hillstrom (which mail to whom): learnt on a random half by DR, judged on the other by IPS; five splits.
Open Bandit (which item): learnt by SNIPS on the log of one policy, judged on the log of the other. Nothing is tuned on
what judges.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.es.logged_actions import MAILS, hillstrom, open_bandit
from es.config import ESConfig
from es.engine import run
from funnel.off_policy.evaluation import compare_policies
from funnel.off_policy.objective import LoggedActions, OffPolicy, OffPolicySettings
from funnel.off_policy.stopping import settle

CONFIG = ESConfig(generations=60, pairs=16, sigma=0.1, learning_rate=0.1, weight_decay=0.01, centre_every=0)


MAILS_LEARN = OffPolicySettings(estimator="dr", level=0.9, baseline="best_constant")
ITEMS_LEARN = OffPolicySettings(estimator="snips", level=0.9, smallest_size=500.0, baseline="best_constant")


@dataclass
class Arguments:
    data: Path = Path("../shared/data")
    """Folder with hillstrom/ and open_bandit/."""
    splits: int = 5
    """Random halves of Hillstrom's customers."""
    mail_cost: float = 0.1
    """Dollars a mail costs."""


def learn(tune: LoggedActions, test: LoggedActions, judge: Any, seed: int, **settings: Any) -> dict[str, Any]:
    """Two thirds of `tune` are learnt from, the rest says how far to follow that."""
    stop_R = np.random.default_rng([seed, 1]).random(len(tune.action_R)) < 1 / 3
    objective = OffPolicy(OffPolicySettings(**settings), tune.part(~stop_R))
    theta_D = run(objective, ESConfig(**{**vars(CONFIG), "seed": seed})).theta
    settled = settle(objective, theta_D, tune.part(stop_R))
    return compare_policies(objective, settled.theta_D, test, judge) | {"share": settled.share}


def mails(arguments: Arguments, reward: str, cost: float) -> list[dict[str, Any]]:
    log, results = hillstrom(arguments.data / "hillstrom", reward, cost), []
    for seed in range(arguments.splits):
        half_R = np.random.default_rng(seed).random(len(log.action_R)) < 0.5
        figures = learn(log.part(half_R), log.part(~half_R), "ips", seed, **vars(MAILS_LEARN))
        results.append(
            {"name": f"split {seed}", "constant": MAILS[figures["off_policy.best_constant_action"]], **figures}
        )
    return results


def items(arguments: Arguments) -> list[dict[str, Any]]:
    results = []
    for campaign in ("men", "all"):
        logs = {logger: open_bandit(arguments.data / "open_bandit", logger, campaign) for logger in ("random", "bts")}
        for tune, test in (("bts", "random"), ("random", "bts")):
            figures = learn(
                logs[tune],
                logs[test],
                "snips",
                0,
                **vars(ITEMS_LEARN),
            )
            constant = f"item {figures['off_policy.best_constant_action']}"
            results.append({"name": f"{campaign}: {tune} -> {test}", "constant": constant, **figures})
    return results


def table(results: list[dict[str, Any]], digits: int) -> str:
    def cell(row: dict[str, Any], key: str, sign: str = "") -> str:
        if f"off_policy.{key}" not in row:
            return "none"
        value, low, high = (format(row[f"off_policy.{key}{end}"], f"{sign}.{digits}f") for end in ("", ".low", ".high"))
        return f"{value} ({low} to {high})"

    rows = [
        [row["name"], cell(row, "learnt"), f"{row['constant']}: {cell(row, 'best_constant')}", cell(row, "logging"),
         cell(row, "gain_over_best_constant", "+"), cell(row, "gain_over_logging", "+"),
         f"{row['off_policy.effective_size']:,.0f} of {row['off_policy.rounds']:,}", row["share"],
         "yes" if row["off_policy.significant"] else "no"]
        for row in results
    ]  # fmt: skip
    header = ["", "learnt", "best constant", "logging policy", "gain over constant", "gain over logging"]
    return markdown([*header, "effective sample", "share of what was learnt", "significant over both"], rows)


def summary(results: list[dict[str, Any]]) -> str:
    ahead = {
        name: sum(row.get(f"off_policy.gain_over_{name}.low", 0) > 0 for row in results)
        for name in ("best_constant", "logging")
    }
    return (
        f"Significantly above the best constant in {ahead['best_constant']} of {len(results)}, "
        f"above the logging policy in {ahead['logging']} of {len(results)}.\n"
    )


def main(arguments: Arguments) -> None:
    began = time.time()
    parts = {
        f"Hillstrom: dollars spent, less {arguments.mail_cost} a mail, per customer": (
            mails(arguments, "spend", arguments.mail_cost), 3),
        "Hillstrom: visits, less 0.04 a mail, per customer": (mails(arguments, "visit", 0.04), 4),
        "Open Bandit: clicks per impression": (items(arguments), 4),
    }  # fmt: skip
    text = "Held-out values with 95% intervals over rounds; gains are paired. Learnt with:\n\n"
    for name, settings in (("Hillstrom", MAILS_LEARN), ("Open Bandit", ITEMS_LEARN)):
        text += f"    {name}: " + ", ".join(f"{key} {value}" for key, value in vars(settings).items()) + "\n"
    text += "\n"
    for title, (results, digits) in parts.items():
        text += f"## {title}\n\n{table(results, digits)}\n{summary(results)}\n"
    text += (
        "Hillstrom's logging policy sends each of the two mails and none to a third each; splits share customers, so "
        "they are not independent. Open Bandit's samples hold 38 to 69 clicks each: hardly any policy over 34 or 80 "
        "items can be told from another by them.\n"
    )
    figures = {title: results for title, (results, _) in parts.items()}
    write_result("es-off-policy", {"seconds": time.time() - began, **figures}, text)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
