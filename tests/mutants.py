"""Do the tests notice? One-line changes that each make the product wrong, and the tests that are to fail under them.

    python tests/mutants.py                     all of them, some ten minutes on two cores
    python tests/mutants.py bootstrap token     those whose name or file holds one of the words
    python tests/mutants.py --list

The changes are in mutants.toml. The checkout is copied, each change is made in a copy alone, and the tests named there
run on it (those that start Ray or take long are left out). Exit code 1, with a table of what is to be mended, if tests
pass under a change, do not pass without it, or `old` is not in its file exactly once. Run by hand, not by pytest.
"""

import argparse
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = Path(__file__).with_suffix(".toml")
LEFT_OUT = (".git", ".venv", "runs", "__pycache__", ".*_cache", ".hypothesis", "results")
IMPORTED = ("hypothesis", "pyarrow.parquet", "pydantic", "pytest", "ray", "rich", "scipy.stats", "sklearn.linear_model",
            "torch", "tyro")  # fmt: skip
"""What takes seconds to import and is none of ours: once, before the processes that run tests are forked."""
TIMEOUT_S = 600
NOTICED, SURVIVED, BROKEN = "noticed", "SURVIVED", "BROKEN"


@dataclass(frozen=True)
class Change:
    """`old` -> `new` in a file; `tests`: what pytest is to run, by path under tests/."""

    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def problem(self, root: Path = ROOT) -> str:
        """Why the change cannot be made, or its tests not be run; "" if they can."""
        path = root / self.file
        times = path.read_text().count(self.old) if path.is_file() else 0
        absent = [name for name in self.tests if not (root / "tests" / name.partition("::")[0]).is_file()]
        if times != 1:
            return f"`old` stands {times} times in {self.file}"
        return f"no tests/{absent[0]}" if absent else ""

    def make(self, root: Path) -> None:
        path = root / self.file
        path.write_text(path.read_text().replace(self.old, self.new))


def changes() -> list[Change]:
    entries = tomllib.loads(LIST.read_text())["change"]
    return [Change(**{**entry, "tests": tuple(entry["tests"].split())}) for entry in entries]


def begin(copy: Path, change: Change | None, tests: Iterable[str]) -> int:
    """Fork a process that makes the change in the copy of the checkout and runs the tests there; its number. What it
    prints goes to a file beside the copy; its exit code is pytest's."""
    process = os.fork()
    if process:
        return process
    signal.alarm(TIMEOUT_S)
    os.setpgid(0, 0)
    output = os.open(copy.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(copy)
    sys.path[:] = [str(copy), *(place for place in sys.path if not place.startswith(str(ROOT / "tests")))]
    # A change may leave a file's size and second as they were, which is all that Python's caches look at.
    sys.dont_write_bytecode = True
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    if change is not None:
        change.make(copy)
    import pytest

    words = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not ray and not slow"]
    code = pytest.main([*words, *(f"tests/{name}" for name in tests)])
    sys.stdout.flush()
    os._exit(code)


def verdict(status: int, copy: Path) -> tuple[str, str]:
    """(noticed, survived or broken; the first failure, else the last line) from what waitpid says of a process."""
    if os.WIFSIGNALED(status):  # by its alarm, or by the change
        return NOTICED, f"ended by signal {os.WTERMSIG(status)}"
    lines = copy.with_suffix(".log").read_text(errors="replace").splitlines() or [""]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    code = os.waitstatus_to_exitcode(status)
    return {0: SURVIVED, 1: NOTICED}.get(code, BROKEN), (failed or lines[-1:])[0]  # 2: an import failed, 5: no test


def judge(place: Path, root: Path, given: Iterable[Change | None], jobs: int) -> Iterator[tuple[str, Change, str]]:
    """Each change with its verdict and what pytest said, in the order of their ends; None stands for no change."""
    waiting, running = list(given)[::-1], dict[int, tuple[Change, Path, float]]()
    every = tuple(sorted({name for change in waiting if change for name in change.tests}))
    while waiting or running:
        while waiting and len(running) < jobs:
            change = waiting.pop()
            copy = place / f"{len(waiting):04d}"
            shutil.copytree(root, copy)
            about = change or Change("no change", "", "", "", every)
            running[begin(copy, change, about.tests)] = about, copy, time.monotonic()
        process, status = os.wait()
        about, copy, began = running.pop(process)
        state, said = verdict(status, copy)
        shown = state if about.file else "passed" if state == SURVIVED else "FAILED"
        print(f"{shown:8} {time.monotonic() - began:4.0f} s  {about.what}: {said[:110]}", flush=True)
        shutil.rmtree(copy)
        yield state, about, said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--jobs", type=int, default=2, help="changes tried at the same time")
    options = parser.parse_args()
    wanted = [
        change
        for change in changes()
        if not options.words or any(word in f"{change.what} {change.file}" for word in options.words)
    ]
    if options.list:
        print("\n".join(f"{change.file}: {change.what}" for change in wanted))
        return 0
    bad = [(BROKEN, change, problem) for change in wanted if (problem := change.problem())]
    wanted = [change for change in wanted if not change.problem()]
    for name in IMPORTED:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        root = Path(place) / "root"  # as the checkout is now, whatever is done to it meanwhile
        shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(*LEFT_OUT))
        for state, change, said in judge(Path(place), root, [*wanted, None], options.jobs):
            if change.file == "":
                bad += [(BROKEN, change, said)] if state != SURVIVED else []
            elif state != NOTICED:
                bad.append((state, change, said))
    print(f"\n{len(wanted)} changes, {len(bad)} to be mended")
    for state, change, said in bad:
        print(f"{state:8}  {change.file}: {change.what}  ({said[:90]}; {' '.join(change.tests)})")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
