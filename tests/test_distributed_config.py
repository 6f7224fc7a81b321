"""Settings: what `--set` accepts, and what it says of what it does not."""

import dataclasses
import json

import pytest

from distributed.config import OptimizerConfig, StreamConfig, TrainConfig, from_dict
from jobs.command.settings import leaf_keys, override


def test_override_reads_values_by_type() -> None:
    assignments = [
        "epochs=7",
        "optimizer.learning_rate=3e-3",
        "model.backbone.expert_hidden=64,32",
        "model.tower_hidden=16",
        "objective.clip=0.05",
        "stop_metric = ctr.auc",
    ]
    config = override(TrainConfig(), assignments)
    assert config.epochs == 7
    assert config.optimizer.learning_rate == 0.003
    assert config.model.backbone.expert_hidden == (64, 32)
    assert config.model.tower_hidden == (16,)
    assert config.objective.clip == 0.05
    assert config.stop_metric == "ctr.auc"
    assert override(config, ["objective.clip=auto"]).objective.clip == "auto"
    assert override(config, []) == config


def test_config_survives_json() -> None:
    config = override(TrainConfig(), ["model.backbone.expert_hidden=9,8,7", "objective.clip=0.2"])
    assert from_dict(TrainConfig, json.loads(json.dumps(dataclasses.asdict(config)))) == config


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("epoch=3", "unknown key 'epoch'; valid keys: epochs, batch_size"),
        ("model.backbone.expert=3", r"unknown key 'model.backbone.expert'; valid keys: .*model.backbone.experts"),
        ("model=3", "'model' is a group; its keys: model.embedding_width"),
        ("epochs=many", "--set epochs=many: want a whole number"),
        ("epochs", "want key=value"),
        ("epochs=0", "epochs must be at least 1"),
        ("optimizer.learning_rate=-1", "optimizer.learning_rate must be positive"),
        ("optimizer.embedding=sgd", "optimizer.embedding must be"),
        ("stop_metric=cvr.entire.auc", "stop_metric"),
        ("batch_size=4", "below stream.lanes"),
        ("stream.lanes=0", "stream.lanes must be at least 1"),
        ("tables=elsewhere", "tables must be .replicated. or .sharded."),
    ],
)
def test_bad_assignments_say_what_is_right(assignment: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        override(TrainConfig(), [assignment])


def test_unknown_key_in_a_dict_lists_the_valid_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown key 'stream.lane'; valid keys: stream.lanes, stream.shuffle_rows"):
        from_dict(TrainConfig, {"stream": {"lane": 3}})


def test_leaf_keys_are_dotted() -> None:
    assert leaf_keys(OptimizerConfig, "optimizer.")[0] == "optimizer.learning_rate"
    assert set(leaf_keys(StreamConfig)) == {"lanes", "shuffle_rows", "read_ahead"}
