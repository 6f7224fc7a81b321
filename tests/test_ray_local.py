"""A training on a cluster of our own: what is left out of Ray and of Ray Train, and that it is there to be left out."""

import inspect
import os
from pathlib import Path
from typing import Any

import pytest
import ray
from ray._private import parameter, services
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup, state, worker_group
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from support import config, final_tensors, job_of, train_here

from distributed.training import own_cluster
from distributed.training.launch import run_training
from distributed.training.ray_local import FixedGroup, LocalController, LocalGroup, LocalTrainer, NoBarrier
from jobs.cluster import own


def names(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_ray_still_has_what_is_replaced() -> None:
    """With another version of Ray this is the test to look at: what fails here is a name that ray_local.py replaces."""
    assert worker_group.SynchronizationActor.__class__.__name__.startswith("ActorClass")
    assert "SynchronizationActor.options" in inspect.getsource(WorkerGroup._start_impl)
    assert names(state._shutdown_sync_actor) == ["barrier"]  # ours
    assert "_shutdown_sync_actor(self.sync_actor)" in inspect.getsource(state.WorkerGroupState.shutdown)
    assert names(WorkerGroup._init_train_context_on_workers) == ["self", "workers", "sync_actor", "train_context_args"]
    assert names(WorkerGroup._get_worker_runtime_env) == ["custom_runtime_env"]
    assert TrainController.worker_group_cls is WorkerGroup
    assert "callbacks" in names(TrainController.__init__)
    assert "scaling_policy" in names(TrainController.__init__)
    assert inspect.iscoroutinefunction(TrainController.run)
    assert "_initialize_and_run_controller" in inspect.getsource(DataParallelTrainer.fit)
    assert {"include_log_monitor", "no_monitor"} <= set(names(parameter.RayParams.__init__))
    assert "RayParams(" in inspect.getsource(ray.init)
    for name in ("after_controller_start", "_maybe_send_resource_request"):
        assert hasattr(FixedScalingPolicy, name)


def test_what_ray_starts_is_as_it_was_afterwards() -> None:
    before = parameter.RayParams, services.start_api_server
    with own.few_processes(log_monitor=False):
        made = parameter.RayParams()
        assert (made.no_monitor, made.include_log_monitor) == (True, False)
        assert services.start_api_server("anything") == ("", None)
    assert (parameter.RayParams, services.start_api_server) == before
    with pytest.raises(ZeroDivisionError), own.few_processes(log_monitor=True):
        1 / 0  # noqa: B018
    assert (parameter.RayParams, services.start_api_server) == before


def test_processes_begin_with_one_thread_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with own.one_thread():
        assert os.environ["OMP_NUM_THREADS"] == "3"
    monkeypatch.delenv("OMP_NUM_THREADS")
    with own.one_thread():
        assert os.environ["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in os.environ


def test_workers_get_a_runtime_environment_only_for_what_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of their own would cost a process of their own, which imports everything once more."""
    for name in [name for name in os.environ if name.startswith(own_cluster.RAY_TRAIN)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv(own_cluster.OWN, "")
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    own_cluster.mark()
    assert own_cluster.is_own()
    assert LocalGroup._get_worker_runtime_env({}) == {}
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    monkeypatch.setenv("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", "9")
    changed = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5", "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "9"}
    assert LocalGroup._get_worker_runtime_env({}) == {"env_vars": changed}
    given = {"env_vars": {"A": "b"}, "pip": []}
    assert LocalGroup._get_worker_runtime_env(given) == {"env_vars": changed | {"A": "b"}, "pip": []}


class Told:
    """In place of the controller: what it was made of."""

    def __init__(self, **given: Any) -> None:
        self.given = given

    async def run(self) -> None:
        pass

    def get_result(self) -> dict[str, Any]:
        return self.given


@pytest.mark.parametrize("elastic", [False, True])
def test_a_group_of_changing_size_still_asks_for_what_there_is(elastic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.train import ScalingConfig

    monkeypatch.setattr("distributed.training.ray_local.LocalController", Told)
    trainer = LocalTrainer(print, scaling_config=ScalingConfig(num_workers=(1, 2) if elastic else 2))
    policy = (ElasticScalingPolicy if elastic else FixedScalingPolicy)(trainer.scaling_config)
    callbacks = trainer._create_default_callbacks()
    given = trainer._initialize_and_run_controller(scaling_policy=policy, callbacks=callbacks)
    assert type(given["scaling_policy"]) is (ElasticScalingPolicy if elastic else FixedGroup)
    dropped = {type(callback).__name__ for callback in callbacks} - {
        type(callback).__name__ for callback in given["callbacks"]
    }
    assert dropped == {"DatasetsCallback", "PlacementGroupCleanerCallback"}


@pytest.mark.ray
def test_a_training_starts_no_actor_but_its_workers(ray_cluster: None, small_log: Path, tmp_path: Path) -> None:
    """The same bits as in this process, and of everything that Ray Train starts only the worker."""
    before = actors()
    for name in ("ray", "here"):
        (tmp_path / name).mkdir()
    settings = config(epochs=1, patience=0)
    run_training(job_of(tmp_path / "ray", small_log, settings), workers=1)
    assert [kind for actor, kind in actors().items() if actor not in before] == ["RayTrainWorker"]
    train_here(tmp_path / "here", small_log, settings)
    ours, plain = final_tensors(tmp_path / "ray"), final_tensors(tmp_path / "here")
    assert ours.keys() == plain.keys()
    assert all((ours[name] == plain[name]).all() for name in ours)


def actors() -> dict[bytes, str]:
    """The class of every actor that the cluster has had, by the actor's id, from its control service."""
    from ray.core.generated.gcs_pb2 import ActorTableData

    accessor = ray._private.state.state._connect_and_get_accessor()
    found = (ActorTableData.FromString(record) for record in accessor.get_actor_table(None, None))
    return {actor.actor_id: actor.class_name.rpartition(".")[2] for actor in found}


def test_a_barrier_that_is_none_is_ended_by_doing_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[Any] = []
    monkeypatch.setattr(ray, "kill", killed.append)
    state._shutdown_sync_actor(NoBarrier.options(label_selector={}).remote(timeout_s=1))
    assert killed == []
    state._shutdown_sync_actor("an actor")
    assert killed == ["an actor"]


def test_the_controller_makes_local_groups() -> None:
    assert LocalController.worker_group_cls is LocalGroup
