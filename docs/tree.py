"""Writes docs/tree.md: every file of the product in one line, which is the first sentence of its docstring.

python docs/tree.py            # a test fails where the page is not what this writes
"""

import ast
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {
    "models": "networks and losses: torch only, no ranks, no Ray, no files",
    "data": "logs: their schema, reading and writing; generated worlds and public formats",
    "es": "the evolution-strategies engine: knows no recommender",
    "funnel": "the systems of a recommender funnel, one folder each: pure, no Ray, no ranks, no run directories",
    "distributed": "trains any problem, data-parallel on Ray Train",
    "jobs": "one file a command, python -m jobs.NAME, and what commands share",
    "benchmarks": "scripts behind every claim; results/ holds dated files that name hardware, versions and spread",
    "docs": "pages",
}
WIDTH, WORDS = 40, 78


def page() -> str:
    """The text of docs/tree.md, from the files that git knows or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    lines = ["# The tree", "", "Every file of the product in one line; `docs/tree.py` writes this page.", "", "```"]
    for room, what in ROOMS.items():
        lines.append(f"{room + '/':<{WIDTH}}{what}")
        inside = sorted((path for path in found if path.startswith(f"{room}/") and (ROOT / path).exists()), key=order)
        shown: tuple[str, ...] = (room,)
        for path in inside:
            folders = tuple(path.split("/")[:-1])
            if "results" in folders or (path.endswith("__init__.py") and not (ROOT / path).read_text()):
                continue
            for depth in range(1, len(folders)):
                if folders[: depth + 1] != shown[: depth + 1]:
                    lines.append("    " * depth + folders[depth] + "/")
            shown = folders
            what = summary(ROOT / path)
            if what:
                lines.append(f"{'    ' * len(folders) + path.split('/')[-1]:<{WIDTH}}{what}".rstrip())
        lines.append("")
    lines[-1:] = ["```", "", "`tests/` is flat: `test_ROOM_*.py`; `support.py` has what several of them use, "
                  "`test_layout.py` the house rules.", ""]  # fmt: skip
    return "\n".join(lines)


def order(path: str) -> tuple[tuple[bool, str], ...]:
    """Files of a folder before its folders."""
    parts = path.split("/")
    return tuple((number < len(parts) - 1, part) for number, part in enumerate(parts))


def summary(path: Path) -> str:
    """The first sentence of a module's docstring, or a page's heading; "" for other files."""
    if path.suffix == ".md":
        return path.read_text().split("\n", 1)[0].lstrip("# ")
    if path.suffix != ".py":
        return ""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    first = re.split(r"(?<![ (]al)(?<![ (]s)[.;](?:\s|$)", " ".join(text.split("\n\n")[0].split()), maxsplit=1)[
        0
    ].rstrip(":")
    return first if len(first) <= WORDS else first[:WORDS].rsplit(" ", 1)[0] + " ..."


if __name__ == "__main__":
    (ROOT / "docs" / "tree.md").write_text(page())
