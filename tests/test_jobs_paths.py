"""Paths among the options of a command."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from jobs.command.paths import absolute


@dataclass(frozen=True)
class Inner:
    judge: Path | None = None
    by: tuple[str, ...] = ("age",)


@dataclass
class Arguments:
    out: Path
    runs: tuple[Path, ...] = ()
    data: str = "runs/log"
    settings: Inner = field(default_factory=Inner)


def test_paths_of_arguments_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    given = Arguments(Path("~/out"), (Path("a"), Path("/b")), settings=Inner(Path("judge")))
    settings = Inner(tmp_path / "judge")
    assert absolute(given) == Arguments(Path("/home/me/out"), (tmp_path / "a", Path("/b")), settings=settings)
    assert given.out == Path("~/out")
    unchanged = Arguments(Path("/out"))
    assert absolute(unchanged) is unchanged
