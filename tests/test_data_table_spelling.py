"""make_data --source table: CSVs as spreadsheets, databases and pandas write them."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import UserError
from data.loaders.table import Loaded, TableOptions, load_table
from data.loaders.table_draft import find_roles
from data.loaders.table_values import looks_like
from data.log import open_log

ROWS = 1200
HEAD = ("ts", "user_id", "item_id", "price", "click", "conversion")


def rows() -> list[list[str]]:
    rng = np.random.default_rng(5)
    click = rng.random(ROWS) < 0.4
    return [
        [f"2026-01-{1 + n * 6 // ROWS:02d} 12:00:00", str(rng.integers(90)), str(rng.integers(40)),
         f"{rng.uniform(1, 99):.2f}", str(int(click[n])), str(int(click[n] and rng.random() < 0.4))]
        for n in range(ROWS)
    ]  # fmt: skip


def write(
    path: Path, cells: list[list[str]], head: tuple[str, ...] = HEAD, mark: str = ",", code: str = "utf-8"
) -> str:
    path.write_bytes("\n".join(mark.join(line) for line in [list(head), *cells]).encode(code))
    return str(path)


def load(source: str, out: Path, **options: object) -> Loaded:
    return load_table(source, out, TableOptions(**options))  # type: ignore[arg-type]


def read(out: Path, name: str) -> pa.ChunkedArray:
    log = open_log(out)
    return pa.concat_tables(
        [table for part in ("train", "valid", "test") for table in log.read(log.part(part), [name])]
    )[name]


@pytest.mark.parametrize("mark", [";", "|", "\t"])
def test_the_first_line_says_what_separates_columns(tmp_path: Path, mark: str) -> None:
    usual = load(write(tmp_path / "usual.csv", rows()), tmp_path / "usual")
    other = load(write(tmp_path / "other.csv", rows(), mark=mark), tmp_path / "other")
    assert other.facts == usual.facts
    assert other.draft.schema.features == usual.draft.schema.features


def test_decimal_commas_are_named_and_read_as_told(tmp_path: Path) -> None:
    cells = [[*line[:3], line[3].replace(".", ","), *line[4:]] for line in rows()]
    source = write(tmp_path / "raw.csv", cells, mark=";")
    price = next(one for one in load(source, tmp_path / "text").draft.decisions if one.column == "price")
    assert "--decimal ," in price.why
    assert not price.sure
    assert "price" in load(source, tmp_path / "log", decimal=",").draft.schema.numeric
    expected = sorted(float(line[3]) for line in rows())
    assert sorted(read(tmp_path / "log", "price").to_pylist()) == expected


def test_ids_that_pandas_made_floats_are_whole_numbers_again(tmp_path: Path) -> None:
    cells = [
        [line[0], f"{line[1]}.0", "" if n % 9 == 0 else f"{line[2]}.0", *line[3:]] for n, line in enumerate(rows())
    ]
    schema = load(write(tmp_path / "raw.csv", cells), tmp_path / "log").draft.schema
    assert {field.name: field.kind for field in schema.categorical if field.name != "ts_hour"} == {
        "user_id": "hash",
        "item_id": "hash",
    }
    item = read(tmp_path / "log", "item_id")
    assert pa.types.is_int64(item.type)
    assert item.null_count == len(range(0, ROWS, 9))
    assert set(item.drop_null().to_pylist()) == {int(line[2]) for n, line in enumerate(rows()) if n % 9}


def test_ids_that_lost_their_digits_are_refused_or_left_out(tmp_path: Path) -> None:
    large = [[line[0], str(2**63 + int(line[1])), *line[2:]] for line in rows()]
    source = write(tmp_path / "raw.csv", large)
    with pytest.raises(UserError, match=r"'user_id' holds whole numbers too large.*--text user_id"):
        load(source, tmp_path / "no")
    load(source, tmp_path / "log", text=("user_id",))
    assert set(read(tmp_path / "log", "user_id").to_pylist()) == {line[1] for line in large}
    token = write(tmp_path / "token.csv", large, ("ts", "token", *HEAD[2:]))
    left_out = next(one for one in load(token, tmp_path / "other").draft.decisions if one.column == "token")
    assert "--text token" in left_out.why
    assert left_out.what == "-"


def test_labels_are_yes_and_no_and_what_is_neither_is_named_by_row(tmp_path: Path) -> None:
    words = {"0": "No", "1": "Yes"}
    cells = [[*line[:4], words[line[4]], "" if line[4] == "0" else words[line[5]].upper()] for line in rows()]
    usual = load(write(tmp_path / "usual.csv", rows()), tmp_path / "usual")
    assert load(write(tmp_path / "raw.csv", cells), tmp_path / "log").facts == usual.facts
    cells[700][4] = "maybe"
    with pytest.raises(UserError, match=r"wrong.csv: column 'click' is 'maybe' in row 700, which is no click label"):
        load(write(tmp_path / "wrong.csv", cells), tmp_path / "wrong")
    cells[700][4] = ""
    with pytest.raises(UserError, match=r"column 'click' is missing in row 700"):
        load(write(tmp_path / "wrong.csv", cells), tmp_path / "wrong")


def test_infinite_amounts_are_made_missing_and_counted(tmp_path: Path) -> None:
    cells = [
        [*line[:3], ["inf", "-inf", "nan"][n % 3] if n < 60 else line[3], *line[4:]] for n, line in enumerate(rows())
    ]
    loaded = load(write(tmp_path / "raw.csv", cells), tmp_path / "log")
    assert "column 'price': 40 infinite values were made missing" in loaded.notes
    price_R = read(tmp_path / "log", "price").to_numpy()
    assert (~np.isfinite(price_R)).sum() == 60
    assert not np.isinf(price_R).any()


def test_names_with_spaces_and_dots_are_known_and_unnamed_columns_left_out(tmp_path: Path) -> None:
    found = find_roles(dict.fromkeys(("User ID", "request.id", "Is Click ", "is-purchase"), pa.int64()), {})
    assert found == {"user": "User ID", "request": "request.id", "click": "Is Click ", "conversion": "is-purchase"}
    assert find_roles(dict.fromkeys(("click", "request"), pa.int64()), {}) == {"click": "click", "request": "request"}
    cells = [[str(n % 7), *line] for n, line in enumerate(rows())]
    schema = load(write(tmp_path / "raw.csv", cells, ("", *HEAD)), tmp_path / "log").draft.schema
    assert "" not in schema.features
    assert open_log(tmp_path / "log").schema.features == schema.features


def test_encodings_and_missing_roles_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"raw.csv: is UTF-16; save it as UTF-8"):
        load(write(tmp_path / "raw.csv", rows(), code="utf-16"), tmp_path / "log")
    cells = [[*line, "Köln"] for line in rows()]
    with pytest.raises(UserError, match=r"raw.csv: cannot be read .*save it as UTF-8"):
        load(write(tmp_path / "raw.csv", cells, (*HEAD, "city"), code="latin-1"), tmp_path / "log")
    with pytest.raises(UserError, match="a column is called '__time__'"):
        load(write(tmp_path / "raw.csv", cells, (*HEAD, "__time__")), tmp_path / "log")
    notes = load(write(tmp_path / "raw.csv", [line[:5] for line in rows()], HEAD[:5]), tmp_path / "clicks").notes
    assert any("--conversion COLUMN" in note for note in notes)


def test_ids_of_a_parquet_with_nan_are_whole_numbers_too(tmp_path: Path) -> None:
    columns = dict(zip(HEAD, map(list, zip(*rows(), strict=True)), strict=True))
    item = np.array(columns["item_id"], float)
    item[::5] = np.nan
    table = pa.table({**columns, "item_id": pa.array(item, from_pandas=False)})
    pq.write_table(table.set_column(4, "click", table["click"].cast(pa.int8())), tmp_path / "raw.parquet")
    load(str(tmp_path / "raw.parquet"), tmp_path / "log")
    assert read(tmp_path / "log", "item_id").null_count == len(range(0, ROWS, 5))


def test_texts_that_are_meant_as_something_else() -> None:
    for texts, what in (
        (["1,50", "2,75"], "decimal comma"),
        (["1.5"] * 19 + ["oops"], "but for 'oops'"),
        (["$12.50", "$1,200"], "amounts"),
        (['["a","b"]', "[]"], "lists"),
        (["a1", "red", "10-20", "2026-01-01"], ""),
        ([], ""),
    ):
        found = looks_like(pa.array(texts, pa.large_string()))
        assert bool(found) == bool(what), texts
        assert what in found
