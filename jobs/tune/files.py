"""The files of a search: OUT/ledger.jsonl, and in OUT/trials/NUMBER what a trial leaves beside its run.

settings.json   what is tried (with population-based training: what is tried now)
reports.jsonl   what Tune was reported, so that a search that goes on can repeat it
trial.json      how it ended: finished, stopped (by the scheduler) or failed
stop            the scheduler has seen enough: the loop ends after the validation it is at
told.json       with --trial-workers: how many reports Tune has had
"""

import json
import os
from pathlib import Path
from typing import Any

from data.files import open_to_add, write_whole
from jobs.run.records import reading_from
from jobs.tune.subject import Settings

LEDGER_FILE, TRIALS = "ledger.jsonl", "trials"
SETTINGS_FILE, REPORTS_FILE, TRIAL_FILE, STOP_FILE = "settings.json", "reports.jsonl", "trial.json", "stop"
TOLD_FILE = "told.json"


def name_of(index: int) -> str:
    return f"{index:04d}"


def whole_lines(path: Path) -> list[str]:
    """The lines of a file, without the half line of a crash; none if it is absent."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith("\n")]


def write_report(run: Path, moment: int, figures: dict[str, Any]) -> dict[str, Any]:
    """Keep the figures that the trial would end with now; returns the record."""
    record = {"at": moment, "figures": figures}
    with open_to_add(run / REPORTS_FILE) as file:
        file.write(json.dumps(record) + "\n")
    return record


def read_reports(run: Path) -> list[dict[str, Any]]:
    """What a trial has reported; of an epoch or generation that was run twice, the later."""
    by_time = {}
    with reading_from(run / REPORTS_FILE):
        for line in whole_lines(run / REPORTS_FILE):
            record = json.loads(line)
            by_time[record["at"]] = record
        return [by_time[at] for at in sorted(by_time)]


class Ledger:
    """Settings of the trials by their number, in the order in which they were suggested."""

    def __init__(self, path: Path) -> None:
        self.path = path
        whole = whole_lines(path)
        if path.exists() and "".join(whole) != path.read_text():
            write_whole(path, "".join(whole))  # what a crash cut short is suggested again
        with reading_from(path):
            self.settings: list[Settings] = [dict(json.loads(line)) for line in whole]

    def add(self, settings: Settings) -> int:
        """Keep the settings of the next trial and return its number."""
        with open_to_add(self.path) as file:
            file.write(json.dumps(settings) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.settings.append(settings)
        return len(self.settings) - 1
