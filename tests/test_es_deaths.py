"""A candidate that kills its process: it fails, the others do not, and theta has the bits that an error would give."""

import dataclasses
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import ray.cloudpickle
from ray.exceptions import ActorDiedError, OutOfMemoryError

from data.errors import UserError
from es.config import ESConfig
from es.contract import ObjectiveError
from es.deaths import CONVINCED, killer, narrowed, reason
from es.engine import run
from es.objectives.toy import Sphere
from es.record import RunRecord
from es.worker import Task

# Workers cannot import this file: its objectives travel whole.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

CONFIG = ESConfig(seed=1, pairs=12, generations=4, batch_pairs=4, cpus_per_worker=0.25)
POISONED = 37  # divides the seeds of pair 11 of generation 1 and of pair 1 of generation 3


@dataclasses.dataclass(frozen=True)
class Poison(Sphere):
    """Candidates of some seeds end their process, or raise: `how` may differ between runs that are one and the same.

    Its last bits depend on the size of the batch, on purpose.
    """

    how: str = "raise"
    folder: str = ""

    def describe(self):
        return {"objective": "poison"}

    def evaluate_batch(self, theta_PD, seeds_P):
        if (seeds_P % np.uint64(POISONED) == 0).any():
            if self.folder:
                (Path(self.folder) / str(os.getpid())).touch()
            if self.how == "exit":
                os._exit(139)
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ArithmeticError("poison")
        return super().evaluate_batch(theta_PD, seeds_P) + len(theta_PD) * 1e-12


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """theta and returns of a run in which those candidates raise."""
    out = tmp_path_factory.mktemp("raises")
    result = run(Poison(6), CONFIG, out=out)
    returns = RunRecord(out, {}, CONFIG.pairs).returns()
    assert result.failed_evaluations == np.isnan(returns).sum() == 4
    return result.theta, returns


@pytest.mark.ray
def test_a_candidate_that_kills_its_process_is_a_failed_evaluation(ray_cluster, expected, tmp_path):
    """Two pairs, the second after a stop and a resume: three deaths convict a batch, one more a candidate."""
    (tmp_path / "deaths").mkdir()
    config = dataclasses.replace(CONFIG, workers=2, max_lost_workers=6)
    for how, generations in (("exit", 2), ("kill", 4)):
        objective = Poison(6, how=how, folder=str(tmp_path / "deaths"))
        result = run(objective, dataclasses.replace(config, generations=generations), out=tmp_path / "run")
    np.testing.assert_array_equal(result.theta, expected[0])
    np.testing.assert_array_equal(RunRecord(tmp_path / "run", {}, CONFIG.pairs).returns(), expected[1])
    assert result.failed_evaluations == 4
    assert len(list((tmp_path / "deaths").iterdir())) == 2 * (CONVINCED + 2)


@dataclasses.dataclass(frozen=True)
class KillsTheCentre(Sphere):
    """The unperturbed theta, which comes alone, ends its process."""

    def evaluate_batch(self, theta_PD, seeds_P):
        if len(theta_PD) == 1:
            os._exit(1)
        return super().evaluate_batch(theta_PD, seeds_P)


@pytest.mark.ray
def test_a_centre_that_kills_its_process_has_no_return(ray_cluster):
    config = dataclasses.replace(CONFIG, workers=2, generations=1)
    result = run(KillsTheCentre(6), config)
    np.testing.assert_array_equal(result.theta, run(Sphere(6), dataclasses.replace(config, workers=0)).theta)
    assert result.history[0]["return.centre"] is None
    assert result.failed_evaluations == 0


@dataclasses.dataclass(frozen=True)
class AlwaysDies(Sphere):
    def evaluate_batch(self, theta_PD, seeds_P):
        os._exit(7)


@pytest.mark.ray
def test_an_objective_that_always_ends_its_process_stops_the_run_in_one_line(ray_cluster):
    config = dataclasses.replace(CONFIG, pairs=2, batch_pairs=1, workers=2, max_lost_workers=30, centre_every=0)
    with pytest.raises(
        ObjectiveError, match=r"^AlwaysDies: evaluating candidate 0 of pair 0 of generation 0 ends"
    ) as caught:
        run(AlwaysDies(6), config)
    assert "4 evaluations have failed so far" in str(caught.value)
    with pytest.raises(UserError, match=r"^2 workers were lost in one generation .* may end its process; the last: "):
        run(AlwaysDies(6), dataclasses.replace(config, max_lost_workers=1))


def test_a_task_is_narrowed_down():
    task = Task(8, 17, True)
    batches = [Task(8, 12, False), Task(12, 16, False), Task(16, 17, False), Task(0, 0, True)]
    assert narrowed(task, 4, deaths=1) == batches
    assert narrowed(Task(8, 10, False), 4, deaths=CONVINCED - 1) is None
    assert narrowed(Task(8, 10, False), 4, deaths=CONVINCED) == [
        Task(8, 9, False, 0),
        Task(9, 10, False, 0),
        Task(8, 9, False, 1),
        Task(9, 10, False, 1),
    ]
    assert narrowed(Task(8, 9, False, 1), 4, deaths=CONVINCED + 1) == []
    assert narrowed(Task(0, 0, True), 4, deaths=1) is None
    assert narrowed(Task(0, 0, True), 4, deaths=CONVINCED) == []


def test_what_ray_says_of_a_death_is_cut_to_a_line():
    assert reason(OutOfMemoryError("x\ny")) == "Ray ended it: the node was running out of memory"
    assert "\n" not in reason(ActorDiedError())
    text = (
        "The actor died.\n Worker exit type: SYSTEM_ERROR Worker exit detail: Worker unexpectedly exits with a "
        "connection error code 2. End of file. There are"
    )
    assert reason(RuntimeError(text)) == "Worker unexpectedly exits with a connection error code 2; SYSTEM_ERROR"
    reply = killer("Mine", Task(3, 4, False, 1), 5, ActorDiedError())
    assert np.isnan(reply.returns_k2).all()
    assert str(reply.error).startswith("Mine: evaluating candidate 1 of pair 3 of generation 5 ends the worker's proc")
