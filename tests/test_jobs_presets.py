"""Named configurations, spaces and preset files: what they say is taken, and mistakes are one line."""

import json
from pathlib import Path
from typing import Any

import pytest

from distributed.config import TrainConfig
from es.config import ESConfig
from funnel.registry import PROBLEMS, TUNABLES, find_problem, find_tunable
from funnel.settings import changed, flat, plain
from jobs import evolve, train
from jobs.command.preset import apply, find_preset, write_preset
from jobs.evolve import presets as engine


@pytest.mark.parametrize("name", [*PROBLEMS, *TUNABLES])
def test_presets_and_spaces_hold_what_they_say(name: str) -> None:
    from jobs.tune.search import default_of, domains, draw

    kind = find_problem(name) if name in PROBLEMS else find_tunable(name)
    configs = (TrainConfig() if name in PROBLEMS else ESConfig(), kind.settings_type())
    own = {} if name in PROBLEMS else engine.PRESETS
    for preset in (*kind.presets.values(), *own.values()):
        assert preset.__doc__
        apply(preset(), preset.__name__, *configs)
    defaults = flat(plain(configs[0])) | flat(plain(configs[1]))
    if name in TUNABLES:
        defaults["learning_rate"] = ESConfig().step_size
    for make in (*kind.spaces.values(), *({} if name in PROBLEMS else engine.SPACES).values()):
        assert make.__doc__
        space = domains(make())
        first = default_of(space, defaults)
        points = draw(space, first, 30, seed=1)
        assert points == draw(space, first, 30, seed=1)
        assert points[0] == first
        for point in points:
            apply(point, make.__name__, *configs)


def test_a_preset_file_becomes_defaults_that_options_win_over(tmp_path: Path) -> None:
    settings = {"objective.name": "escm2_dr", "model.backbone.expert_hidden": (8, 4), "optimizer.learning_rate": 0.0123}
    path = tmp_path / "best.json"
    write_preset(path, "train", settings, {"trial": 3})
    words = ["--data", "log", "--out", str(tmp_path / "run"), "--preset", str(path)]
    given = train.arguments_of(*words, "--optimizer.weight-decay", "0.1")
    assert given.config == changed(TrainConfig(), {"optimizer.learning_rate": 0.0123, "optimizer.weight_decay": 0.1})
    assert given.settings.objective.name == "escm2_dr"
    assert given.settings.model.backbone.expert_hidden == (8, 4)
    nested = tmp_path / "nested.json"
    nested.write_text(json.dumps({"objective": {"name": "esmm"}, "epochs": 7}))
    words[-1] = str(nested)
    assert (train.arguments_of(*words).config.epochs, train.arguments_of(*words, "--epochs", "2").config.epochs) == (
        7,
        2,
    )
    write_preset(path, "evolve", {"sigma": 0.3, "pairs": 16, "weight_decay": 0.01, "fusion": "rank"}, {})
    tuned = evolve.arguments_of("--out", tmp_path / "es", "--scored", "s.parquet", "--preset", path)
    assert (tuned.config.sigma, tuned.config.pairs, tuned.config.weight_decay) == (0.3, 16, 0.01)
    assert tuned.settings.fusion == "rank"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"objective.nam": 1}, r"best\.json: unknown key 'objective\.nam'; did you mean objective\.name"),
        ({"nothing": 1}, r"best\.json: unknown key 'nothing'; valid keys: epochs, .*objective\.name"),
        ({"epochs": "many"}, r"best\.json: epochs is 'many', which is not what this setting takes"),
        ({"optimizer.learning_rate": -1}, r"best\.json: optimizer\.learning_rate must be positive"),
        ({"preset": "evolve", "settings": {}}, r"best\.json: a preset of jobs\.evolve, not of jobs\.train"),
        ({"settings": [1]}, r"best\.json: its settings are no object"),
        (None, r"best\.json: not readable as JSON"),
    ],
)
def test_bad_presets_are_one_line(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "best.json"
    path.write_text("{" if content is None else json.dumps(content))
    with pytest.raises(ValueError, match=message) as raised:
        train.arguments_of("--data", "nowhere", "--out", str(tmp_path / "run"), "--preset", str(path))
    assert "\n" not in str(raised.value)


def test_named_configurations() -> None:
    with pytest.raises(ValueError, match=r"--preset x: no such preset of jobs\.train; there are default, doubly"):
        find_preset("x", find_problem("entire_space").presets, "train")
    with pytest.raises(ValueError, match=r"--preset x: no such preset"):
        evolve.arguments_of("--out", "run", "--preset", "x")
