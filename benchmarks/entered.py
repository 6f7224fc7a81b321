"""How much code a command enters: files and functions of the project that run, in one process and its threads.

    python -m benchmarks.entered -- jobs.train --data runs/log --out runs/x --workers 0
    python -m benchmarks.entered --root ../older -- jobs.train --data runs/log --out runs/y --workers 0

`--root` names another checkout: its code runs, with options as it spells them. Imports are not counted, as they run
every module's top level; what is counted is what a reader would have to follow.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

PROGRAM = """
import runpy, sys, threading
from pathlib import Path
root, seen = Path.cwd(), set()

def note(frame, event, argument):
    if event == "call" and frame.f_code.co_name != "<module>":
        seen.add((frame.f_code.co_filename, frame.f_code.co_qualname))

sys.argv = sys.argv[1:]
sys.path.insert(0, str(root))
threading.setprofile(note)
sys.setprofile(note)
try:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
except SystemExit:
    pass
finally:
    sys.setprofile(None)
own = {(path, name) for path, name in seen
       if Path(path).is_relative_to(root) and ".venv" not in path and "<" not in name.split(".")[-1]}
print(f"ENTERED {len({path for path, _ in own})} files, {len(own)} functions")
"""


@dataclass
class Arguments:
    root: Path = Path(".")
    """The checkout whose command runs."""


def main(arguments: Arguments, words: list[str]) -> None:
    """Run the command, print its count."""
    command = [sys.executable, "-c", PROGRAM, *words]
    done = subprocess.run(command, cwd=arguments.root, capture_output=True, text=True, check=False)
    found = [line for line in done.stdout.splitlines() if line.startswith("ENTERED")]
    print(found[-1] if found else done.stderr[-2000:])


if __name__ == "__main__":
    own, words = sys.argv[1:], list[str]()
    if "--" in own:
        border = own.index("--")
        own, words = own[:border], own[border + 1 :]
    main(tyro.cli(Arguments, args=own, description=__doc__), words)
