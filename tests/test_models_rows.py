"""Row-addressed first values: any share of a table is that share of the whole, bit for bit."""

import pytest
import torch

from models import rows
from models.embedding import EmbeddingTable
from models.rows import EVERY_ROW, Share, fill, initial_rows


def reference(address: int, row: int, column: int, width: int, scale: float) -> float:
    """The docstring's formula in Python's integers."""
    ones = 2**64 - 1
    bits = ((row * width + column) * 0x9E3779B97F4A7C15 + address) & ones
    bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 & ones
    bits = (bits ^ bits >> 27) * 0x94D049BB133111EB & ones
    bits ^= bits >> 31
    total = sum(bits >> place & 0xFFFF for place in (0, 16, 32, 48))
    return (total - 2 * 0xFFFF) * scale / (65536 / 3**0.5)


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
@pytest.mark.parametrize(("rows", "width"), [(5000, 16), (5, 4), (9000, 3)])
def test_shares_are_the_whole(workers: int, rows: int, width: int) -> None:
    whole = initial_rows(11, rows, width, 0.01, Share())
    for rank in range(workers):
        share = Share(rank, workers)
        own = initial_rows(11, rows, width, 0.01, share)
        assert len(own) == share.held(rows)
        assert torch.equal(own, whole[rank::workers])


def test_values_are_the_formula() -> None:
    table = initial_rows(1 << 61, 4000, 16, 0.5, Share())
    for row, column in ((0, 0), (1, 15), (37, 5), (3999, 8)):
        assert table[row, column].item() == pytest.approx(reference(1 << 61, row, column, 16, 0.5), rel=1e-6)


def test_values_are_centred_scaled_and_unrelated() -> None:
    table = initial_rows(3, 100_000, 4, 0.01, Share())
    other = initial_rows(4, 100_000, 4, 0.01, Share())
    assert table.mean().item() == pytest.approx(0, abs=1e-4)
    assert table.std().item() == pytest.approx(0.01, rel=0.01)
    assert ((table / table.std()) ** 4).mean().item() == pytest.approx(2.7, abs=0.05)
    for left, right in ((table[:, 0], table[:, 1]), (table[1:, 0], table[:-1, 0]), (table[:, 0], other[:, 0])):
        assert torch.corrcoef(torch.stack([left, right]))[0, 1].abs() < 0.02


def test_a_table_follows_the_generator_in_force() -> None:
    torch.manual_seed(5)
    first, second = EmbeddingTable(100, 4), EmbeddingTable(100, 4)
    assert not torch.equal(first.weight, second.weight)
    torch.manual_seed(5)
    assert torch.equal(EmbeddingTable(100, 4, share=Share(1, 2)).weight, first.weight[1::2])


def test_a_shard_is_made_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces, to the bits of the rows that a process with the whole table makes."""
    monkeypatch.setattr(rows, "FILLED_ROWS", 4)
    whole_RE = initial_rows(11, 30, 3, 0.01, EVERY_ROW)
    for share in (EVERY_ROW, Share(2, 3), Share(0, 4), Share(29, 31), Share(30, 31)):
        found_HE = torch.full((share.held(30), 3), torch.nan)
        fill(found_HE, 11, 0.01, share)
        assert torch.equal(found_HE, whole_RE[share.first :: share.every])
