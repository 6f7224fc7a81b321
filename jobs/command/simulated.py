"""Simulated worlds on the command line: policies by name or from a file, and the logs that a world writes."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from data.credentials import check_tree
from data.errors import UserError
from data.nearest import correction
from data.write import PartFacts
from funnel.registry import find_logging
from funnel.settings import nested
from jobs.command.cli import with_settings
from jobs.command.trust import check_names
from jobs.run.directory import read_json


@dataclass
class Simulated:
    """What jobs.make_data writes of a simulated world."""

    groups: ClassVar[Mapping[str, str]] = {"out": "the log"}
    out: Path
    """Directory to make; it must be absent or empty."""
    world: str = ""
    """The simulated world: a name of funnel/registry.py."""
    policy: str = "plain"
    """What decides what is shown: a named policy, or a JSON file of stages' settings."""
    config: Any = field(default_factory=lambda: None)
    settings: Any = field(default_factory=lambda: None)


def simulated_options(world: str) -> type:
    """Simulated with the settings of that world and of its logs."""
    kind = find_logging(world)
    return with_settings(Simulated, config=kind.log_settings_type(), settings=kind.settings_type())


def write_simulated(args: Simulated, out: Path, progress: Callable[[int], None]) -> dict[str, PartFacts]:
    kind = find_logging(args.world)
    if not kind.presets and args.policy != Simulated.policy:
        raise UserError(f"--policy has no effect with --world {args.world}")
    policy, where = find_policy(args.policy, kind.presets, "--policy") if kind.presets else ({}, "")
    facts: dict[str, PartFacts] = kind.write(args.settings, args.config, policy, where, out, progress)
    return facts


def following_simulated(args: Simulated) -> tuple[object, ...]:
    """The command that the log of this world is for, ready to be copied."""
    leads_to = getattr(find_logging(args.world), "leads_to", ("check",))
    command: tuple[str, ...] = leads_to(args.config) if callable(leads_to) else leads_to
    return (*command, "--data", args.out, *(() if command[0] == "check" else ("--out", "runs/first")))


def find_policy(name: str, presets: Mapping[str, str], option: str) -> tuple[dict[str, Any], str]:
    """(plain settings of a policy, what it is called). `name`: a preset, or a JSON file's path.

    Raises UserError: no such preset or file, or a file that is broken or names code that is not trusted.
    """
    if name in presets:
        module, _, function = presets[name].partition(":")
        tree: dict[str, Any] = getattr(importlib.import_module(module), function)()
        return tree, name
    if not name:
        raise UserError(f"{option} is needed: {', '.join(presets)}, or a JSON file")
    path = Path(name).expanduser()
    if path.suffix != ".json" and not path.exists():
        raise UserError(f"{option} {name}: no such policy; {correction(name, presets, 'there are')}")
    record = read_json(path)
    check_tree(record, str(path))
    check_names(record, str(path))
    policy = record.get("policy", record)
    if not isinstance(policy, dict):
        raise UserError(f"{path}: its policy is no object of key: value")
    return nested(policy), str(path)
