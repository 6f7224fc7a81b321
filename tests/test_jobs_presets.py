"""Named configurations, spaces and preset files: what they say is taken, and mistakes are one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from distributed.config import TrainConfig
from es.config import ESConfig
from funnel.lists.problem import ListWise
from funnel.ranking.problem import EntireSpace
from funnel.settings import changed, flat, plain
from funnel.spaces import Choice, LogUniform
from jobs import evolve, train
from jobs.command.preset import apply, find_preset, write_preset
from jobs.evolve.presets import PRESETS, SPACES


def ends(domain: Any) -> tuple[Any, ...]:
    return domain.values if isinstance(domain, Choice) else (domain.low, domain.high)


@pytest.mark.parametrize("problem", [EntireSpace, ListWise])
def test_presets_and_spaces_of_problems_hold_what_they_say(problem: Any) -> None:
    defaults = (TrainConfig(), problem.settings_type())
    for name, function in problem.presets.items():
        assert function.__doc__
        apply(function(), name, *defaults)
    for name, function in problem.spaces.items():
        assert function.__doc__
        for key, domain in function().items():
            for value in ends(domain):
                apply({key: value}, name, *defaults)


def test_those_of_the_engine_too() -> None:
    for function in PRESETS.values():
        assert function.__doc__
        changed(ESConfig(), function()).check()
    for function in SPACES.values():
        for key, domain in function().items():
            for value in ends(domain):
                changed(ESConfig(), {key: value}).check()


def test_a_search_begins_at_the_defaults() -> None:
    """Each key's default lies in its domain."""
    defaults = flat(plain(TrainConfig())) | flat(plain(EntireSpace.settings_type()))
    for make in EntireSpace.spaces.values():
        for key, domain in make().items():
            default = defaults[key]
            if isinstance(domain, Choice):
                written = ",".join(map(str, default)) if isinstance(default, list) else default
                assert written in domain.values, key
            else:
                assert domain.low <= default <= domain.high, key
                assert domain.low > 0 or not isinstance(domain, LogUniform), key


def train_arguments(out: Path, preset: object, *words: str) -> train.Arguments:
    return train.arguments_of("--data", "log", "--out", str(out), "--preset", str(preset), *words)


def test_preset_file_round_trip(tmp_path: Path) -> None:
    settings = {"objective.name": "escm2_dr", "model.backbone.expert_hidden": (8, 4), "optimizer.learning_rate": 0.0123}
    path = tmp_path / "best.json"
    write_preset(path, "train", settings, {"trial": 3})
    given = train_arguments(tmp_path / "run", path, "--optimizer.weight-decay", "0.1")
    assert given.settings == changed(EntireSpace.settings_type(), {key: settings[key] for key in list(settings)[:2]})
    assert given.config == changed(TrainConfig(), {"optimizer.learning_rate": 0.0123, "optimizer.weight_decay": 0.1})
    nested = tmp_path / "nested.json"
    nested.write_text(json.dumps({"objective": {"name": "esmm"}, "epochs": 7}))
    filled = train_arguments(tmp_path / "run", nested, "--seed", "5")
    assert (filled.settings.objective.name, filled.config.epochs, filled.config.seed) == ("esmm", 7, 5)
    assert train_arguments(tmp_path / "run", nested, "--epochs", "3").config.epochs == 3
    es = {"sigma": 0.3, "pairs": 16, "weight_decay": 0.01, "fusion": "rank"}
    write_preset(path, "evolve", es, {})
    tuned = evolve.arguments_of("--out", tmp_path / "run", "--preset", path, "--scored", "file", "--pairs", 32)
    assert (tuned.config.sigma, tuned.config.pairs, tuned.config.weight_decay) == (0.3, 32, 0.01)
    assert tuned.settings.fusion == "rank"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"objective.nam": 1}, r"best\.json: unknown key 'objective\.nam'; valid keys: .*objective\.name"),
        ({"nam": 1}, r"best\.json: unknown key 'nam'; valid keys: epochs, .*objective\.name"),
        ({"epochs": "many"}, r"best\.json: epochs is 'many', which is not what this setting takes: a valid integer"),
        ({"optimizer.learning_rate": -1}, r"best\.json: optimizer\.learning_rate must be positive"),
        ({"preset": "evolve", "settings": {}}, r"best\.json: a preset of jobs\.evolve, not of jobs\.train"),
        ({"settings": [1]}, r"best\.json: its settings are no object"),
        (None, r"best\.json: not readable as JSON"),
    ],
)
def test_bad_presets_are_one_line(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "best.json"
    path.write_text("{" if content is None else json.dumps(content))
    with pytest.raises(ValueError, match=message):
        train_arguments(tmp_path / "run", path)


def test_named_configurations(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--preset x: no such preset of jobs\.train; there are default, doubly"):
        train_arguments(tmp_path / "run", "x")
    with pytest.raises(ValueError, match=r"--preset x: no such preset of jobs\.evolve; there are default, cautious"):
        evolve.arguments_of("--out", tmp_path / "run", "--preset", "x")
    with pytest.raises(ValueError, match="--preset clicks: no such preset"):
        train_arguments(tmp_path / "run", "clicks", "--problem", "listwise")
    assert find_preset("", {}, "train") == ({}, "")
