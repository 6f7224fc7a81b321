"""Settings of a generated log, and the worlds that give the defaults of some of them. Their equations: data/world.py.

The world "conflict" follows public figures; benchmarks/evaluation/conflict_facts.py measures those of dates and buyers:

Rates: of KuaiRand-Pure's videos [Gao et al., CIKM 2022] shown at random 17.6% are clicked; of the clicks 2.0% end in a
like, follow, comment or share, in its standard log 4.0% (a public analysis of it, github.com/Aylayan/KuaiRand_Pure).
Clickbait: in the Speed Dating Experiment [Fisman et al. 2006], where every outcome is known whether "clicked" or not,
who is said yes to more often says yes less often: over 339 people the two rates correlate at -.26, or at -.37 without
the noise of short lists. Over items, click and conversion rate correlate at about -.33 in this world.
Value: over the 388 buyers of the MineThatData challenge [Hillstrom 2008] log spend has a standard deviation of .84, and
the log of its mean one of .31 over segments by past spend (.28 without their noise). Here they are about .95 and .3.
Price: one item's sales fall with its price at an elasticity of -2.62 on average [Bijmolt, van Heerde and Pieters 2005];
over different items far less, as a price also buys quality. No public figure for that was found; 0.3 is our choice.
"""

from dataclasses import dataclass
from typing import Literal

from data.errors import UserError
from data.write import ROWS_PER_FILE, ROWS_PER_GROUP

CANDIDATES = 30
WORLDS: dict[str, dict[str, float]] = {
    "conflict": {
        "click_rate": 0.18,
        "conversion_rate": 0.05,
        "clickbait": 0.8,
        "disappointment": 1.5,
        "price_sensitivity": 0.3,
        "segment_value": 0.3,
        "hidden": 0.0,
        "presentation": 0.15,
    },
    "aligned": {
        "click_rate": 0.04,
        "conversion_rate": 0.05,
        "clickbait": 0.0,
        "disappointment": 0.0,
        "price_sensitivity": 0.0,
        "segment_value": 0.0,
        "hidden": 0.0,
        "presentation": 0.15,
    },
    "instrument": {
        "click_rate": 0.1,
        "conversion_rate": 0.2,
        "clickbait": 0.0,
        "disappointment": 0.0,
        "price_sensitivity": 0.0,
        "segment_value": 0.0,
        "hidden": 1.0,
        "presentation": 0.5,
    },
}
INSTRUMENTS = ("channel", "hour", "position")
"""What the schema of the world "instrument" declares to move clicks alone."""


@dataclass(frozen=True)
class GeneratedLog:
    """What to generate; the knobs are those of the equations in data/world.py."""

    world: Literal["conflict", "aligned", "instrument"] = "conflict"
    """conflict: items that draw clicks and disappoint, prices, segments that order more, and a column of the value of a
    conversion. aligned: what is clicked is also what is bought. instrument: as aligned, with a cause of clicks and
    conversions that no column shows, and a schema that declares channel, hour and position as instruments. It decides
    every setting that is left out."""
    rows: int = 1_000_000
    """Exposures in all; train, valid and test take 80, 10 and 10 per cent."""
    seed: int = 0
    """The same settings and seed give the same log."""
    users: int = 5_000
    """How many users there are to draw from."""
    items: int = 2_000
    """How many items there are to draw from."""
    click_rate: float | None = None
    """E[click] over exposures; conflict: 0.18, aligned: 0.04, instrument: 0.1."""
    conversion_rate: float | None = None
    """E[conversion] over clicks; instrument: 0.2, else 0.05."""
    selection: float = 1.3
    """Standard deviation of the click logit: the larger, the less clicked and unclicked exposures overlap."""
    confounding: float = 1.2
    """Weight of interest, which makes clicks, in the conversion logit; 0 = conversions do not depend on it."""
    hidden: float | None = None
    """Weight of an unobserved cause of both clicks and conversions; instrument: 1, else 0."""
    presentation: float | None = None
    """Share of the click logit's variance that comes of where, when and how an item is shown, and not of interest: how
    strong an instrument it is; instrument: 0.5, else 0.15."""
    presentation_sells: float = 0.0
    """Weight of the same in the conversion logit: with another than 0 it is no valid instrument."""
    clickbait: float | None = None
    """Weight of an item's packaging (standard deviation 1) in what draws clicks, where interest has one of about 1;
    conflict: 0.8, else 0."""
    disappointment: float | None = None
    """By how much the conversion logit falls for each standard deviation of packaging; conflict: 1.5, else 0."""
    price_sensitivity: float | None = None
    """By how much the conversion logit falls for each e-fold of the price; conflict: 0.3, else 0."""
    segment_value: float | None = None
    """Standard deviation over segments of the log of how much they order; conflict: 0.3, else 0 (and no value)."""
    delay: float = 0.0
    """Mean days from a click to its conversion, for an item of the median price (dear ones take longer); 0 = the log
    tells no times. With times train spans eight days, valid and test one each, and --days one a day."""
    history: int = 0
    """At most so many items that the user clicked before, as a multi-valued field that shares the item's rows; 0 = no
    such column."""
    rows_per_file: int = ROWS_PER_FILE
    """Rows of a parquet file."""
    rows_per_group: int = ROWS_PER_GROUP
    """Rows of a row group, the unit that training workers share out."""


def completed(config: GeneratedLog) -> dict[str, float]:
    """The knobs that a world gives defaults for: the config's own, and the world's where it leaves them out."""
    given = {name: getattr(config, name) for name in WORLDS[config.world]}
    return {name: default if given[name] is None else given[name] for name, default in WORLDS[config.world].items()}


def check(config: GeneratedLog) -> None:
    """Raise UserError naming the knob whose value makes no log."""
    if config.world not in WORLDS:
        raise UserError(f"world is {config.world!r}, must be one of {', '.join(WORLDS)}")
    for name in ("users", "items", "rows_per_group"):
        if getattr(config, name) < 1:
            raise UserError(f"{name} is {getattr(config, name)}, must be at least 1")
    if config.rows < 10 * CANDIDATES:
        raise UserError(f"rows is {config.rows}, must be at least {10 * CANDIDATES} (ten requests)")
    if config.seed < 0:
        raise UserError(f"seed is {config.seed}, must not be negative")
    if config.history < 0:
        raise UserError(f"history is {config.history}, must be at least 0")
    if not 0 <= config.delay <= 1000:
        raise UserError(f"delay is {config.delay}, must lie in 0..1000 days")
    knobs = completed(config)
    for name in ("click_rate", "conversion_rate"):
        if not 0 < knobs[name] < 1:
            raise UserError(f"{name} is {knobs[name]}, must lie between 0 and 1")
    if config.world != "conflict" and config.segment_value:
        raise UserError(f"segment_value has no effect in the world {config.world}, whose log has no column of values")
    if not 0 <= knobs["presentation"] <= 1:
        raise UserError(f"presentation is {knobs['presentation']}, must lie in 0..1")
    knobs |= {"selection": config.selection, "confounding": config.confounding}
    knobs["presentation_sells"] = config.presentation_sells
    for name in ("selection", "hidden", "clickbait", "segment_value"):
        if not 0 <= knobs[name] <= 10:
            raise UserError(f"{name} is {knobs[name]}, must lie in 0..10")
    for name in ("confounding", "disappointment", "price_sensitivity", "presentation_sells"):
        if not -10 <= knobs[name] <= 10:
            raise UserError(f"{name} is {knobs[name]}, must lie in -10..10")
