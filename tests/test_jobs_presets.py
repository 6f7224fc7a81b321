"""Named configurations, spaces and preset files: what they say is taken, and mistakes are one line."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from distributed.config import TrainConfig
from es.config import ESConfig
from jobs import evolve, train
from jobs.command.preset_file import (
    asked_for,
    assignments,
    check_evolve,
    check_train,
    fill_evolve,
    fill_train,
    write_preset,
)
from jobs.command.presets import PRESETS, SPACES
from jobs.command.settings import override
from jobs.evolve.evolution import Arguments as EvolveArguments
from jobs.evolve.evolution import configure as configure_evolve
from jobs.run.directory import flatten


@pytest.mark.parametrize("what", ["train", "evolve"])
def test_presets_and_spaces_hold_what_they_say(what: Any) -> None:
    from jobs.tune.search import default_of, draw

    for function in PRESETS[what]:
        assert function.__doc__
        if what == "train":
            check_train(function(), function.__name__)
        else:
            check_evolve(EvolveArguments, function(), function.__name__)
    es = dataclasses.asdict(ESConfig()) | {"learning_rate": ESConfig().step_size, "fusion": "product"}
    defaults = flatten(dataclasses.asdict(TrainConfig())) if what == "train" else es
    for name, make in SPACES[what].items():
        space = make()
        first = default_of(space, defaults)
        points = draw(space, first, 30, seed=1)
        assert points == draw(space, first, 30, seed=1)
        assert points[0] == first
        for point in points:
            if what == "train":
                check_train(point, name)
            else:
                check_evolve(EvolveArguments, point, name)


def test_preset_file_round_trip(tmp_path: Path) -> None:
    settings = {"objective.name": "escm2_dr", "model.backbone.expert_hidden": (8, 4), "optimizer.learning_rate": 0.0123}
    path = tmp_path / "best.json"
    write_preset(path, "train", settings, {"trial": 3})
    arguments = train.Arguments(data="log", out=tmp_path / "run", config=path, set=("optimizer.weight_decay=0.1",))
    config = train.configure(fill_train(arguments, *asked_for("train", path, "")))
    wanted = override(TrainConfig(), [*assignments(settings), "optimizer.weight_decay=0.1"])
    assert config == wanted
    nested = tmp_path / "nested.json"
    nested.write_text(json.dumps({"objective": {"name": "esmm"}, "epochs": 7}))
    filled = fill_train(dataclasses.replace(arguments, seed=5), *asked_for("train", nested, ""))
    assert (filled.objective, filled.epochs, filled.seed) == ("esmm", 7, 5)
    assert fill_train(dataclasses.replace(arguments, epochs=3), *asked_for("train", nested, "")).epochs == 3
    es = {"sigma": 0.3, "pairs": 16, "weight_decay": 0.01, "fusion": "rank"}
    write_preset(path, "evolve", es, {})
    given = fill_evolve(EvolveArguments(), *asked_for("evolve", path, ""))
    config_es = configure_evolve(dataclasses.replace(given, workers=0))
    assert (config_es.sigma, config_es.pairs, config_es.weight_decay, given.fusion) == (0.3, 16, 0.01, "rank")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"objective.nam": 1}, r"best\.json: unknown key 'objective\.nam'; valid keys: epochs, .*objective\.name"),
        ({"epochs": "many"}, r"best\.json: setting epochs=many: want a whole number"),
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
        train.run(train.Arguments(data="nowhere", out=tmp_path / "run", config=path))


def test_named_configurations(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--preset x: no such preset of jobs\.train; there are default, doubly"):
        train.run(train.Arguments(data="nowhere", out=tmp_path / "run", preset="x"))
    with pytest.raises(ValueError, match=r"--preset x: no such preset of jobs\.evolve; there are default, cautious"):
        evolve.run(evolve.Arguments(out=tmp_path / "run", preset="x"))
    with pytest.raises(ValueError, match="unknown key 'sigm'; valid keys: seed, algorithm"):
        check_evolve(EvolveArguments, {"sigm": 1}, "file")
