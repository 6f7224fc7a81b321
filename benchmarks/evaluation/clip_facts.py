"""What a clip costs where the propensities are true: bias that is left, and clicks that remain. No training.

    python -m benchmarks.evaluation.clip_facts

From the law of the sweep's worlds (data/world.py), expectations over clicks: the mean conversion that clicks weighed by
1/max(q, clip) give, over that of exposures, with weights that sum to 1 (what PCOC a model of the mean would have; IPS
over |D| rows and a model of x feel it less), and the effective share of the clicks.
"""

from dataclasses import dataclass, field

import numpy as np
import tyro
from scipy.special import expit

from benchmarks.bench import markdown, write_result
from benchmarks.evaluation.debias_sweep import world_of
from data.world import GeneratedLog, World, address
from models.objectives.propensity import AUTO_CLIP_SHARE

REQUESTS = 5000


@dataclass
class Arguments:
    points: list[str] = field(default_factory=lambda: ["base", "confounding=2.4", "selection=2.5", "click_rate=0.03"])
    shares: list[float] = field(default_factory=lambda: [AUTO_CLIP_SHARE, 0.125, 0.05, 0.02, 0.0])
    """Clips as shares of the click rate; the first is what `auto` means."""
    name: str = "clip-facts"


def main(arguments: Arguments) -> None:
    rows, found = [], {}
    for point in arguments.points:
        config = GeneratedLog(users=2000, items=1000, **world_of(point))
        world = World(config)
        click_R, conversion_R = world.scores(world.draw_exposures(address(7), REQUESTS))
        q_R, p_R = expit(click_R + world.click_intercept), expit(conversion_R + world.conversion_intercept)
        cells = [f"{(q_R @ p_R) / q_R.sum() / p_R.mean():.2f}"]
        for share in arguments.shares:
            weight_R = 1 / np.maximum(q_R, share * world.knobs["click_rate"])
            mean = (q_R * weight_R @ p_R) / (q_R @ weight_R) / p_R.mean()
            effective = (q_R @ weight_R) ** 2 / (q_R @ weight_R**2) / q_R.sum()
            below = float((q_R < share * world.knobs["click_rate"]).mean())
            found[f"{point} {share:g}"] = {"mean": float(mean), "effective": float(effective), "below": below}
            cells.append(f"{mean:.2f} ({effective:.2f})")
        rows.append([point, *cells])
    head = ["world", "no weights", *(f"clip {share:g} of the click rate" for share in arguments.shares)]
    words = "Mean conversion of weighed clicks over that of exposures; in brackets the effective share of clicks."
    write_result(arguments.name, {"clips": found}, f"{words}\n\n{markdown(head, rows)}")


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
