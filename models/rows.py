"""Which rows of a table are held here, and what they begin with: a row's first values follow from its number alone.

Shapes: H held rows, E width.

So a worker that holds every third row of a table too large for it makes just those, to the bits that a process which
holds them all would make.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK_VALUES = 1 << 14  # small enough for the cache, and for torch to leave it to one thread
FILLED_ROWS = 1 << 16


@dataclass(frozen=True)
class Share:
    """The rows first, first + every, first + 2 every, ... of every table."""

    first: int = 0
    every: int = 1

    def held(self, rows: int) -> int:
        """How many of a table's rows that is."""
        return max(0, -(-(rows - self.first) // self.every))


EVERY_ROW = Share()
NO_ROW = Share(first=1 << 40)
"""Of a table whose weight somebody else provides."""


def initial_rows(address: int, rows: int, width: int, scale: float, share: Share) -> Tensor:
    """The held rows (H, E) of a new table, float32, mean 0 and standard deviation `scale`.

    Value (row, column) is the sum of the four 16-bit parts of splitmix64(address, row * width + column) [Steele, Lea
    and Flood, OOPSLA 2014], centred and scaled: nearly normal (kurtosis 2.7, nothing beyond 3.5 deviations) and, being
    whole numbers until the last product, the same bits on every machine. `address` differs between tables.
    """
    held = share.held(rows)
    values_HE = torch.empty(held, width)
    block = min(max(1, BLOCK_VALUES // width), max(held, 1))
    # everything is done in place: what is allocated here is all there is, and it stays in the cache
    place_BE = torch.arange(block).unsqueeze(1) * (share.every * width) + share.first * width + torch.arange(width)
    bits_BE, part_BE, total_BE = (torch.empty_like(place_BE) for _ in range(3))
    deviation = 65536 / 3**0.5  # of the sum of four uniform 16-bit numbers
    for begin in range(0, held, block):
        count = min(block, held - begin)
        bits, part, total = bits_BE[:count], part_BE[:count], total_BE[:count]
        torch.add(place_BE[:count], begin * share.every * width, out=bits)
        mix(bits.mul_(GOLDEN).add_(address), part)
        torch.bitwise_and(bits, 0xFFFF, out=total)
        for place in (16, 32, 48):
            total += torch.bitwise_right_shift(bits, place, out=part).bitwise_and_(0xFFFF)
        torch.mul(total.sub_(2 * 0xFFFF), scale / deviation, out=values_HE[begin : begin + count])
    return values_HE


def fill(rows_HE: Tensor, address: int, scale: float, share: Share) -> None:
    """Write the first values of the held rows where they are to lie, some at a time: they are nowhere twice."""
    held, width = rows_HE.shape
    for begin in range(0, held, FILLED_ROWS):
        count = min(FILLED_ROWS, held - begin)
        part = Share(share.first + begin * share.every, share.every)
        end = part.first + (count - 1) * share.every + 1
        rows_HE[begin : begin + count] = initial_rows(address, end, width, scale, part)


def mix(bits: Tensor, scratch: Tensor) -> None:
    """In place: splitmix64's finaliser on int64, which holds the 64 bits whatever their sign."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        # >> drags the sign along
        torch.bitwise_right_shift(bits, shift, out=scratch).bitwise_and_((1 << (64 - shift)) - 1)
        bits.bitwise_xor_(scratch).mul_(signed(factor))


def signed(bits: int) -> int:
    return bits - (1 << 64) if bits >= 1 << 63 else bits


GOLDEN = signed(0x9E3779B97F4A7C15)
