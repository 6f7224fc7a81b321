"""The group of Ray Train workers: SIGTERM as a notice, no step lost when its size changes, and when to give up.

Notice      runs on every worker as it starts: SIGTERM asks for a checkpoint; so does the end of the group
Failures    runs in the controller: what has failed, in RUN/failures.jsonl; ends what no other try would mend
note_room   the group's placement group, in RUN/.placement_group: it outlives a driver that is killed inside a Ray job,
free_room   as a trial of a search is, and holds the CPUs that its next start needs
free_orphans the same of groups whose controller died before a worker had noted them
"""

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train import UserCallback
from ray.train.torch import TorchConfig
from ray.util.placement_group import PlacementGroup

from data.errors import UserError
from data.files import open_to_add
from distributed.checkpoint.store import STEP, CheckpointStore
from distributed.training.stopping import RESIZED, finish, listen

FAILURES, ROOM = "failures.jsonl", ".placement_group"
TRIES = 3
"""Failures one after the other without a new checkpoint between them, after which a run is given up."""
SAVE_S = 20.0
"""How long the end of a healthy group waits for its checkpoint."""
SHUTDOWN_S = "5"
"""How long the end of any group waits for its workers to leave each other; a hung one never does."""


class Preempted(RuntimeError):
    """A worker or its machine is being taken away. The group has saved its state; another one goes on from it."""


class GivenUp(RuntimeError):
    """The group has failed again and again without getting further."""


_failed = False  # in the controller's process: the group at hand has


class Notice(TorchConfig().backend_cls):  # type: ignore[misc]
    """Torch's process group, whose workers get a notice before it ends."""

    def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
        global _failed
        _failed = False
        worker_group.execute(listen)
        super().on_training_start(worker_group, backend_config)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        if not _failed:  # all is done, or the group is to have another size
            with suppress(ray.exceptions.RayError):
                ray.get(worker_group.execute_async(finish, RESIZED, SAVE_S), timeout=SAVE_S + 2)
        os.environ.setdefault("TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S", SHUTDOWN_S)
        super().on_shutdown(worker_group, backend_config)


@dataclass
class NoticedTorchConfig(TorchConfig):
    @property
    def backend_cls(self) -> type:
        return Notice


class Failures(UserCallback):
    """Counts them. Raises, which ends the training at once: a UserError of a worker, GivenUp after TRIES failures."""

    def __init__(self, run: str, checkpoints: str) -> None:
        self.run, self.checkpoints = Path(run), Path(checkpoints)
        self.tries, self.step = 0, -1

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        global _failed
        if _failed:
            return  # of the same group, seen once more
        _failed = True
        errors = {rank: one_line(error) for rank, error in worker_exceptions.items()}
        self.write({"time": time.time(), "workers": errors})
        for error in worker_exceptions.values():
            if isinstance(error, UserError):
                raise error
        if any(isinstance(error, Preempted) for error in worker_exceptions.values()):
            return
        latest = CheckpointStore(self.checkpoints).latest()
        step = int(latest.name.removeprefix(STEP)) if latest else 0
        self.tries = self.tries + 1 if step == self.step else 1
        self.step = step
        if self.tries > TRIES:
            raise GivenUp(
                f"the workers have failed {self.tries} times without getting from step {step} to another checkpoint; "
                f"the last time: {next(iter(errors.values()))}"
            )

    def write(self, record: dict[str, Any]) -> None:
        with suppress(OSError), open_to_add(self.run / FAILURES) as file:
            file.write(json.dumps(record) + "\n")


def note_room(run: Path) -> None:
    """Called by a worker of the group."""
    group = ray.util.get_current_placement_group()
    if group is not None:
        with suppress(OSError):
            (run / ROOM).write_text(group.id.hex())


def free_room(run: Path) -> None:
    """Give back what an earlier start of this run still holds, and with it end those of its workers that live."""
    path = run / ROOM
    held = path.read_text() if path.exists() else ""
    if ray.util.placement_group_table().get(held, {}).get("state", "REMOVED") != "REMOVED":
        ray.util.remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(held))))
    free_orphans()


def free_orphans() -> int:
    """Give back what controllers of this job that are dead still hold; says how many groups that were.

    Ray keeps a placement group until the job of its maker ends, even when the actor that made it is gone. Who made it
    is in Ray's control service, and its Python does not show it.
    """
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData

    job, freed = ray.get_runtime_context().get_job_id(), 0
    driver = (b"", ray.ActorID.nil().binary())  # Ray says of a group that the driver has made that its actor is dead
    for record in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(record)
        orphan = group.creator_actor_dead and group.creator_actor_id not in driver
        orphan = orphan and not group.is_detached and group.creator_job_id.hex() == job
        if orphan and group.state != PlacementGroupTableData.REMOVED:
            ray.util.remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
            freed += 1
    return freed


def one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
