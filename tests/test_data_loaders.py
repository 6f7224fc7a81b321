"""The loaders on samples of the public formats (beside the checkout) and on files written here from the formats."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.encode import Encoder
from data.labels import check_labels
from data.loaders.ali_ccp import load_ali_ccp
from data.loaders.ali_express import load_ali_express
from data.loaders.common import hash_split
from data.loaders.speed_dating import load_speed_dating, split_waves
from data.log import open_log
from data.schema import Many

PARTS = ("train", "valid", "test")


def frame(out: Path, part: str) -> pd.DataFrame:
    return pd.concat([pq.ParquetFile(path).read().to_pandas() for path in sorted((out / part).iterdir())])


def test_waves_are_dealt_evenly_and_each_is_tested_once() -> None:
    waves, rows = np.arange(1, 22), np.random.default_rng(0).integers(50, 900, 21)
    tested: list[int] = []
    for fold in range(7):
        split = split_waves(waves, rows, 7, fold, seed=5)
        assert sorted(sum(split.values(), ())) == waves.tolist()
        assert split["valid"] == split_waves(waves, rows, 7, (fold + 1) % 7, seed=5)["test"]
        tested += split["test"]
        share = rows[np.isin(waves, split["test"])].sum() / rows.sum()
        assert 0.5 / 7 < share < 1.5 / 7
    assert sorted(tested) == waves.tolist()
    assert split_waves(waves, rows, 7, 0, seed=5) == split_waves(waves, rows, 7, 0, seed=5)
    assert any(split_waves(waves, rows, 7, 0, seed) != split_waves(waves, rows, 7, 0, 5) for seed in range(4))
    with pytest.raises(ValueError, match=r"fold is 7, must be 0 \.\. 6"):
        split_waves(waves, rows, 7, 7, 0)
    with pytest.raises(ValueError, match=r"folds is 2, must be 3 \.\. 21"):
        split_waves(waves, rows, 2, 0, 0)


def test_speed_dating_keeps_waves_together_and_knows_every_outcome(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "speed_dating"
    facts = load_speed_dating(source, tmp_path / "log", fold=2)
    log = open_log(tmp_path / "log")
    original = pd.read_parquet(source / "log.parquet")
    outcome = pd.read_parquet(source / "truth.parquet").set_index("exposure_id").potential_conversion
    assert sum(part.rows for part in facts.values()) == len(original)
    waves = np.concatenate([frame(tmp_path / "log", part).wave.unique() for part in PARTS])
    assert sorted(waves) == sorted(original.wave.unique())
    for part in PARTS:
        table, truth = frame(tmp_path / "log", part), log.truth(part)
        assert check_labels(log, log.part(part)).positives["click"] == table.click.sum() == facts[part].clicks
        potential = truth.potential_R[truth.lookup(table.exposure_id.to_numpy())]
        np.testing.assert_array_equal(potential, outcome[table.exposure_id])
        np.testing.assert_array_equal(table.conversion, table.click * potential)
    banned = {"wave", "user_id", "item_id", "exposure_id", "click", "conversion", "potential_conversion"}
    assert not banned & set(log.schema.features)
    assert set(log.schema.features) == set(original.columns) - banned
    assert {field.name for field in log.schema.categorical} >= {"pair_gender", "user_goal", "item_goal"}
    ids_RK = Encoder(log.schema).encode(next(log.read(log.part("train")))).ids_RK
    assert not (ids_RK - np.array(Encoder(log.schema).offsets) == 1).any()


def test_speed_dating_names_what_is_absent(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"log\.parquet: no such file"):
        load_speed_dating(tmp_path, tmp_path / "out")
    columns = {name: [1, 2, 3] for name in ("exposure_id", "wave", "user_id", "item_id", "pair_like")}
    pq.write_table(pa.table(columns | {"click": [1, 0, 1]}), tmp_path / "log.parquet")
    with pytest.raises(ValueError, match=r"log\.parquet: no column 'conversion'"):
        load_speed_dating(tmp_path, tmp_path / "out")
    pq.write_table(pa.table(columns | {"click": [1, 0, 1], "conversion": [0, 0, 1]}), tmp_path / "log.parquet")
    pq.write_table(pa.table({"exposure_id": [1, 2], "potential_conversion": [0, 1]}), tmp_path / "truth.parquet")
    with pytest.raises(ValueError, match="no row for exposure 3"):
        load_speed_dating(tmp_path, tmp_path / "out", folds=3)


def test_ali_express_holds_out_whole_searches(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "aliexpress_sample"
    load_ali_express(source, tmp_path / "log")
    log = open_log(tmp_path / "log")
    original = pd.concat([pd.read_csv(path) for path in sorted(source.glob("*train*.csv"))])
    train, valid = frame(tmp_path / "log", "train"), frame(tmp_path / "log", "valid")
    assert not set(train.search_id) & set(valid.search_id)
    assert len(valid) > 0
    keys = ["search_id", "numerical_5", "numerical_40", "click"]
    together = pd.concat([train, valid])[keys].sort_values(keys).to_numpy()
    np.testing.assert_allclose(together, original[keys].sort_values(keys).to_numpy(), rtol=1e-6)
    assert (len(log.schema.categorical), len(log.schema.numeric)) == (16, 63)
    assert check_labels(log, log.part("test")).rows == sum(len(pd.read_csv(p)) for p in source.glob("*test*.csv"))


def test_ali_express_names_a_bad_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no \*\.csv"):
        load_ali_express(tmp_path, tmp_path / "out")
    with pytest.raises(ValueError, match="nowhere: no such file or directory"):
        load_ali_express(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "train.csv").write_text("search_id,click\n1,0\n")
    with pytest.raises(ValueError, match=r"train\.csv: no column 'categorical_1'"):
        load_ali_express(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_ali_ccp_csv_is_taken_by_its_file_names(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "aliccp_sample"
    load_ali_ccp(source, tmp_path / "log")
    log = open_log(tmp_path / "log")
    for part, word in zip(PARTS, ("train", "val", "test"), strict=True):
        original = pd.read_csv(source / f"ali_ccp_{word}_sample.csv")
        table = frame(tmp_path / "log", part)
        pd.testing.assert_frame_equal(table.reset_index(drop=True), original[table.columns], check_dtype=False)
        assert check_labels(log, log.part(part)).positives["conversion"] == original.purchase.sum()
    assert log.schema.labels["conversion"] == "purchase"
    assert set(log.schema.features) == set(original.columns) - {"click", "purchase"}


def test_ali_ccp_slots_against_a_plain_loop(tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "aliccp_sample" / "paddlerec_escm2_10rows_raw_slots.txt"
    load_ali_ccp(source, tmp_path / "log", lists=("210", "150_14"))
    got = pd.concat([frame(tmp_path / "log", part) for part in PARTS]).set_index("exposure_id").sort_index()
    lines = [line.split(",") for line in source.read_text().splitlines()]
    assert got.index.tolist() == [int(line[0]) for line in lines]
    for line, (_, row) in zip(lines, got.iterrows(), strict=True):
        pairs = [token.split(":") for token in line[3:]]
        assert (row.click, row.conversion) == (int(line[1]), int(line[2]))
        for field in ("101", "205", "853"):
            first = next((int(value) for name, value in pairs if name == field), None)
            assert np.isnan(row[field]) if first is None else row[field] == first
        for field in ("210", "150_14"):
            assert row[field].tolist() == [int(value) for name, value in pairs if name == field]
    log = open_log(tmp_path / "log")
    assert [(field.name, field.many) for field in log.schema.many] == [
        ("210", Many("mean", 200)),
        ("150_14", Many("mean", 200)),
    ]
    encoded = [Encoder(log.schema).encode(table) for part in PARTS for table in log.read(log.part(part))]
    lengths = sorted(int(n) for rows in encoded for n in np.diff(rows.bags[1].offset_R1))
    assert lengths == sorted(min(200, sum(token.startswith("150_14:") for token in line)) for line in lines)


def features(*triples: tuple[str, int, float]) -> str:
    return f"{len(triples)}," + "\x01".join(f"{field}\x02{id_}\x03{value}" for field, id_, value in triples)


@pytest.fixture
def skeleton(tmp_path: Path) -> Path:
    """400 train and 3 test rows over 60 users, in Tianchi's form."""
    source = tmp_path / "tianchi"
    source.mkdir()
    users = [f"u{i},{features(('101', 100 + i, 1), ('124', i % 2, 1), ('109_14', i, 2.5))}\n" for i in range(60)]
    rows = []
    for i in range(400):
        own = [("205", 9000 + i, 1), ("210", i, 1), ("210", i + 1, 1), ("508", 7, 0.5), ("508", 8, 0.25), ("301", 3, 1)]
        click = int(i % 10 == 0)
        purchase = int(i % 20 == 0 or i == 33)  # row 33 buys without a click
        rows.append(f"{i},{click},{purchase},u{i % 60},{features(*own)}\n")
    (source / "common_features_train.csv").write_text("".join(users))
    (source / "sample_skeleton_train.csv").write_text("".join(rows))
    (source / "common_features_test.csv").write_text("".join(users[:2]))
    (source / "sample_skeleton_test.csv").write_text("".join(rows[:2]) + f"2,0,0,u1,{features(('301', 5, 1))}\n")
    return source


