"""The same command again: what a kill left undone is done, and what was done is left alone."""

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from support import arguments

from jobs import calibrate, train

SUMMARY, CALIBRATION = "summary.json", "model/calibration.json"


class Kill(BaseException):
    """Stands for SIGKILL."""


@pytest.mark.parametrize("moment", ["before", "after the file"])
def test_a_calibration_that_a_kill_prevented_is_made_by_the_same_command(
    small_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Before it began, or between calibration.json and the summary that speaks of it."""
    run = tmp_path / "run"
    given = arguments(small_log, run, "--calibrate", "platt")

    def killed(*_: Any) -> Any:
        raise Kill

    with monkeypatch.context() as patch:
        patch.setattr(calibrate, "run" if moment == "before" else "write_json", killed)
        patch.setattr(calibrate, "restored_on_error", lambda *_: nullcontext())  # SIGKILL leaves no time to restore
        with pytest.raises(Kill):
            train.run(given)
    assert (run / SUMMARY).exists()
    assert (run / CALIBRATION).exists() == (moment != "before")
    summary = train.run(given)
    assert summary["calibration.method"] == "platt"
    assert json.loads((run / SUMMARY).read_text()) == summary
    assert (run / CALIBRATION).exists()
    before = (run / CALIBRATION).stat().st_mtime_ns
    assert train.run(given) == summary
    assert (run / CALIBRATION).stat().st_mtime_ns == before
