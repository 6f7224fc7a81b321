"""Do the tests notice? One-line changes that each make the product wrong, and the tests that are to fail under them.

    python tests/mutants.py                     all of them, some ten minutes on two cores
    python tests/mutants.py bootstrap token     those whose name or file holds one of the words
    python tests/mutants.py --list

The changes are in mutants.toml. The checkout is copied, each change is made in a copy alone, and the tests named there
run on it (those that start Ray or take long are left out). Exit code 1, with a table of what is to be mended, if tests
pass under a change, do not pass without it, or `old` is not in its file exactly once. Run by hand, not by pytest.
"""

import argparse
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIST = Path(__file__).with_suffix(".toml")
LEFT_OUT = (".git", ".venv", "runs", "__pycache__", ".*_cache", ".hypothesis", "benchmarks/results")
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


def changes() -> list[Change]:
    entries = tomllib.loads(LIST.read_text())["change"]
    return [Change(**{**entry, "tests": tuple(entry["tests"].split())}) for entry in entries]


def pytest_in(copy: Path, words: Iterable[str]) -> tuple[int, str]:
    """Exit code, and the first failure (else the last line) of these tests (or options) in a copy of the checkout."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-m", "not ray and not slow"]
    # A change may leave a file's size and second as they were, which is all that Python's caches look at.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    words = [f"tests/{word}" if ".py" in word else word for word in words]
    try:
        done = subprocess.run(
            [*command, *words], cwd=copy, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return 1, f"not ended after {TIMEOUT_S} s"
    lines = done.stdout.splitlines() or done.stderr.splitlines() or [""]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return done.returncode, (failed or lines[-1:])[0]


def judge(copy: Path, change: Change) -> tuple[str, str]:
    """(noticed, survived or broken; what pytest said) with the change made in the copy, which is then as before."""
    path = copy / change.file
    before = path.read_text()
    path.write_text(before.replace(change.old, change.new))
    try:
        code, said = pytest_in(copy, change.tests)
    finally:
        path.write_text(before)
    return {0: SURVIVED, 1: NOTICED}.get(code, BROKEN), said  # 2: an import failed, 5: no test was chosen


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
    with tempfile.TemporaryDirectory(prefix="mutants-") as place, ThreadPoolExecutor(options.jobs) as pool:
        copies: queue.Queue[Path] = queue.Queue()
        for number in range(options.jobs):
            copy = Path(place) / str(number) / ROOT.name
            shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
            copies.put(copy)

        def tried(change: Change) -> tuple[str, Change, str]:
            copy, began = copies.get(), time.monotonic()
            try:
                state, said = judge(copy, change)
            finally:
                copies.put(copy)
            print(f"{state:8} {time.monotonic() - began:4.0f} s  {change.what}: {said[:110]}", flush=True)
            return state, change, said

        copy = copies.get()
        named = sorted({name for change in wanted for name in change.tests})
        code, said = pytest_in(copy, ["-n", str(options.jobs), *named])
        copies.put(copy)
        if code:
            print(f"without any change: {said}")
            return 1
        found = list(pool.map(tried, wanted))
    bad += [one for one in found if one[0] != NOTICED]
    print(f"\n{len(found)} changes, {len(found) - sum(one[0] != NOTICED for one in found)} noticed")
    for state, change, said in bad:
        print(f"{state:8}  {change.file}: {change.what}  ({said[:90]}; {' '.join(change.tests)})")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
