"""Broken settings, checkpoints and what else a run directory holds: refused in one line, or what was written."""

import copy
import dataclasses
import json
import math
import shutil

import numpy as np
import pytest
import torch
from conftest import REFUSED, attempt, fuzz
from hypothesis import given
from hypothesis import strategies as st
from test_fuzz_logs import JSON, mutated, places

from distributed.checkpoint.read import Progress, State, load_state, read_checkpoint, sealed
from distributed.checkpoint.rows import RowTensor
from distributed.checkpoint.store import CheckpointStore
from distributed.config import TrainConfig
from distributed.reporting.metrics_file import RunLog
from es.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from es.config import ESConfig
from es.engine import run
from es.objectives.toy import Sphere
from es.replay import replay_run
from funnel.ranking.calibration import Calibration, Calibrator
from funnel.ranking.presets import PRESETS
from funnel.ranking.problem import EntireSpaceSettings
from funnel.settings import changed, flat, keys, plain
from funnel.settings import read as read_settings
from jobs.command.preset import apply, find_preset
from jobs.run.directory import inspect_run
from models.rows import EVERY_ROW, Share

VALUES = st.one_of(
    st.sampled_from(["", "1", "-1", "nan", "true", "1,2", "64,32", "adam", "ctr.auc", "escm2_dr", "mmoe", "bfloat16"]),
    st.sampled_from([None, True, False, math.nan, math.inf, -math.inf, 1e9, 10**30, [], [8, 4], ["8"], {}, {"a": 1}]),
    st.text(max_size=6), st.integers(), st.integers(0, 99), st.floats(),
)  # fmt: skip


def same(given, value):
    """Whether a setting of the dataclass is the plain value that was given for it."""
    if isinstance(value, tuple):
        parts = given if isinstance(given, list) else [float(part) for part in given.split(",") if part.strip()]
        return len(parts) == len(value) and all(map(same, parts, value))
    if isinstance(value, float) and type(given) in (int, float):
        return float(given) == value
    return given == value


def check_taken(config, defaults, given):
    found, before = flat(plain(config)), flat(plain(defaults))
    for key, value in found.items():
        if key in given:
            assert same(given[key], tuple(value) if isinstance(value, list) else value), key
        else:
            assert value == before[key], key
        assert not (isinstance(value, float) and math.isnan(value)), "a setting is not a number"


@pytest.mark.slow
@fuzz(150)
@given(st.dictionaries(st.sampled_from([*keys(TrainConfig), "optimizer", "rate", ""]), VALUES, max_size=3))
def test_settings_of_a_training(given):
    config = attempt(lambda: changed(TrainConfig(), given))
    if config is not REFUSED:
        check_taken(config, TrainConfig(), given)


@fuzz(150)
@given(st.dictionaries(st.sampled_from([*keys(EntireSpaceSettings), "model", "rate"]), VALUES, max_size=3))
def test_settings_of_a_problem(given):
    settings = attempt(lambda: changed(EntireSpaceSettings(), given))
    if settings is not REFUSED:
        check_taken(settings, EntireSpaceSettings(), given)


@fuzz(100)
@given(st.dictionaries(st.sampled_from([*keys(ESConfig), "nothing"]), VALUES, max_size=3))
def test_settings_of_the_engine(given):
    def checked():
        config = changed(ESConfig(), given)
        config.check()
        return config

    config = attempt(checked)
    if config is not REFUSED:
        check_taken(config, ESConfig(), given)


@fuzz(100)
@given(mutated(json.loads(json.dumps(dataclasses.asdict(TrainConfig())))))
def test_a_config_that_a_file_holds(value):
    config = attempt(lambda: read_settings(TrainConfig, value))
    if config is not REFUSED:
        assert json.loads(json.dumps(dataclasses.asdict(config))) == {
            **json.loads(json.dumps(dataclasses.asdict(TrainConfig()))), **merged(value)
        }  # fmt: skip


def merged(value):
    """The given keys over the defaults, group by group."""
    whole = json.loads(json.dumps(dataclasses.asdict(TrainConfig())))

    def over(base, given):
        return {**base, **{k: over(base[k], v) if isinstance(base.get(k), dict) else v for k, v in given.items()}}

    return over(whole, value)


PRESET = {"preset": "train", "settings": {"objective.name": "escm2_dr", "optimizer": {"learning_rate": 0.002},
          "epochs": 3, "model.backbone.experts": 4}, "about": {}}  # fmt: skip