def test_ali_ccp_skeleton_joins_the_common_features(tmp_path: Path, skeleton: Path) -> None:
    facts = load_ali_ccp(skeleton, tmp_path / "log", lists=("210", "109_14"))
    assert sum(part.dropped for part in facts.values()) == 1
    train, valid = frame(tmp_path / "log", "train"), frame(tmp_path / "log", "valid")
    assert not set(train["101"]) & set(valid["101"])
    got = pd.concat([train, valid]).set_index("exposure_id").sort_index()
    assert got.index.tolist() == [i for i in range(400) if i != 33]
    for i, row in got.iterrows():
        assert (row["101"], row["124"], row["205"]) == (100 + i % 60, i % 60 % 2, 9000 + i)
        assert (row["508"], row["301"]) == (7, 3)
        assert np.isnan(row["121"])
        assert (row["210"].tolist(), row["109_14"].tolist()) == ([i, i + 1], [i % 60])
        assert (row.click, row.conversion) == (i % 10 == 0, i % 20 == 0)
    test = frame(tmp_path / "log", "test")
    assert test["101"].tolist() == [100, 101, 101]
    assert test["301"].tolist() == [3, 3, 5]
    assert test["210"].tolist()[2].tolist() == []
    log = open_log(tmp_path / "log")
    assert check_labels(log, log.part("train")).rows == len(train)
    assert log.schema.user == "101"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\n11,0,0,u11", "\n11,0,0,u999", "line 12: no common features for index u999"),
        ("\n11,0,0,u11,6", "\n11,0,0,u11,5", "line 12: has 6 features, says 5"),
        ("205\x029011\x031", "205\x029011", "line 12: 17 pieces are no whole features"),
        ("205\x029011\x031", "205\x02x\x031", "an id is no whole number"),
        ("\n11,0,0,u11", "\n11,7,0,u11", "column 'click' is 7; a label is 0 or 1"),
        ("\n11,0,0,u11", "\n11,0,yes,u11", "cannot be read"),
    ],
)
def test_a_bad_skeleton_line_is_named(tmp_path: Path, skeleton: Path, old: str, new: str, message: str) -> None:
    edit(skeleton / "sample_skeleton_train.csv", old, new)
    with pytest.raises(ValueError, match=rf"sample_skeleton_train\.csv: .*{message}"):
        load_ali_ccp(skeleton, tmp_path / "log")
    assert not (tmp_path / "log").exists()


