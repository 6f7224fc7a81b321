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
    root = tmp_path / "root"
    (root / "tests").mkdir(parents=True)
    (root / "a.py").write_text("HALF = 0.5\n")
    (root / "pytest.ini").write_text("[pytest]\npythonpath = .\nmarkers = \n  ray\n  slow\n")
    test = "from a import HALF\n\n\ndef test_half():\n    assert HALF == {}\n"
    (root / "tests" / "test_number.py").write_text(test.format("0.5"))
    (root / "tests" / "test_itself.py").write_text(test.format("HALF"))
    given = [Change(name, "a.py", "0.5", "1.0", (f"test_{name}.py",)) for name in ("number", "itself", "gone")]
    found = {change.what: state for state, change, _ in judge(tmp_path / "copies", root, given, jobs=2)}
    assert found == {"number": NOTICED, "itself": SURVIVED, "gone": BROKEN}
    assert (root / "a.py").read_text() == "HALF = 0.5\n"
    absent = Change("nowhere", "es/noise.py", "no such text", "", ("test_es_noise.py",))
    assert absent.problem(ROOT) == "`old` stands 0 times in es/noise.py"
