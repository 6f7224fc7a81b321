"""What a page shows of an experiment: what its world makes of it."""

from funnel.panels import Panel, Record
from funnel.registry import DEFAULT_SIMULATOR, find_simulator
from jobs.command.trust import check_names


def panels(record: Record) -> list[Panel]:
    name = str((record.run.get("config") or {}).get("world") or DEFAULT_SIMULATOR)
    check_names({"name": name}, str(record.directory))
    shown: list[Panel] = find_simulator(name).panels(record)
    return shown
