"""A preset file: settings as JSON, written by jobs.tune, taken by `--config` of jobs.train and jobs.evolve.

    {"preset": "train", "settings": {"objective.name": "escm2_dr", "optimizer": {"learning_rate": 0.002}}, "about": {}}

or the settings alone. Keys are those of `--set` (of jobs.evolve: its options and the settings of es/config.py), nested
or with dots. An option given beside the file wins where it is not the option's default; so does --set.
"""

import dataclasses
import typing
from pathlib import Path
from typing import Any, TypeVar

from distributed.config import TrainConfig
from es.config import ESConfig
from jobs.command.presets import Settings, What, find_preset
from jobs.command.settings import leaf_type, override, read, text_of
from jobs.run.directory import flatten, read_json, write_json

TRAIN_OPTIONS = {
    "objective.name": "objective",
    "model.backbone.name": "backbone",
    "epochs": "epochs",
    "seed": "seed",
    "tables": "tables",
}
"""Settings of jobs.train that have an option of their own."""
FUSION_OPTIONS = ("fusion", "metric", "k", "by", "constrain", "conversion_weight")
"""Options of jobs.evolve beside the engine's that decide the result."""

Arguments = TypeVar("Arguments")


def write_preset(path: Path, what: What, settings: Settings, about: dict[str, Any]) -> None:
    write_json(path, {"preset": what, "settings": settings, "about": about})


def read_preset(path: Path, what: What) -> Settings:
    """Settings by dotted key; ValueError naming the file for anything that is no preset of this kind of job."""
    record = read_json(path)
    kind = record.get("preset", what)
    if kind != what:
        raise ValueError(f"{path}: a preset of jobs.{kind}, not of jobs.{what}")
    settings = record.get("settings", record)
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: its settings are no object of key: value")
    return flatten(settings)


def assignments(settings: Settings) -> list[str]:
    return [f"{key}={text_of(value)}" for key, value in settings.items()]


def asked_for(what: What, config: Path | None, preset: str) -> tuple[Settings, str]:
    """The settings of --config or --preset, and how to call their source; ValueError if both are given."""
    if config is not None and preset:
        raise ValueError("--config and --preset: give one of the two")
    if config is not None:
        return read_preset(config.expanduser(), what), str(config)
    return (find_preset(what, preset), f"--preset {preset}") if preset else ({}, "")


def fill_train(arguments: Arguments, settings: Settings, source: str) -> Arguments:
    """Arguments of jobs.train with a preset's settings in them. ValueError, naming the source, for a bad one."""
    settings = check_train(settings, source)
    known = typing.cast(Any, arguments)
    own = {TRAIN_OPTIONS[key]: value for key, value in settings.items() if key in TRAIN_OPTIONS}
    rest = {key: value for key, value in settings.items() if key not in TRAIN_OPTIONS}
    changes = {name: value for name, value in own.items() if getattr(known, name) == getattr(type(known), name)}
    return typing.cast(
        Arguments,
        dataclasses.replace(known, config=None, preset="", set=(*assignments(rest), *known.set), **changes),
    )


def check_train(settings: Settings, source: str) -> Settings:
    """The settings by type; ValueError for an unknown key (listing the valid ones) or a value that cannot be."""
    try:
        known = flatten(dataclasses.asdict(override(TrainConfig(), assignments(settings), "setting")))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    for key, value in settings.items():
        check_text(value, leaf_type(TrainConfig, key), key, source)
    return {key: known[key] for key in settings}


def check_text(value: Any, hint: Any, key: str, source: str) -> None:
    """ValueError for a list, a number, ... where text is wanted: written as text it would be taken."""
    if hint is str and not isinstance(value, str):
        raise ValueError(f"{source}: {key} = {value!r} is not what this setting takes")


def fill_evolve(arguments: Arguments, settings: Settings, source: str) -> Arguments:
    """The same for arguments of jobs.evolve."""
    known = typing.cast(Any, arguments)
    values = check_evolve(type(known), settings, source)
    own = {name for name in values if hasattr(type(known), name)}
    changes = {name: values[name] for name in own if getattr(known, name) == getattr(type(known), name)}
    engine = assignments({name: value for name, value in values.items() if name not in own})
    return typing.cast(
        Arguments, dataclasses.replace(known, config=None, preset="", engine=(*engine, *known.engine), **changes)
    )


def check_evolve(kind: type, settings: Settings, source: str) -> Settings:
    """The settings by type; `kind` is jobs.evolve's Arguments."""
    hints = typing.get_type_hints(ESConfig)
    hints |= {name: typing.get_type_hints(kind)[name] for name in FUSION_OPTIONS}
    del hints["workers"]
    values = {}
    for key, value in settings.items():
        if key not in hints:
            raise ValueError(f"{source}: unknown key {key!r}; valid keys: {', '.join(hints)}")
        check_text(value, hints[key], key, source)
        try:
            values[key] = read(text_of(value), hints[key])
        except ValueError:
            raise ValueError(f"{source}: {key} = {value!r} is not what this setting takes") from None
    engine = {field.name for field in dataclasses.fields(ESConfig)}
    try:
        ESConfig(**{key: value for key, value in values.items() if key in engine}).check()
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    return values
