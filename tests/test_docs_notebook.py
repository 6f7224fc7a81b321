"""The notebook of the docs runs from its first cell to its last, as it is committed: without outputs."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_says(tmp_path, monkeypatch):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs for cell in cells)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    said = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
    assert "Training escm2_snips" in said
    assert "epoch 1: valid" in said
    assert "Traceback" not in said
    assert "warn" not in said.lower().replace("warning: column", "")
    pages = [output.data["text/html"] for cell in cells for output in cell.outputs if "data" in output
             and "text/html" in output.data]  # fmt: skip
    assert len(pages) == 5  # the log, the run, its figures, the tuned order, the page
    assert "<caption>test part</caption>" in pages[1]
    assert pages[-1].startswith("<iframe")
    assert "not significant" in said
    assert "\x1b" not in said, "a notebook is no terminal"
