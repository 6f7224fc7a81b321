"""Adult: labels and features against pandas, both forms of the file, and what must not be a feature."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.loaders.adult import CATEGORICAL, NUMERIC, TASKS, UCI_COLUMNS, load_adult

ROWS = [
    "39, State-gov, 7, Bachelors, 13, Never-married, Adm-clerical, Not-in-family, White, Male, 2174, 0, 40, ?, <=50K",
    "50, Private, 83311, Masters, 14, Married-civ-spouse, ?, Husband, White, Male, 0, 0, 13, United-States, >50K",
]
TEST_ROWS = [
    "|1x3 Cross validator",
    "25, Private, 226802, 11th, 7, Never-married, Sales, Own-child, Black, Female, 0, 5, 40, United-States, >50K.",
]


def write_uci(directory: Path, rows: list[str] = ROWS) -> Path:
    (directory / "adult.data").write_text("\n".join(rows) + "\n\n")
    (directory / "adult.test").write_text("\n".join(TEST_ROWS) + "\n")
    return directory


def test_ucis_own_files_by_hand(tmp_path: Path) -> None:
    adult = load_adult(write_uci(tmp_path))
    assert adult.labels_RT.tolist() == [[0, 1], [1, 0], [1, 1]]
    assert adult.numeric_RN.tolist() == [[39, 13, 2174, 0, 40], [50, 14, 0, 0, 13], [25, 7, 0, 5, 40]]
    # workclass: missing, Private, State-gov | education: missing, 11th, Bachelors, Masters | occupation: missing, Adm-
    # clerical, Sales | race: missing, Black, White | gender: missing, Female, Male | country: missing, United-States
    assert adult.field_rows == (3, 4, 3, 3, 3, 2)
    offsets = np.cumsum((0, *adult.field_rows[:-1]))
    assert (adult.ids_RK - offsets).tolist() == [[2, 2, 1, 2, 2, 0], [1, 3, 0, 2, 2, 1], [1, 1, 2, 1, 1, 1]]


def test_the_whole_of_adult_against_pandas(shared_data: Path) -> None:
    adult = load_adult(shared_data / "adult")
    frame = pd.read_parquet(shared_data / "adult" / "adult.parquet")
    assert len(adult.labels_RT) == len(frame) == 48_842
    income, never = (adult.labels_RT[:, TASKS.index(task)] for task in ("income", "never_married"))
    np.testing.assert_array_equal(income, frame["income"] == ">50K")
    np.testing.assert_array_equal(never, frame["marital-status"] == "Never-married")
    np.testing.assert_array_equal(adult.numeric_RN, frame[list(NUMERIC)].to_numpy(np.float32))
    ends = np.cumsum(adult.field_rows)
    for k, name in enumerate(CATEGORICAL):
        ids_R = adult.ids_RK[:, k]
        first = ends[k] - adult.field_rows[k]
        assert ((ids_R >= first) & (ids_R < ends[k])).all()
        assert (frame[name][ids_R == first] == "?").all()
        assert frame.groupby(ids_R)[name].nunique().max() == 1  # one id, one value
        assert frame.groupby(name)[name].nunique().size == len(np.unique(ids_R))


def test_nothing_that_gives_a_label_away_is_a_feature() -> None:
    banned = {"income", "marital-status", "relationship", "fnlwgt"}
    assert set(CATEGORICAL) | set(NUMERIC) == set(UCI_COLUMNS) - banned


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"neither adult\.parquet nor adult\.data with adult\.test"):
        load_adult(tmp_path)
    with pytest.raises(ValueError, match=r"adult\.data: column 'income' holds '50K'"):
        load_adult(write_uci(tmp_path, [ROWS[0].replace("<=50K", "50K")]))
    with pytest.raises(ValueError, match=r"adult\.data: column 'age' holds something that is no number"):
        load_adult(write_uci(tmp_path, [ROWS[0].replace("39", "old")]))
    (tmp_path / "adult.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"adult\.parquet: cannot be read"):
        load_adult(tmp_path)
    pd.DataFrame({"age": [1]}).to_parquet(tmp_path / "adult.parquet")
    with pytest.raises(ValueError, match=r"adult\.parquet: no column 'workclass'"):
        load_adult(tmp_path)
