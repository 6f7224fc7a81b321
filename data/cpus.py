"""How many CPUs this process may use: by its affinity mask and by the quota of its control groups (containers)."""

import os
from pathlib import Path

GROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def usable_cpus() -> int:
    """At least 1. os.cpu_count sees neither the affinity mask nor a quota such as `docker run --cpus 2` sets; of a
    quota of 2.5 CPUs two are counted."""
    mask = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(mask, quota())))


def quota() -> float:
    """CPUs by the smallest quota on the way from the process's control group to the root; infinite if there is none."""
    found = [float("inf")]
    try:
        memberships = MEMBERSHIP.read_text().splitlines()
    except OSError:
        return found[0]
    for line in memberships:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            roots = (GROUPS, GROUPS / "unified")
        elif "cpu" in controllers.split(","):
            roots = (GROUPS / controllers, GROUPS / "cpu")
        else:
            continue
        for root in roots:
            place = root / path.lstrip("/")
            found += [share(folder) for folder in (place, *place.parents) if folder.is_relative_to(root)]
    return min(found)


def share(folder: Path) -> float:
    """The quota of one control group, infinite if it sets none."""
    try:
        if (folder / "cpu.max").exists():
            limit, period = (folder / "cpu.max").read_text().split()
        else:
            limit = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        found = float(limit) / float(period)  # "max" or -1: none
    except (OSError, ValueError, ZeroDivisionError):
        return float("inf")
    return found if found > 0 else float("inf")
