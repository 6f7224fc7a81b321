"""What a run was made from: the same data spelt another way go on, other data, models and calibrations do not."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from support import arguments, change_column, change_schema, copy

from data.errors import UserError
from data.identity import PIECE_BYTES, WHOLE_BYTES, content_checksum, log_identity
from data.log import open_log
from jobs import evolve, train, tune


class Kill(BaseException):
    """Stands for SIGKILL."""


def stopped(out: Path, log: Path | str, monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    """A training that was stopped before its first step."""
    with monkeypatch.context() as patch:
        patch.setattr(train, "figures_of", lambda *_: (_ for _ in ()).throw(Kill))
        with pytest.raises(Kill):
            train.run(arguments(log, out, *words))


def change_record(run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = read(run / "run.json")
    change(record)
    (run / "run.json").write_text(json.dumps(record))


def read(path: Path) -> Any:
    return json.loads(path.read_text())


# ---- the log ----


def rows(path: Path) -> Path:
    """More rows: another file."""
    shutil.copy(path / "train" / "part-00000.parquet", path / "train" / "part-99999.parquet")
    return path


def swapped(path: Path) -> Path:
    """The same rows in another order, in the file's last row group."""
    file = sorted((path / "valid").glob("*.parquet"))[-1]
    table = pq.read_table(file)
    pq.write_table(table.take(np.arange(len(table))[::-1]), file)
    return path


def relabelled(path: Path) -> Path:
    change_column(path, "train", "click", lambda label_R: np.ones_like(label_R))
    return path


def retruthed(path: Path) -> Path:
    file = sorted((path / "truth" / "test").glob("*.parquet"))[-1]
    pq.write_table(pq.read_table(file).slice(0, 5), file)
    return path


def reschemaed(path: Path) -> Path:
    change_schema(path, lambda schema: schema.update(user=None))
    return path


def without_test(path: Path) -> Path:
    shutil.rmtree(path / "test")
    return path


OTHERS: list[tuple[Callable[[Path], Path], str]] = [
    (rows, r"train had 4,800 rows, [\d,]+ clicks, [\d,]+ conversions, .*log has 6,[\d,]+ rows, [\d,]+ clicks"),
    (relabelled, r"train had 4,800 rows, ([\d,]+) clicks, .* has 4,800 rows, (?!\1)[\d,]+ clicks"),
    (swapped, r"valid of .*log has other values now \(600 rows, \d+ clicks, \d+ conversions then and now\)"),
    (retruthed, r"test of .*log has other values now \(600 rows"),
    (reschemaed, r"the schema\.json of .*log was another one"),
    (without_test, r"it had the parts train, valid, test, .*log has train, valid;"),
]


@pytest.mark.parametrize(("change", "message"), OTHERS)
def test_another_log_under_the_same_path(
    place: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], Path], message: str
) -> None:
    """Neither does a stopped run go on with it, nor is a finished one called so."""
    stopped(place / "stopped", place / "log", monkeypatch)
    change(place / "log")
    before = read(place / "stopped" / "run.json")
    for out in ("stopped", "run"):
        with pytest.raises(UserError, match=rf"--out .*{out} was begun on another log: {message}") as refused:
            train.run(arguments(place / "log", place / out))
        assert "\n" not in str(refused.value)
    assert read(place / "stopped" / "run.json") == before


def test_the_same_log_by_another_name(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "link").symlink_to(place / "log")
    shutil.copytree(place / "log", place / "elsewhere")
    monkeypatch.chdir(place)
    for name in ("log", f"{place}/log/", "./log/../log", "link", f"file://{place}/log", "elsewhere"):
        train.run(arguments(name, place / "run"))
        assert "is finished already" in capsys.readouterr().out, name
    stopped(place / "stopped", place / "log", monkeypatch)
    train.run(arguments("link/", place / "stopped"))
    assert "Continuing" in capsys.readouterr().out
    one, other = (read(place / name / "summary.json") for name in ("stopped", "run"))
    assert one["train.model"] == other["train.model"]


def test_a_finished_run_whose_log_is_gone(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_record(place / "run", lambda record: record["config"].update(data=f"{place}/log"))
    shutil.rmtree(place / "log")
    train.run(arguments(place / "log", place / "run"))
    assert "is finished already" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"data was .*log, now .*other"):
        train.run(arguments(place / "other", place / "run"))


def test_a_search_on_another_log(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = place / "search"
    from jobs.tune import driver

    monkeypatch.setattr(driver, "conduct", lambda *_: (_ for _ in ()).throw(Kill))
    monkeypatch.setattr(tune, "connect", lambda *_: None)
    words = ("--out", out, "--samples", 1, "--concurrent", 1)
    with pytest.raises(Kill):
        tune.run(tune.arguments_of("--data", place / "log", *words))
    with pytest.raises(Kill):  # goes on
        tune.run(tune.arguments_of("--data", f"{place}/log/", *words))
    rows(place / "log")
    with pytest.raises(UserError, match="was begun on another log: train had 4,800 rows"):
        tune.run(tune.arguments_of("--data", place / "log", *words))


def test_a_change_in_a_large_file(tmp_path: Path) -> None:
    """Its pieces are spread from its first byte to its last."""
    filesystem = pyarrow.fs.LocalFileSystem()
    path = tmp_path / "large"
    content = bytearray(WHOLE_BYTES + 5)
    path.write_bytes(content)
    before = content_checksum(filesystem, str(path))
    for place in (0, len(content) - 1, (len(content) - PIECE_BYTES) // 3 + 7):
        content[place] = 1
        path.write_bytes(content)
        assert content_checksum(filesystem, str(path)) != before
        content[place] = 0
    path.write_bytes(content + b"\0")
    assert content_checksum(filesystem, str(path)) != before


def test_a_copy_is_the_same_log(small_log: Path, tmp_path: Path) -> None:
    parts = ("train", "test")
    one, other = (log_identity(open_log(str(log)), parts) for log in (small_log, copy(small_log, tmp_path)))
    assert one == other
    assert one["parts"]["train"]["rows"] == 4800
    assert one["parts"]["train"]["content"] != one["parts"]["test"]["content"]


# ---- other runs ----


def test_a_run_that_another_began_with_was_trained_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(place / "next", place / "log", monkeypatch, "--start-from", place / "run")
    shutil.rmtree(place / "run")
    train.run(arguments(place / "log", place / "run", "--seed", 7))
    with pytest.raises(UserError, match=r"--start-from .*run: holds another model now than when .*next was begun"):
        train.run(arguments(place / "log", place / "next", "--start-from", place / "run"))


def test_an_evolution_that_another_began_with_has_gone_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sphere = ("--objective", "sphere", "--workers", 0, "--generations", 3)
    evolve.run(evolve.arguments_of(*sphere, "--out", tmp_path / "first"))
    words = (*sphere, "--out", tmp_path / "next", "--start-from", tmp_path / "first")
    module = sys.modules["jobs.evolve.conduct"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "evolve", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            evolve.run(evolve.arguments_of(*words))
    shutil.rmtree(tmp_path / "first")
    evolve.run(evolve.arguments_of(*sphere, "--out", tmp_path / "first", "--seed", 1))
    with pytest.raises(UserError, match=r"--start-from .*first: holds another theta now than when .*next was begun"):
        evolve.run(evolve.arguments_of(*words))
