"""A preset: settings by dotted key, from a system's named ones or from a JSON file such as the best.json of jobs.tune.

    {"preset": "train", "settings": {"objective.name": "escm2_dr", "optimizer": {"learning_rate": 0.002}}, "about": {}}

or the settings alone, nested or with dots. They become the defaults of the options: an option that is given wins.
"""

import json
from pathlib import Path
from typing import Any

from data.credentials import check_tree
from data.errors import UserError
from data.files import write_whole
from data.nearest import correction
from funnel.settings import changed, fields, flat, keys
from funnel.spaces import Presets
from jobs.command.trust import check_names
from jobs.run.directory import read_json


def write_preset(path: Path, job: str, settings: dict[str, Any], about: dict[str, Any]) -> None:
    """`job`: which command takes it, "train" or "evolve"."""
    write_whole(path, json.dumps({"preset": job, "settings": settings, "about": about}, indent=1) + "\n")


def find_preset(name: str, presets: Presets, job: str) -> tuple[dict[str, Any], str]:
    """Settings by dotted key, and how to call their source. `name`: of a preset, or a JSON file's path; "": none.

    Raises UserError: no such preset (the valid ones are listed), a file that is absent, broken or of another job.
    """
    if not name:
        return {}, ""
    if name in presets:
        return presets[name](), f"--preset {name}"
    path = Path(name).expanduser()
    if path.suffix != ".json" and not path.exists():
        raise UserError(
            f"--preset {name}: no such preset of jobs.{job}; there are {', '.join(presets)}, or a JSON file"
        )
    record = read_json(path)
    check_tree(record, str(path))
    kind = record.get("preset", job)
    if kind != job:
        raise UserError(f"{path}: a preset of jobs.{kind}, not of jobs.{job}")
    settings = record.get("settings", record)
    if not isinstance(settings, dict):
        raise UserError(f"{path}: its settings are no object of key: value")
    check_names(settings, str(path))
    return flat(settings), str(path)


def apply(settings: dict[str, Any], source: str, *configs: Any) -> tuple[Any, ...]:
    """Copies of some dataclasses of settings with the preset's values in the one that has the key.

    Raises UserError, naming the source, for a key that none has (listing the valid ones) or a value that cannot be.
    """
    shares: list[dict[str, Any]] = [{} for _ in configs]
    for key, value in settings.items():
        owner = next((n for n, config in enumerate(configs) if key.split(".")[0] in fields(type(config))), None)
        if owner is None:
            valid = [name for config in configs for name in keys(type(config))]
            raise UserError(f"{source}: unknown key {key!r}; {correction(key, valid, 'valid keys')}")
        shares[owner][key] = value
    return tuple(changed(config, share, source) for config, share in zip(configs, shares, strict=True))
