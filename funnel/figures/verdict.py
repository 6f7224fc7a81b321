"""The verdict over several rivals in one sentence: a gain is significant if its interval over each of them is above 0.

Testing each at its own level is enough, since all must agree (an intersection-union test, Berger 1982); the rival named
is the one that decides: of those that are lost to, the worst; else of those that cannot be told apart from, the one
with the lowest end; else, where all are beaten, the one with the lowest end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Gain:
    """Over one rival: the gain with its interval, or why there is none."""

    rival: str
    value: float = 0.0
    low: float = 0.0
    high: float = 0.0
    absent: str = ""

    @classmethod
    def of(cls, figures: Mapping[str, Any], key: str, rival: str) -> "Gain":
        """From KEY, KEY.low, KEY.high of flat figures whose "absent" names reasons."""
        if f"{key}.low" not in figures:
            return cls(rival, absent=str((figures.get("absent") or {}).get(key) or "no interval"))
        return cls(rival, figures[key], figures[f"{key}.low"], figures[f"{key}.high"])

    @property
    def significant(self) -> bool:
        return not self.absent and self.low > 0


def verdict(doing: str, gains: Sequence[Gain], form: str, unit: str, where: str = "") -> str:
    """`doing`: what was done, "Tuning"; `form`: of the numbers, "+.4f"; `unit`: what they are, "value@10"; `where`:
    what the interval is over."""

    def measured(gain: Gain) -> str:
        value, low, high = (format(each, form) for each in (gain.value, gain.low, gain.high))
        return f"{value} {unit} against {gain.rival} (95% interval {low} to {high}{where})"

    known = [gain for gain in gains if not gain.absent]
    others = [gain for gain in known if gain.significant]
    if lost := [gain for gain in known if gain.high < 0]:
        worst = min(lost, key=lambda gain: gain.high)
        return f"{doing} loses {measured(worst)}: keep {worst.rival}."
    if unsure := [gain for gain in known if gain.low <= 0]:
        least = min(unsure, key=lambda gain: gain.low)
        ahead = f"; ahead of {others[0].rival} alone ({others[0].value:{form}})" if others else ""
        return f"{doing} changes {measured(least)}: not significant, keep {least.rival}{ahead}."
    if unknown := [gain for gain in gains if gain.absent]:
        ahead = f"; ahead of {others[0].rival} ({others[0].value:{form}})" if others else ""
        return f"{doing} cannot be told from {unknown[0].rival}: {unknown[0].absent}{ahead}."
    least = min(known, key=lambda gain: gain.low)
    rest = [gain.rival for gain in known if gain is not least]
    return f"{doing} gains {measured(least)}: significant{', as against ' + ' and '.join(rest) if rest else ''}."
