"""The page: the panels of all runs in their sections, how to repeat them, and the file written whole or not at all."""

import itertools
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from data.errors import UserError
from data.files import make_directory, write_whole
from funnel.numbers import compact, count, true_minus
from funnel.panels import RUNS, Calibration, Cell, Curve, Glossary, Intervals, Panel, Record, Sentence, Series, Table
from jobs.report.compare import Shown, sections
from jobs.report.places import place, repeatable, without_roots
from jobs.report.runs import Run, panels_of
from jobs.report.tables import Grid, Group

MARKER = '<meta name="generator" content="counterpoint.report">'
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Picture:
    title: str
    svg: Markup
    note: str = ""
    """What is to be said of it alone."""


@dataclass(frozen=True)
class Figure:
    """Pictures in a row of the page's grid, `columns` of them side by side, and what is to be said of all."""

    pictures: tuple[Picture, ...]
    columns: int
    caption: str


def render(runs: Sequence[Run]) -> str:
    """The report as one HTML document that refers to nothing outside itself."""
    records = [run.record for run in runs]
    panels = [(record.name, panels_of(record)) for record in records]
    body = {title: blocks(shown, f"s{place}") for place, (title, shown) in enumerate(sections(panels).items())}
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html.j2").render(
        marker=Markup(MARKER),
        style=Markup((HERE / "style.css").read_text(encoding="utf-8")),
        title=" · ".join(record.name for record in records),
        written=time.strftime("%Y-%m-%d %H:%M"),
        headlines=[(name, headline(shown)) for name, shown in panels],
        sections={title: shown for title, shown in body.items() if title != RUNS},
        costs=body.get(RUNS, []),
        data=data_of(records),
        cards=[card(run) for run in runs],
        glossary=glossary([panel for _, shown in panels for panel in shown]),
    )


def headline(panels: Sequence[Panel]) -> str:
    return true_minus(" ".join(panel.text for panel in panels if isinstance(panel, Sentence) and panel.headline))


def glossary(panels: Sequence[Panel]) -> dict[str, str]:
    return {word: text for panel in panels if isinstance(panel, Glossary) for word, text in panel.terms}


def blocks(panels: Sequence[Shown], name: str) -> list[Grid | Sentence | Figure]:
    """Tables and sentences as they are; pictures of one size that follow each other in one figure."""
    found: list[Grid | Sentence | Figure] = []
    for at, panel in enumerate(panels):
        if isinstance(panel, Sentence):
            found.append(replace(panel, text=true_minus(panel.text)))
            continue
        if isinstance(panel, Grid):
            found.append(panel)
            continue
        if isinstance(panel, Curve) and short(panel):
            if not (at and isinstance(panels[at - 1], Curve) and short(panels[at - 1])):
                found += [Grid.of(one, [Group("", [list(row) for row in one.rows])]) for one in few(panels[at:])]
            continue
        picture = Picture(panel.title, Markup(drawn(panel, f"{name}-{at}")), panel.note)
        if not picture.svg:
            continue
        columns, last = columns_of(panel), found[-1] if found else None
        # Large pictures fill a row together, whatever they show; small ones only with their like.
        if isinstance(last, Figure) and last.columns == columns and (columns == 2 or panel.note in ("", last.caption)):
            found[-1] = Figure((*last.pictures, picture), columns, last.caption)
        else:
            found.append(Figure((picture,), columns, panel.note))
    return [captioned(block) if isinstance(block, Figure) else block for block in found]


def captioned(figure: Figure) -> Figure:
    """What holds for all of its pictures under all of them, once; else each note under its picture."""
    notes = [picture.note for picture in figure.pictures]
    if len(set(notes)) > 1:
        said = [note if at == 0 or note != notes[at - 1] else "" for at, note in enumerate(notes)]
        pictures = (replace(picture, note=note) for picture, note in zip(figure.pictures, said, strict=True))
        return replace(figure, pictures=tuple(pictures), caption="")
    return replace(figure, pictures=tuple(replace(picture, note="") for picture in figure.pictures))


FEW = 3
"""Points from which a curve is worth a picture."""


def short(panel: Shown) -> bool:
    """Whether a curve has so few points that numbers say it better."""
    return isinstance(panel, Curve) and not panel.bars and all(len(each.x) < FEW for each in panel.series)


