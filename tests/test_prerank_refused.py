"""What pre-ranking refuses, in one line, before anything starts."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from support import CPU, change_column

from data.errors import UserError
from funnel.prerank.settings import PreRankSettings
from funnel.prerank.tuning import PreRankObjective, PreRankTuningSettings
from jobs import train
from tests.support_prerank import QUICK, by_hand, cascade, job_of, problem_of, row, teacher_run


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cascade(tmp_path_factory.mktemp("cascade") / "stages")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return teacher_run(tmp_path_factory.mktemp("teacher"))


def simple() -> list[dict[str, Any]]:
    rows = []
    for request in range(4):
        for item in range(1, 7):
            stage = "shown" if item < 3 else "ranked" if item == 3 else "cut"
            rows.append(row(request, item, stage, click=int(item == 1), purchase=int(item == 1)))
    rows[5].update(elsewhere_click=1, elsewhere_purchase=1)
    return rows


def refused(tmp_path: Path, change: dict[str, Any], place: int, **settings: Any) -> str:
    rows = simple()
    rows[place].update(change)
    with pytest.raises(UserError) as raised:
        problem_of(by_hand(tmp_path / "log", rows), **settings)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("change", "place", "message"),
    [
        ({"prerank_neg": 1}, 2, "row 2: stages out of order: 'prerank_neg' and 'rank_neg' are both 1"),
        ({"rerank_pos": 0}, 7, "row 7: stages out of order: 'realshow' is 1 where 'rerank_pos' is 0"),
        ({"click": 1}, 4, "row 4: column 'click' is 1 where 'realshow' is 0"),
        ({"elsewhere_purchase": 1}, 4, "row 4: column 'elsewhere_purchase' is 1 where 'elsewhere_click' is 0"),
        ({"item_id": 1}, 3, "row 3: request 0 has this item (column 'item_id') in a row before"),
        ({"prerank_neg": 2}, 4, "row 4: column 'prerank_neg' is missing or neither 0 nor 1"),
        ({"item_id": None}, 3, "row 3: column 'item_id' is missing; every row needs its item"),
        ({"purchase": 1}, 1, "row 1: column 'purchase' is 1 where 'click' is 0; a conversion needs a click"),
    ],
)
def test_a_log_that_contradicts_itself_is_refused(
    tmp_path: Path, change: dict[str, Any], place: int, message: str
) -> None:
    assert message in refused(tmp_path, change, place)


def test_a_request_without_exposed_items_is_refused(tmp_path: Path) -> None:
    rows = simple()
    for one in rows[6:8]:
        one.update(realshow=0, rerank_pos=0, rank_pos=0, rank_neg=1, click=0, purchase=0)
    with pytest.raises(UserError, match="row 6: request 1 has no exposed item"):
        problem_of(by_hand(tmp_path / "log", rows))


def test_settings_that_cannot_be_are_refused(tmp_path: Path, stages: Path) -> None:
    log = by_hand(tmp_path / "log", simple())
    with pytest.raises(UserError, match="valid: k is 6, but no request has more than 6 candidates"):
        problem_of(log, k=6)
    with pytest.raises(UserError, match="both --query and --item"):
        problem_of(log, query=("*",))
    with pytest.raises(UserError, match="no feature matches --item"):
        problem_of(log, item=("thing_*",))
    with pytest.raises(UserError, match="shown is 10, but ranking is handed 5"):
        PreRankSettings(k=5)
    with pytest.raises(UserError, match="nothing to learn"):
        PreRankSettings(exposure_weight=0, click_weight=0, purchase_weight=0)
    with pytest.raises(UserError, match="exposure_weight must be a number of at least 0, got nan"):
        PreRankSettings(exposure_weight=float("nan"))
    bare = cascade(tmp_path / "bare")
    for path in (bare / "train").glob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(["elsewhere_click"]), path, row_group_size=10_000)
    with pytest.raises(UserError, match=r"no column 'elsewhere_click'.*--labels in"):
        problem_of(bare, k=16, shown=5)


def test_a_score_that_is_no_number_is_refused(tmp_path: Path) -> None:
    log = cascade(tmp_path / "log")

    def broken(values: np.ndarray) -> np.ndarray:
        changed = values.copy()
        changed[7] = np.inf
        return changed

    change_column(log, "test", "rank_score", broken)
    with pytest.raises(UserError, match=r"test/part-00000.*row 7: column 'rank_score' is no finite number"):
        problem_of(log, k=16, shown=5)


def test_a_teacher_of_another_schema_is_refused(stages: Path, teacher: Path, tmp_path: Path) -> None:
    other = by_hand(tmp_path / "log", simple())
    job = job_of(tmp_path / "run", other, {"teacher": str(teacher)}, k=3, shown=2, ranked=1, cut=1)
    with pytest.raises(UserError, match="the teacher has the feature 'user_taste_0', which the log has not"):
        job.open_problem(CPU)
    with pytest.raises(UserError, match="ask no teacher"):
        job_of(tmp_path / "run", stages, {"teacher": str(teacher)}, distill="none")
    words = ["--data", str(other), "--out", str(tmp_path / "out"), "--problem", "prerank", *QUICK]
    with pytest.raises(UserError, match=r"--given teacher=.*user_taste_0"):
        train.run(train.arguments_of(*words, "--k", "3", "--shown", "2", "--given", f"teacher={teacher}"))


def test_who_cannot_teach_is_refused_before_workers_start(
    stages: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--data", str(stages), "--problem", "prerank", *QUICK, "--k", "16", "--shown", "5"]
    pupil = tmp_path / "pupil"
    train.run(train.arguments_of(*words, "--out", str(pupil)))

    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("started")

    monkeypatch.setattr(train, "run_training", started)
    with pytest.raises(UserError, match=r"--given teacher=.*pupil: a run of prerank cannot teach"):
        train.run(train.arguments_of(*words, "--out", str(tmp_path / "out"), "--given", f"teacher={pupil}"))
    two = [f"teacher={teacher}", f"teacher={teacher}"]
    with pytest.raises(UserError, match=r"--given teacher=.*: teacher takes 1 run at most"):
        train.run(train.arguments_of(*words, "--out", str(tmp_path / "out"), "--given", *two))


def test_a_torn_request_is_said_to_be_torn(tmp_path: Path) -> None:
    log = by_hand(tmp_path / "log", simple())
    path = next((log / "train").glob("*.parquet"))
    table = pq.read_table(path)
    pq.write_table(table.take([*range(5), *range(6, len(table)), 5]), path)
    with pytest.raises(UserError, match="has rows before that do not stand beside it in one row group"):
        problem_of(log)


def test_tuning_without_a_log_asks_for_one() -> None:
    with pytest.raises(UserError, match="--data is needed: a stage log"):
        PreRankObjective(PreRankTuningSettings(), 0)
    with pytest.raises(UserError, match="--data is needed: a stage log"):
        PreRankObjective(PreRankTuningSettings(data=Path().absolute()), 0)  # as jobs.evolve hands it on