def test_absent_common_features_and_an_unknown_form_are_named(tmp_path: Path, skeleton: Path) -> None:
    (skeleton / "common_features_test.csv").unlink()
    with pytest.raises(ValueError, match=r"common_features_test\.csv: no such file"):
        load_ali_ccp(skeleton, tmp_path / "log")
    with pytest.raises(ValueError, match="form 'parquet' is none of auto, skeleton, csv, slots"):
        load_ali_ccp(skeleton, tmp_path / "log", form="parquet")
    with pytest.raises(ValueError, match="'205' is no multi-valued field of Ali-CCP; these are 210, 109_14"):
        load_ali_ccp(skeleton, tmp_path / "log", lists=("205",))


def test_ali_ccp_csv_has_no_lists(tmp_path: Path, shared_data: Path) -> None:
    with pytest.raises(ValueError, match="the csv form has one value a field, so no lists 109_14"):
        load_ali_ccp(shared_data / "aliccp_sample", tmp_path / "log", lists=("109_14",))


def test_the_hash_split_keeps_keys_together_and_its_shares() -> None:
    key = np.repeat(np.arange(20_000), 3)
    part_R = hash_split(pa.array(key), {"train": 0.8, "valid": 0.1, "test": 0.1}, seed=1)
    assert (part_R.reshape(-1, 3) == part_R[::3, None]).all()
    share = np.bincount(part_R[::3], minlength=3) / 20_000
    np.testing.assert_allclose(share, [0.8, 0.1, 0.1], atol=4 * np.sqrt(0.8 * 0.2 / 20_000))
    assert (part_R != hash_split(pa.array(key), {"train": 0.8, "valid": 0.1, "test": 0.1}, seed=2)).any()
    assert (hash_split(pa.array(key), {"train": 1.0, "valid": 0.0, "test": 0.0}, seed=2) == 0).all()