@fuzz(60)
@given(mutated(PRESET), st.booleans(), st.data())
def test_preset_files(tmp_path_factory, value, train, data):
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    text = json.dumps(value).encode()
    if data.draw(st.integers(0, 3)) == 0:
        text = text[: data.draw(st.integers(0, len(text)))] + data.draw(st.binary(max_size=2))
    path.write_bytes(text)

    def fill():
        if train:
            return apply(*find_preset(str(path), PRESETS, "train"), TrainConfig(), EntireSpaceSettings())
        return apply(*find_preset(str(path), {}, "evolve"), ESConfig())

    configs = attempt(fill)
    if configs is not REFUSED and train:
        settings = flat(value.get("settings", value))
        found = flat(plain(configs[0])) | flat(plain(configs[1]))
        for key, setting in settings.items():
            if key not in ("preset", "about"):
                assert found[key] == setting or same(setting, found[key]), key


@pytest.mark.parametrize("name", [["a", "b"], True, None, 3])
def test_found_other_values_taken_for_text(tmp_path, name):
    path = tmp_path / "preset.json"
    path.write_text(json.dumps({"preset": "train", "settings": {"objective.name": name}}))
    with pytest.raises(ValueError, match=r"objective.name is .* which is not what this setting takes"):
        apply(*find_preset(str(path), PRESETS, "train"), TrainConfig(), EntireSpaceSettings())


# ---- checkpoints of a training ----

TENSORS = {"dense.weight": torch.arange(6.0).view(2, 3), "dense.bias": torch.ones(3)}
TABLE = torch.arange(20.0).view(10, 2)


def state(table=None):
    rows = {"table": RowTensor(TABLE.clone() if table is None else table, 10, EVERY_ROW),
            "rows.0.sum": RowTensor(torch.arange(10.0), 10, EVERY_ROW)}  # fmt: skip
    model = {name: tensor.clone() for name, tensor in TENSORS.items()}
    return State(model, {"dense.0.step": torch.tensor(3.0)}, rows)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    with CheckpointStore(folder, background=False) as store:
        identity = {"config": {}, "schema": {}, "tasks": ["ctr"], "click_rate": 0.1}
        return store.save(state(), Progress(step=7, best_step=7), identity)


@pytest.fixture(scope="module")
def copied(saved):
    return saved.with_name("copied")


def damage(path, data):
    """One to three flipped bits, or a cut."""
    raw = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        del raw[data.draw(st.integers(0, len(raw) - 1)) :]
    else:
        for _ in range(data.draw(st.integers(1, 3))):
            raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)


def check_read(directory, foreign=False):
    """Both ways of reading; what they accept is what was saved (of a foreign record: what this model has)."""
    whole = attempt(lambda: read_checkpoint(directory))
    if whole is not REFUSED and not foreign:
        assert whole.path == directory
        for name, tensor in {**TENSORS, "table": TABLE}.items():
            assert torch.equal(whole.model[name], tensor)
        assert set(whole.model) == {*TENSORS, "table"}
        assert isinstance(whole.progress.step, int)
        assert whole.progress.step >= 0
    mine = state(torch.zeros(10, 2))
    loaded = attempt(lambda: load_state(directory, mine, 0, 1))
    if loaded is not REFUSED:
        assert torch.equal(mine.rows["table"].tensor, TABLE)
        assert all(torch.equal(mine.model[name], tensor) for name, tensor in TENSORS.items())
    return whole, loaded


@fuzz(60)
@given(st.data())
def test_damaged_checkpoints(saved, copied, data):
    shutil.rmtree(copied, ignore_errors=True)
    shutil.copytree(saved, copied)
    damage(copied / data.draw(st.sampled_from(sorted(path.name for path in saved.iterdir()))), data)
    check_read(copied)


@fuzz(80)
@given(st.data())
def test_a_checkpoints_record_of_any_content(saved, copied, data):
    record = json.loads((saved / "checkpoint.json").read_text())
    value = data.draw(mutated(record))
    shutil.rmtree(copied, ignore_errors=True)
    shutil.copytree(saved, copied)
    foreign = isinstance(value, dict) and data.draw(st.booleans())
    if foreign:
        value = sealed(value)
    (copied / "checkpoint.json").write_text(json.dumps(value))
    check_read(copied, foreign)


@pytest.mark.parametrize("shards", ["../1", "1", 1.0, True, -1, 0, 10**9, [1], None, {"a": 1}])
def test_names_of_shards_are_made_from_a_number(saved, copied, shards):
    shutil.rmtree(copied, ignore_errors=True)
    shutil.copytree(saved, copied)
    record = json.loads((saved / "checkpoint.json").read_text())
    (copied / "checkpoint.json").write_text(json.dumps(sealed({**record, "shards": shards})))
    assert check_read(copied) == (REFUSED, REFUSED)


