"""The one reader of settings: what it takes, and what it says of what it does not."""

import json

import pytest

from distributed.config import OptimizerConfig, StreamConfig, TrainConfig
from funnel.ranking.problem import EntireSpaceSettings
from funnel.settings import changed, keys, plain, read


def test_dotted_keys_are_read_by_type() -> None:
    config = changed(TrainConfig(), {"epochs": 7, "optimizer.learning_rate": 3e-3, "stop_metric": "ctr.auc"})
    assert (config.epochs, config.optimizer.learning_rate, config.stop_metric) == (7, 0.003, "ctr.auc")
    settings = changed(EntireSpaceSettings(), {"model.backbone.expert_hidden": "64,32", "model.tower_hidden": [16],
                                               "objective.clip": 0.05})  # fmt: skip
    assert settings.model.backbone.expert_hidden == (64, 32)
    assert settings.model.tower_hidden == (16,)
    assert settings.objective.clip == 0.05
    assert changed(settings, {"objective.clip": "auto"}).objective.clip == "auto"
    assert changed(settings, {}) == settings


def test_settings_survive_json() -> None:
    settings = changed(EntireSpaceSettings(), {"model.backbone.expert_hidden": (9, 8, 7), "objective.clip": 0.2})
    assert read(EntireSpaceSettings, json.loads(json.dumps(plain(settings)))) == settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, "here: unknown key 'epoch'; did you mean epochs"),
        ({"stream.lane": 3}, "unknown key 'stream.lane'; did you mean stream.lanes"),
        ({"stream": 3}, "'stream' is a group; its keys: stream.lanes"),
        ({"epochs": "many"}, "epochs is 'many', which is not what this setting takes: a valid integer"),
        ({"epochs": 2.0}, "epochs is 2.0"),
        ({"epochs": True}, "epochs is True"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"optimizer.learning_rate": -1}, "optimizer.learning_rate must be positive"),
        ({"optimizer.learning_rate": float("nan")}, "optimizer.learning_rate must be positive"),
        ({"optimizer.embedding": "sgd"}, "optimizer.embedding must be"),
        ({"batch_size": 4}, "below stream.lanes"),
        ({"stream.lanes": 0}, "stream.lanes must be at least 1"),
        ({"stream.lanes": 3, "stream": {"lanes": 4}}, "'stream.lanes' is given twice"),
        ({"optimizer.learning_rate": "x", "optimizer": {}}, "'optimizer' is given beside 'optimizer.learning_rate'"),
        ({"tables": "elsewhere"}, "tables must be .auto., .replicated., .node. or .sharded."),
    ],
)
def test_bad_values_say_what_is_right(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        changed(TrainConfig(), values, "here")
    assert "\n" not in str(raised.value)


def test_keys_are_dotted() -> None:
    assert keys(OptimizerConfig, "optimizer.")[0] == "optimizer.learning_rate"
    assert set(keys(StreamConfig)) == {"lanes", "shuffle_rows", "read_ahead"}
