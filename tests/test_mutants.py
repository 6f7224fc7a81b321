"""The list of tests/mutants.py cannot rot: every change can be made in the code as it is."""

from collections import Counter
from pathlib import Path

import pytest
from mutants import BROKEN, NOTICED, ROOT, SURVIVED, Change, changes, judge


def test_every_change_can_be_made() -> None:
    assert {change.what: said for change in changes() if (said := change.problem())} == {}


def test_changes_are_many_and_in_every_room() -> None:
    found = changes()
    assert max(Counter(change.what for change in found).values()) == 1
    assert all(change.old != change.new for change in found)
    rooms = Counter(change.file.partition("/")[0] for change in found)
    assert len(found) >= 70
    assert {room: number for room, number in rooms.items() if number >= 8}.keys() == {
        "models", "data", "es", "funnel", "distributed", "jobs"
    }  # fmt: skip


@pytest.mark.slow
def test_a_survivor_is_told_from_a_change_that_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "a.py").write_text("HALF = 0.5\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\nmarkers = \n  ray\n  slow\n")
    test = "from a import HALF\n\n\ndef test_half():\n    assert HALF == {}\n"
    (tmp_path / "tests" / "test_number.py").write_text(test.format("0.5"))
    (tmp_path / "tests" / "test_itself.py").write_text(test.format("HALF"))
    for tests, state in (("test_number.py", NOTICED), ("test_itself.py", SURVIVED), ("test_gone.py", BROKEN)):
        assert judge(tmp_path, Change("twice", "a.py", "0.5", "1.0", (tests,)))[0] == state
    assert (tmp_path / "a.py").read_text() == "HALF = 0.5\n"
    absent = Change("nowhere", "es/noise.py", "no such text", "", ("test_es_noise.py",))
    assert absent.problem(ROOT) == "`old` stands 0 times in es/noise.py"
