"""The options of jobs.tune: its own, and the settings that all trials share, of what is searched for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from data.errors import UserError
from distributed.config import TrainConfig
from es.config import ESConfig
from funnel.registry import DEFAULT_PROBLEM, find_problem
from funnel.settings import flat, plain, read
from funnel.spaces import Space, Spaces
from jobs.command.cli import glance, parse, with_defaults, with_settings
from jobs.command.trust import check_names
from jobs.evolve.find import find_objective, place
from jobs.evolve.options import default_config
from jobs.evolve.presets import SPACES as ENGINE_SPACES
from jobs.evolve.presets import standard
from jobs.run.directory import RUN_FILE, read_json

TUNING = "tuning"
"""What the settings of a tunable are called in options: --tuning.k."""


@dataclass
class Arguments:
    groups: ClassVar[Mapping[str, str]] = {
        "out": "what is searched",
        "samples": "how",
        "metric": "what for",
        "trial_workers": "where",
    }
    out: Path | None = None
    """Run directory of the search: new, or one of the same search to continue."""
    problem: str = ""
    """Search the settings of jobs.train --problem NAME; entire_space where no --objective is named either."""
    objective: str = ""
    """Search the settings of jobs.evolve --objective NAME instead; its own settings are options with --tuning."""
    data: str = ""
    """For a problem: log directory (path or URI), which all nodes can reach."""
    samples: int = 20
    """Trials; the first one is the default configuration. With pbt: the size of the population."""
    space: str = "standard"
    """Where to look: one of the problem's or the objective's spaces; one that is not there is answered by their names.
    An option that is given holds for all trials, and is not searched."""
    hold: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY ...")] = ()
    """Settings of the space that are not searched, besides those given as options."""
    scheduler: Literal["asha", "pbt", "none"] = "asha"
    """asha stops the trials that fall behind; pbt lets them take over weights and settings of better ones (of a
    problem, a space's rates and weights only); none lets each end."""
    search: Literal["optuna", "random"] = "optuna"
    """How settings are chosen: by Optuna's TPE from the trials so far, or independently. pbt draws them."""
    metric: str = ""
    """Validation figure to bring up, or down where smaller is better; left out, the problem's or objective's own."""
    subject_to: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIGURE>=X ...")] = ()
    """Limits on other figures, such as ctr.auc>=0.62: what keeps them beats what does not."""
    pareto: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIGURE FIGURE")] = ()
    """Two figures at once instead of --metric: the trials that none beats in both. Needs --scheduler none."""
    trial_workers: int = 0
    """For a problem: Ray Train workers of each trial, 2 or more, one CPU (or GPU, where there is one for each) apiece;
    0 trains in the trial's own process."""
    concurrent: int = 0
    """Trials at a time, each of one CPU or of --trial-workers; 0: as many as this machine has room for."""
    resume: Path | None = None
    """Continue the search in this directory with the settings it was started with; nothing else need be given."""
    config: Any = field(default_factory=lambda: None)
    """Of the training, or of the engine; None: the defaults."""
    settings: Any = field(default_factory=lambda: None)
    """Of the problem, or of the tunable; None: its defaults."""

    @property
    def trains(self) -> bool:
        """Whether trials are trainings."""
        return not self.objective

    @property
    def kind(self) -> Any:
        """The class whose settings are searched. Raises UserError for names that are none."""
        return kind_of(self.problem, self.objective)


def kind_of(problem: str, objective: str) -> Any:
    if problem and objective:
        raise UserError("--problem and --objective: give one of the two")
    return find_objective(objective) if objective else find_problem(problem or DEFAULT_PROBLEM)


def first_config(objective: str) -> TrainConfig | ESConfig:
    """The defaults of the training, or of the engine."""
    return default_config() if objective else TrainConfig()


def options(words: Sequence[str]) -> type:
    """Arguments with the settings of what the words name; of a search that is to go on, with its own as defaults."""
    first = glance(words, problem="", objective="", space="standard", resume="")
    if first["resume"]:
        return resuming(Path(first["resume"]))
    kind = kind_of(first["problem"], first["objective"])
    names = {"settings": TUNING} if first["objective"] else {}
    made = with_settings(
        Arguments, names, config=first_config(first["objective"]), settings=default_settings(kind.settings_type)
    )
    space = spaces_of(kind, bool(first["objective"])).get(first["space"], dict)()
    given = {word.partition("=")[0] for word in words if word.startswith("--")}
    held = tuple(key for key in space if given & {f"--{name.replace('_', '-')}" for name in (key, f"{TUNING}.{key}")})
    return with_defaults(made, hold=held) if held else made


def default_settings(settings_type: Any) -> Any:
    """An instance, or the dataclass itself if some of its fields have to be given."""
    from jobs.evolve.options import needed

    return settings_type if needed(settings_type) else settings_type()


def arguments_of(*words: object) -> Arguments:
    """What the command line would give; raises UserError for an unknown option."""
    parsed: Arguments = parse(options, [str(word) for word in words])
    return parsed


def spaces_of(kind: Any, evolves: bool) -> Spaces:
    """The spaces by name; those of a tunable are searched together with the engine's standard one."""
    if not evolves:
        return dict(kind.spaces)
    return {**ENGINE_SPACES, **{name: joined(make) for name, make in kind.spaces.items()}}


def joined(make: Any) -> Any:
    return lambda: {**make(), **standard()}


def find_space(kind: Any, evolves: bool, name: str) -> Space:
    """Raises UserError, listing the names there are, for one that is none."""
    spaces = spaces_of(kind, evolves)
    if name not in spaces:
        raise UserError(f"--space {name}: no such space of {kind.name}; there are {', '.join(spaces) or 'none'}")
    return spaces[name]()


def held(arguments: Arguments) -> set[str]:
    """Keys of settings that are not searched: named by --hold, or not at their defaults (where data lie is none)."""
    defaults = flat(plain(first_config(arguments.objective)))
    now = flat(plain(arguments.config))
    if not isinstance(own := default_settings(arguments.kind.settings_type), type):
        defaults |= flat(plain(own))
        paths = [name for name, value in vars(arguments.settings).items() if isinstance(value, Path)]
        now |= {key: value for key, value in flat(plain(arguments.settings)).items() if key not in paths}
    return {*arguments.hold, *(key for key, value in now.items() if value != defaults.get(key, value))}


def recorded(arguments: Arguments) -> dict[str, Any]:
    """run.json's config: all that --resume needs, and what a search that goes on is compared by."""
    own = ("problem", "data", "samples", "space", "scheduler", "search", "metric", "concurrent", "trial_workers")
    lists = {name: list(getattr(arguments, name)) for name in ("hold", "subject_to", "pareto")}
    record = {name: getattr(arguments, name) for name in own} | lists
    record["objective"] = place(arguments.objective)
    return record | {"config": plain(arguments.config), "settings": plain(arguments.settings)}


def resuming(out: Path) -> type:
    """Arguments whose defaults are those that the search in `out` was started with."""
    out = out.expanduser().absolute()
    record = read_json(out / RUN_FILE)
    kept = record.get("config")
    if record.get("kind") != "tune" or not isinstance(kept, dict):
        raise UserError(f"--resume {out}: its {RUN_FILE} is not of jobs.tune")
    if not {"problem", "objective", "config", "settings"} <= kept.keys():
        raise UserError(f"--resume {out}: was begun by an earlier version, which kept its settings in another form")
    where = f"{out / RUN_FILE}: config"
    check_names({key: kept[key] for key in ("problem", "objective", "config", "settings")}, where)
    kind = kind_of(kept["problem"], kept["objective"])
    config = read(type(first_config(kept["objective"])), kept.pop("config"), where)
    settings = read(kind.settings_type, kept.pop("settings"), where)
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in kept.items()}
    names = {"settings": TUNING} if kept["objective"] else {}
    return with_settings(with_defaults(Arguments, out=out, **values), names, config=config, settings=settings)
