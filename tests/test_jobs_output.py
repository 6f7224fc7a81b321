"""What a job prints never ends it: encodings, closed pipes, closed descriptors, full disks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import evaluate
from jobs.command.output import WIDE, unread

ROOT = Path(__file__).resolve().parent.parent
COMMAND = '''
"""An example."""
import dataclasses, pathlib
from rich.console import Console
from funnel.panels import Table
from jobs.command.cli import main
from jobs.command.tables import print_table

@dataclasses.dataclass
class Arguments:
    out: pathlib.Path
    wrong: bool = False
    """Fail."""

def run(arguments):
    console = Console()
    for _ in range(3000):
        console.print("loss −0.1 ± 0.2 … café \\udce9 " + 60 * "x")
    print_table(console, Table("größer → besser", ("a", "b"), (("−1", "±2"),)))
    if arguments.wrong:
        from data.errors import UserError
        raise UserError("a – b")
    arguments.out.write_text("done")

main(run, Arguments, __doc__)
'''


def shell(tmp_path: Path, redirected: str, *words: str, **environment: str) -> tuple[int, str, bool]:
    """(exit code of the command, what was printed, whether its work was done)"""
    (tmp_path / "command.py").write_text(COMMAND)
    out = tmp_path / "out"
    out.unlink(missing_ok=True)
    line = f'"{sys.executable}" "{tmp_path}/command.py" --out "{out}" {" ".join(words)} {redirected}; '
    line = line if "|" not in redirected else line[:-2] + "; exit ${PIPESTATUS[0]}"
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    done = subprocess.run(["bash", "-c", line], capture_output=True, env=env, cwd=tmp_path, timeout=120)
    return done.returncode, (done.stdout + done.stderr).decode("latin-1"), out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_an_encoding_without_our_characters_ends_no_job(tmp_path: Path, encoding: str) -> None:
    code, printed, done = shell(tmp_path, "", PYTHONIOENCODING=encoding)
    assert (code, done) == (0, True), printed[-2000:]
    assert "Traceback" not in printed
    assert printed.count("loss") == 3000
    if encoding == "ascii":
        assert "loss -0.1 +- 0.2 ... caf? ?" in printed
        assert printed.isascii()


@pytest.mark.slow
def test_a_locale_without_utf8_ends_no_job(tmp_path: Path) -> None:
    plain = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert shell(tmp_path, "", **plain)[::2] == (0, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "redirected", ["| head -n 1", "| true", ">&-", ">&- 2>&-", "<&- >&- 2>&-", ">/dev/full", ">/dev/full 2>&1"]
)
def test_no_reader_no_descriptor_and_no_room_end_no_job(tmp_path: Path, redirected: str) -> None:
    code, printed, done = shell(tmp_path, redirected)
    assert (code, done) == (0, True), printed[-2000:]
    assert "Traceback" not in printed
    assert "Exception" not in printed


@pytest.mark.slow
@pytest.mark.parametrize("redirected", ["| head -n 1", ">&-", "2>&-", ">/dev/full"])
def test_a_mistake_keeps_its_exit_code_and_its_line(tmp_path: Path, redirected: str) -> None:
    code, printed, done = shell(tmp_path, redirected, "--wrong", PYTHONIOENCODING="ascii")
    assert (code, done) == (2, False)
    assert ("error: a \\u2013 b" in printed) == ("2>&-" not in redirected)


@pytest.mark.slow
def test_help_into_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    code, printed, _ = shell(tmp_path, "| true", "--help")
    assert (code, printed) == (0, "")


@pytest.mark.slow
def test_a_pipe_gets_tables_at_their_own_width(tmp_path: Path) -> None:
    assert "x" * 60 + "\n" in shell(tmp_path, "")[1], f"lines of less than {WIDE} columns are not wrapped"


def test_a_stream_of_a_test_is_left_alone() -> None:
    assert not unread()


@pytest.mark.slow
def test_a_missing_report_is_written_by_the_same_command(trained_run: Path, small_log: Path, tmp_path: Path) -> None:
    out = tmp_path / "judged"
    given = evaluate.Arguments(run=trained_run, data=str(small_log), out=out, replicates=40)
    evaluate.run(given)
    before = (out / "report.html").read_bytes()
    (out / "report.html").unlink()
    evaluate.run(given)
    assert len((out / "report.html").read_bytes()) == len(before)


@pytest.mark.slow
def test_the_report_is_there_before_anything_is_shown(
    trained_run: Path, small_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "judged"

    def show(*_: object) -> None:
        assert (out / "report.html").exists()
        raise UnicodeEncodeError("ascii", "±", 0, 1, "nothing is printed any more")

    monkeypatch.setattr(evaluate, "print_table", show)
    with pytest.raises(UnicodeEncodeError):
        evaluate.run(evaluate.Arguments(run=trained_run, data=str(small_log), out=out, replicates=40))
    assert (out / "summary.json").exists()