def few(panels: Sequence[Shown]) -> list[Table]:
    """The short curves that these panels begin with, as one table: a row a line, a column a place. Lines without a name
    beside others that have one, the many in the background of a picture, are left out."""
    begun = list(itertools.takewhile(short, panels))
    rows: list[tuple[Curve, Series]] = []
    for panel in begun:
        assert isinstance(panel, Curve)
        named = [each for each in panel.series if each.name]
        rows += [(panel, each) for each in named or panel.series]
    places = {(panel.x_label, float(x)): place_name(panel, x) for panel, each in rows for x in each.x}
    known = sorted(places)
    cells = [(row_name(panel, each, len(begun)), *(value_at(panel, each, place) for place in known))
             for panel, each in rows]  # fmt: skip
    title = panels[0].title if len(begun) == 1 and isinstance(panels[0], Curve) else ""
    return [Table(title, ("", *(places[place] for place in known)), tuple(cells))] if cells else []


def place_name(panel: Curve, x: float) -> str:
    return panel.names[int(x)] if panel.names else f"{panel.x_label} {compact(x)}"


def row_name(panel: Curve, series: Series, panels: int) -> str:
    """The line's name where one panel is shown, else the panel's with that of the line."""
    if panels == 1:
        return series.name or panel.title
    return f"{panel.title}: {series.name}" if series.name and len(panel.series) > 1 else panel.title


def value_at(panel: Curve, series: Series, place: tuple[str, float]) -> Cell:
    found = [y for x, y in zip(series.x, series.y, strict=True) if (panel.x_label, float(x)) == place]
    return compact(found[0]) if found else None


def drawn(panel: Curve | Intervals | Calibration, name: str) -> str:
    from jobs.report import draw  # matplotlib takes its time to import, and commands that end with a page begin with us

    if isinstance(panel, Curve):
        return draw.curve(panel, name)
    return draw.intervals(panel, name) if isinstance(panel, Intervals) else draw.calibration(panel, name)


def columns_of(panel: Curve | Intervals | Calibration) -> int:
    """How many of its size stand side by side."""
    if isinstance(panel, Curve):
        return 2 if len(panel.series) > 1 else 3
    if isinstance(panel, Intervals):
        return 4 if panel.small else 2
    return 2 if len(panel.groups) > 1 else 4


def data_of(records: Sequence[Record]) -> list[tuple[str, str, str]]:
    """(location, sizes, runs that read it) of each log once."""
    shared: dict[tuple[str, str], list[str]] = {}
    for record in records:
        data: dict[str, Any] = record.run.get("data") or {}
        location = place(str(data.get("location") or data.get("scored") or ""), record.directory.parent)
        if not location:
            continue
        if data.get("name") and data["name"] not in location:
            location = f"{data['name']}: {location}"
        sizes = [f"{key} {count(data[key])}" for key in ("rows", "users", "requests") if isinstance(data.get(key), int)]
        shared.setdefault((location, "; ".join(sizes)), []).append(record.name)
    return [(*key, ", ".join(names)) for key, names in shared.items()]


def card(run: Run) -> dict[str, Any]:
    """The facts of a run that are read when something must be repeated."""
    record = run.record.run
    commit, dirty = str(record.get("git") or "").partition("+")[::2]
    hardware: dict[str, Any] = record.get("hardware") or {}
    known = {"cores": "{} cores", "memory_gib": "{} GiB", "cpu": "{}"}
    hard = [known.get(key, f"{key} {{}}").format(value) for key, value in hardware.items()]
    versions = [f"{name} {version}" for name, version in (record.get("versions") or {}).items()]
    return {
        "name": run.record.name,
        "kind": record.get("kind"),
        "notes": run.notes,
        "facts": [
            ("Directory", run.record.directory.name),
            ("Command", repeatable(str(record.get("command") or "not recorded"), run.record.directory.parent)),
            ("Commit", f"{commit} with uncommitted changes" if dirty else commit or "not recorded"),
            ("Started", started(record.get("started"))),
            ("Versions", ", ".join(versions) or "not recorded"),
            ("Hardware", ", ".join(hard) or "not recorded"),
        ],
        "config": json.dumps(
            without_roots(record.get("config") or {}, run.record.directory.parent), indent=2, ensure_ascii=False
        ),
    }


def started(stamp: object) -> str:
    """2026-05-01T10:00:00+0000 -> 2026-05-01 10:00:00 +0000"""
    text = str(stamp or "not recorded")
    match = re.match(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(.*)$", text)
    return " ".join(part for part in match.groups() if part) if match else text


def check_target(out: Path) -> None:
    """Raise UserError if `out` holds anything but an earlier report."""
    if out.is_dir():
        raise UserError(f"--out {out} is a directory; name a file, {out / 'report.html'} say")
    if out.exists() and MARKER not in out.read_bytes()[:4096].decode(errors="replace"):
        raise UserError(f"--out {out} exists and is not a report of ours: choose another name")


def write(out: Path, runs: Sequence[Run]) -> None:
    make_directory(out.parent)
    write_whole(out, render(runs))
