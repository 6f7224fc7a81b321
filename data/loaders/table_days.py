"""The days of a table, and which of them are train, valid and test in a split by time.

Days without rows (weekends, a gap in the collection) do not count: the last two days are the last two that have rows.
Shapes: R rows of a block.
"""

from dataclasses import dataclass, field

import numpy as np

from data.errors import UserError
from data.times import DAY_US, day

EARLIEST, LATEST = 7305, 47481
"""1990-01-01 and 2099-12-31, in days since 1970: exposures of other days are taken for mistakes."""


@dataclass
class Days:
    """The days that a table has rows of, as days since 1970 (UTC)."""

    there: set[int] = field(default_factory=set)
    refused: str = ""
    """Why the table cannot be split by time."""
    odd: int = 0
    """Rows of a day that no exposure has; it is none of those that are there: a placeholder such as 1970-01-01."""
    such: int = 0
    """One of these days."""

    @property
    def count(self) -> int:
        return len(self.there)

    def add(self, moment_R: np.ndarray) -> None:
        """Rows of these moments, in microseconds since 1970."""
        day_R = moment_R // DAY_US
        odd_R = (day_R < EARLIEST) | (day_R > LATEST)
        if odd_R.any():
            self.odd, self.such, day_R = self.odd + int(odd_R.sum()), int(day_R[odd_R][0]), day_R[~odd_R]
        self.there.update(np.unique(day_R).tolist())

    def note(self, time: str) -> str:
        """A line on the rows of days that no exposure has."""
        rows = f"{self.odd:,} row{'s' * (self.odd > 1)}"
        return f"column {time!r}: {rows} of a day such as {day(self.such)}, which no exposure has: is it a placeholder?"

    def begins(self, valid_days: int, test_days: int) -> tuple[int, int]:
        """The first day of the valid and of the test part. Raises UserError where none would be left for train."""
        days = sorted(self.there)
        if valid_days + test_days >= len(days):
            span = f" ({day(days[0])} to {day(days[-1])})" if days else ""
            raise UserError(
                f"the table has {len(days)} days{span}: with {valid_days} of valid and {test_days} of test none is "
                "left for train; take fewer, or --split user"
            )
        return days[-test_days - valid_days], days[-test_days]

    def parts(self, valid_days: int, test_days: int) -> str:
        """A line on which days each part has."""
        days = sorted(self.there)
        cut = (days[: -valid_days - test_days], days[-valid_days - test_days : -test_days], days[-test_days:])
        spans = [day(part[0]) + (f" to {day(part[-1])}" if len(part) > 1 else "") for part in cut]
        gaps = days[-1] - days[0] + 1 - len(days)
        without = f"; {gaps:,} days between have no rows" if gaps else ""
        return f"train {spans[0]}, valid {spans[1]}, test {spans[2]} (days in UTC){without}"
