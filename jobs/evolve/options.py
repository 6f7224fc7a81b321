"""The options of jobs.evolve: its own, the engine's settings and those of the objective that is named."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from data.errors import UserError
from data.nearest import correction
from es.config import ESConfig
from funnel.registry import DEFAULT_TUNABLE
from funnel.settings import changed, fields, keys, read
from jobs.command.cli import glance, parse, with_defaults, with_settings
from jobs.command.own_code import own_code
from jobs.command.preset import find_preset
from jobs.command.trust import check_names
from jobs.evolve.find import find_objective
from jobs.evolve.presets import PRESETS
from jobs.run.directory import RUN_FILE, read_json

GENERATIONS = 60
PREFIX = "settings"


def default_config() -> ESConfig:
    """The engine's settings where nothing else is said."""
    return ESConfig(generations=GENERATIONS, workers="auto")


@dataclass
class Arguments:
    groups: ClassVar[Mapping[str, str]] = {
        "out": "what is tuned",
        "resume": "runs that are there",
        "resamples": "judging",
    }
    out: Path | None = None
    """Run directory: new, or one of the same run to continue."""
    objective: str = DEFAULT_TUNABLE
    """What is tuned: a name of funnel/registry.py or es/objectives/registry.py, or your own as package.module:Class or
    path/to/file.py:Class. Options follow it."""
    start_from: Path | None = None
    """Another run of the same objective and dimension, finished or not: begin with its theta, not with the objective's
    own (and with what the objective has learned of its observations, if it does); the optimizer starts afresh."""
    preset: str = ""
    """Named settings (default, cautious, separable, evolution_strategy, or the objective's own), or a JSON file such as
    the best.json of jobs.tune; options given here win."""
    resume: Path | None = None
    """Continue the run in this directory with the settings it was started with; nothing else need be given."""
    replay: Path | None = None
    """Compute theta of the run in this directory again from its seed and returns; compare it with the checkpoint."""
    resamples: int = 1000
    """For an objective of yours whose `judge` resamples; ours have intervals without (docs/math.md)."""
    threads: int | None = None
    """Threads of this process, for BLAS, torch and the update; theta does not depend on the update's. Left out: what
    OMP_NUM_THREADS says, else as many as it may use CPUs. Workers have one each."""
    config: ESConfig = field(default_factory=default_config)
    settings: Any = field(default_factory=lambda: None)
    """The objective's own; None: its defaults."""

    def __post_init__(self) -> None:
        if not 10 <= self.resamples <= 100_000:
            raise UserError(f"--resamples is {self.resamples}: it must be between 10 and 100000")


def options(words: Sequence[str]) -> type:
    """Arguments with the settings of the objective that the words name; the defaults are those of the preset, or of the
    run that is to go on."""
    first = glance(words, objective=DEFAULT_TUNABLE, preset="", resume="")
    if first["resume"]:
        return resuming(Path(first["resume"]))
    kind = find_objective(first["objective"])
    values, source = find_preset(first["preset"], {**PRESETS, **kind.presets}, "evolve")
    config, settings = fill(kind.settings_type, values, source)
    return with_settings(Arguments, prefixed(kind.settings_type), config=config, settings=settings)


def arguments_of(*words: object) -> Arguments:
    """What the command line would give; raises UserError for an unknown option."""
    parsed: Arguments = parse(options, [str(word) for word in words])
    return parsed


def resuming(out: Path) -> type:
    """Arguments whose defaults are those that the run in `out` was started with."""
    out = out.expanduser().absolute()
    record = read_json(out / RUN_FILE)
    kept = kept_settings(record, f"--resume {out}")
    where = f"{out / RUN_FILE}: config"
    check_names({"objective": str(kept["objective"]), "settings": kept["settings"]}, where)
    kind = find_objective(kept["objective"])
    config = read(ESConfig, {**kept["es"], "workers": kept["workers"]}, where)
    settings: Any = read(kind.settings_type, kept["settings"], where)
    start = Path(kept["start_from"]) if "start_from" in kept else None
    own = {"objective": kept["objective"], "start_from": start, "resamples": kept["resamples"]}
    base = with_defaults(Arguments, out=out, **own)
    return with_settings(base, prefixed(kind.settings_type), config=config, settings=settings)


def kept_settings(record: dict[str, Any], where: str) -> dict[str, Any]:
    """What run.json keeps of a run's settings. Raises UserError for a run of another command or an earlier version."""
    kept = record.get("config")
    if record.get("kind") not in ("evolve", "evolve_objective") or not isinstance(kept, dict):
        raise UserError(f"{where}: is no run of jobs.evolve")
    if not {"objective", "settings", "es", "workers", "resamples"} <= kept.keys():
        raise UserError(
            f"{where}: was begun by an earlier version, which kept its settings in another form; a new run with "
            "--start-from and this directory begins with its theta"
        )
    return kept


def prefixed(settings_type: type) -> dict[str, str]:
    """The objective's settings have --settings. before their names if one of these is an option already."""
    taken = fields(ESConfig).keys() | fields(Arguments).keys()
    return {"settings": PREFIX} if taken & fields(settings_type).keys() else {}


def fill(settings_type: type, values: dict[str, Any], source: str, base: tuple[Any, Any] | None = None) -> Any:
    """(engine's settings, objective's settings) with values by dotted key in them; beyond the defaults, or `base`.

    Keys are the names of the options. Where the objective's settings have fields without a default and none is given,
    the dataclass itself stands for them. Raises UserError, naming the source, for a key that neither has.
    """
    config: Any
    settings: Any
    config, settings = base or (default_config(), None)
    engine: dict[str, Any] = {}
    own: dict[str, Any] = {}
    front = f"{PREFIX}." if prefixed(settings_type) else ""
    for key, value in values.items():
        name = key.split(".")[0]
        if front and key.startswith(front):
            own[key.removeprefix(front)] = value
        elif name in fields(ESConfig):
            engine[key] = value
        elif not front and name in fields(settings_type):
            own[key] = value
        else:
            valid = [*keys(ESConfig), *keys(settings_type, front)]
            raise UserError(f"{source}: unknown key {key!r}; {correction(key, valid, 'valid keys')}")
    config = changed(config, engine, source)
    try:
        config.check()
    except UserError as error:
        raise UserError(f"{source}: {error}" if source else str(error)) from None
    with own_code(f"--objective with the settings of {settings_type.__name__}"):
        if settings is not None:
            return config, changed(settings, own, source)
        if own or not needed(settings_type):
            return config, read(settings_type, own, source)
    return config, settings_type


def needed(settings_type: Any) -> list[str]:
    """Fields that have to be given."""
    missing = dataclasses.MISSING
    return [
        one.name
        for one in dataclasses.fields(settings_type)
        if one.init and one.default is missing and one.default_factory is missing
    ]