def test_rows_that_a_worker_holds_are_read_from_a_damaged_checkpoint_by_nobody(saved, copied):
    shutil.rmtree(copied, ignore_errors=True)
    shutil.copytree(saved, copied)
    shard = copied / "tables-00000-of-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    half = State({name: tensor.clone() for name, tensor in TENSORS.items()}, {},
                 {"table": RowTensor(torch.zeros(5, 2), 10, Share(1, 2)),
                  "rows.0.sum": RowTensor(torch.zeros(5), 10, Share(1, 2))})  # fmt: skip
    assert attempt(lambda: load_state(copied, half, 1, 2)) is REFUSED


# ---- checkpoints of the engine, and a run to be replayed ----

IDENTITY = {"settings": {"seed": 1}, "objective": {"name": "x"}, "noise": "n"}
ES_TENSORS = {"theta": np.arange(5, dtype=np.float32), "generation": np.array([3])}


@fuzz(50)
@given(st.data())
def test_damaged_engine_checkpoints(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "fuzzed.safetensors"
    save_checkpoint(path, IDENTITY, Checkpoint(ES_TENSORS, {"evaluations": 1}))
    damage(path, data)
    found = attempt(lambda: load_checkpoint(path, IDENTITY, ES_TENSORS))
    if found is not REFUSED:
        assert set(found.tensors) == set(ES_TENSORS)
        assert all(np.array_equal(found.tensors[name], value) for name, value in ES_TENSORS.items())
        assert found.counters == {"evaluations": 1}


CONFIG = ESConfig(pairs=2, generations=4, workers=0, checkpoint_every=1, noise="fresh")


@pytest.fixture(scope="module")
def evolved(tmp_path_factory):
    out = tmp_path_factory.mktemp("evolved") / "run"
    run(Sphere(dimension=3), CONFIG, out)
    return out


@fuzz(30)
@given(st.data())
def test_damaged_runs_are_not_replayed_as_equal(evolved, data):
    copy_ = evolved.with_name("copy")
    shutil.rmtree(copy_, ignore_errors=True)
    shutil.copytree(evolved, copy_)
    names = ("checkpoint.safetensors", "start.f32", "returns.f64", "metrics.jsonl")
    damage(copy_ / data.draw(st.sampled_from(names)), data)
    attempt(lambda: replay_run(copy_))
    attempt(lambda: run(Sphere(dimension=3), CONFIG, copy_))


def test_found_a_replay_that_never_ended(evolved):
    """Without a number in start.f32 the noise of a candidate of no dimension was drawn for ever."""
    copy_ = evolved.with_name("copy")
    shutil.rmtree(copy_, ignore_errors=True)
    shutil.copytree(evolved, copy_)
    for size in (0, 2, 7):
        (copy_ / "start.f32").write_bytes((evolved / "start.f32").read_bytes()[:size])
        with pytest.raises(ValueError, match=rf"start.f32: holds {size // 4} numbers, not 3"):
            replay_run(copy_)


# ---- what else lies in a run directory ----

CALIBRATION = Calibration({"ctr": Calibrator("platt", 1.5, -0.25)}, {"method": "platt"}).to_dict()


@fuzz(80)
@given(mutated(CALIBRATION))
def test_calibrations(value):
    found = attempt(lambda: Calibration.from_dict(value, "model/calibration.json"))
    if found is not REFUSED:
        for task, entry in value["tasks"].items():
            assert found.tasks[task].slope == float(entry["slope"])
            assert found.tasks[task].intercept == float(entry["intercept"])


RUN = {"kind": "train", "config": {"train": {"epochs": 2}, "data": "log", "workers": 1}, "command": "x"}


@fuzz(60)
@given(mutated(RUN), st.binary(max_size=3))
def test_run_records(tmp_path_factory, value, end):
    out = tmp_path_factory.getbasetemp() / "fuzzed_run"
    out.mkdir(exist_ok=True)
    (out / "run.json").write_bytes(json.dumps(value).encode() + end)
    attempt(lambda: inspect_run(out, "train", RUN["config"]))


@fuzz(40)
@given(st.lists(st.one_of(JSON.map(json.dumps), st.text(max_size=5)), max_size=4), st.integers(0, 3))
def test_a_log_of_any_content_is_cut_and_gone_on_with(tmp_path_factory, lines, step):
    path = tmp_path_factory.getbasetemp() / "metrics.jsonl"
    whole = ['{"event": "step", "step": 1}', '{"event": "step", "step": 9}']
    path.write_text("\n".join([*whole, *lines]))
    log = RunLog(path, step)
    log.write("step", 10)
    log.close()
    kept = path.read_text().splitlines()
    assert json.loads(kept[-1])["step"] == 10
    assert (whole[0] in kept) == (step >= 1)
    assert whole[1] not in kept


def test_the_fuzzer_reaches_every_place():
    assert {path[:1] for path in places(copy.deepcopy(PRESET))} == {(), ("preset",), ("settings",), ("about",)}
