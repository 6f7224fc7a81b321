"""Ray Train without what a cluster of our own does not need: started for this run alone, on this machine.

Ray Train starts six actors around its workers; each is a process that imports for 2 to 4 CPU seconds. On a cluster that
this process has started (jobs/cluster/connect.py) none of them has anything to do:

controller              runs in the driver's thread: where the driver dies, the cluster dies with it
placement group cleaner frees what a dead controller holds, by an API that needs the dashboard; ray_group.free_room does
dataset manager         hands out Ray datasets: none are used
autoscaling coordinator asks for nodes: there is one
synchronization actor   the barrier of ray.train.report: never called, as checkpoints are our own

Workers then need no runtime environment of their own, so they are those that Ray starts with the cluster, which have
imported torch (PRELOADED) by the time they are asked for. On a cluster of somebody else all is as Ray Train has it.

This file reaches into Ray Train's internals, which the pinned version fixes; tests/test_ray_local.py says what of them.
"""

import asyncio
import logging
from typing import Any

import ray
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup, state, worker_group
from ray.train.v2._internal.logging.logging import PlainRayHandler

from distributed.training.own_cluster import changed_since

NEEDLESS = (DatasetsCallback, PlacementGroupCleanerCallback)


class NoBarrier:
    """In place of the actor that ray.train.report waits at."""

    @classmethod
    def options(cls, **_: Any) -> type["NoBarrier"]:
        return cls

    @classmethod
    def remote(cls, **_: Any) -> "NoBarrier":
        return cls()


def end_barrier(barrier: Any) -> None:
    if not isinstance(barrier, NoBarrier):
        ray.kill(barrier)


state._shutdown_sync_actor = end_barrier


class LocalGroup(WorkerGroup):
    """Workers that are taken from those that Ray has ready."""

    def _start_impl(self, builder: Any) -> None:
        actor, worker_group.SynchronizationActor = worker_group.SynchronizationActor, NoBarrier
        try:
            super()._start_impl(builder)
        finally:
            worker_group.SynchronizationActor = actor

    def _init_train_context_on_workers(self, workers: Any, sync_actor: Any, arguments: dict[str, Any]) -> None:
        ray.get(
            [
                worker.actor.init_train_context.remote(
                    train_run_context=self._train_run_context,
                    distributed_context=worker.distributed_context,
                    synchronization_actor=sync_actor,
                    storage_context=self._storage_context,
                    worker_callbacks=self._worker_callbacks_to_propagate,
                    controller_actor=None,
                    **{name: values[number] for name, values in arguments.items()},
                )
                for number, worker in enumerate(workers)
            ]
        )

    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: Any) -> dict[str, Any]:
        """None at all, unless a variable has changed since the cluster was started: Ray has workers of none ready."""
        changed = changed_since(get_env_vars_to_propagate())
        given = dict(custom_runtime_env)
        if changed:
            given["env_vars"] = changed | given.get("env_vars", {})
        return given


class LocalController(TrainController):
    """Its log goes to Ray's files, as that of an actor does, and not to the terminal of this process."""

    worker_group_cls = LocalGroup

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        log = logging.getLogger("ray.train")
        if logging.getLogger("ray").getEffectiveLevel() >= logging.ERROR:
            log.handlers = [handler for handler in log.handlers if not isinstance(handler, PlainRayHandler)]


class FixedGroup(FixedScalingPolicy):
    """Asks no autoscaler for nodes."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


class LocalTrainer(TorchTrainer):
    """A TorchTrainer whose controller runs in the thread that calls fit()."""

    def _initialize_and_run_controller(self, **given: Any) -> Any:
        given["callbacks"] = [callback for callback in given["callbacks"] if not isinstance(callback, NEEDLESS)]
        if isinstance(given["scaling_policy"], FixedScalingPolicy):
            given["scaling_policy"] = FixedGroup(self.scaling_config)
        controller = LocalController(**given)
        asyncio.run(controller.run())
        return controller.get_result()
