"""The objective that docs/evolve.md begins with runs as it is printed there, by the commands below it."""

import re
import shlex
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from jobs import evolve, report
from jobs.command.cli import parse

ROOT = Path(__file__).resolve().parent.parent


def test_the_first_objective_of_the_page_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "evolve.md").read_text()
    code = page.split("```python\n", 1)[1].split("```", 1)[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    name = re.match(r"# (\w+\.py)\n", code)
    assert name
    (tmp_path / name[1]).write_text(code)
    monkeypatch.chdir(tmp_path)
    first, second = re.findall(r"^    python -m jobs\.(\w+) (.*)$", page, flags=re.MULTILINE)[:2]
    assert (first[0], second[0]) == ("evolve", "report")
    summary = evolve.run(evolve.arguments_of(*shlex.split(first[1])))
    assert summary["es.final_return"] == pytest.approx(0, abs=1e-3)
    theta = load_file(tmp_path / "runs" / "valley" / "checkpoint.safetensors")["theta"]
    assert theta == pytest.approx([2.0, 2.0, 2.0], abs=0.03)
    written = report.run(parse(report.Args, shlex.split(second[1])))
    assert written == tmp_path / "valley.html"
