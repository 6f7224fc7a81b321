"""RecFlow's published form from end to end: files of all_stage -> log -> a trained pre-ranker -> its figures."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather as paf
import pytest
from support import error_line

from jobs import evaluate, train
from jobs.command.cli import parse
from jobs.make_data import options_for
from jobs.make_data import run as make

COLUMNS = (
    "request_id", "user_id", "request_timestamp", "device_id", "age", "gender", "province", "video_id", "author_id",
    "category_level_one", "category_level_two", "upload_type", "upload_timestamp", "duration", "realshow", "rerank_pos",
    "rerank_neg", "rank_pos", "rank_neg", "coarse_neg", "prerank_neg", "rank_index", "rerank_index", "playing_time",
    "effective_view", "long_view", "like", "follow", "forward", "comment",
)  # fmt: skip
"""Of a file of all_stage, all of them whole numbers."""
LEVELS = ((6, ("realshow", "rerank_pos", "rank_pos")), (4, ("rerank_pos", "rank_neg")), (5, ("rerank_neg", "rank_pos")),
          (10, ("rank_neg",)), (10, ("coarse_neg",)), (10, ("prerank_neg",)))  # fmt: skip
"""How many videos of a request carry which flags; what was shown carries those of the stages before it."""
DAY = 86_400_000


def day_file(place: Path, day: int, requests: int = 40) -> None:
    """One day: long ids, rows of requests apart from each other, categories that are liked."""
    rng = np.random.default_rng(day)
    rows: list[dict[str, int]] = []
    for number in range(requests):
        user = int(rng.integers(25))
        videos = rng.choice(120, 45, replace=False)
        fits = np.isin(videos % 5, (1, 3)) * 2.0 + rng.gumbel(size=45)
        videos = videos[np.argsort(-fits)]
        begin = 0
        for count, flags in LEVELS:
            for place_in, video in enumerate(videos[begin : begin + count].tolist()):
                shown, fit = "realshow" in flags, video % 5 in (1, 3)
                view = int(shown and rng.random() < (0.7 if fit else 0.3))
                row = dict.fromkeys(COLUMNS, 0) | dict.fromkeys(flags, 1)
                row |= {
                    "request_id": 7_000_000_000_000 + 1000 * day + number, "user_id": 40_000_000 + user,
                    "request_timestamp": 1_705_104_000_000 + day * DAY + 1000 * number, "device_id": 9_000_000 + user,
                    "age": user % 7, "gender": user % 3, "province": user % 30, "video_id": 150_000_000_000 + video,
                    "author_id": 10_000_000 + video % 40, "category_level_one": video % 5,
                    "category_level_two": video % 20, "upload_type": video % 3,
                    "upload_timestamp": 1_705_104_000_000 - video * DAY // 10, "duration": 5_000 + 100 * video,
                    "rank_index": place_in if "rank_pos" in flags else -1, "rerank_index": place_in if shown else -1,
                    "playing_time": 9_000 * view, "effective_view": view, "long_view": view * int(rng.random() < 0.6),
                }  # fmt: skip
                rows.append(row)
            begin += count
    rng.shuffle(rows)  # type: ignore[arg-type]
    kinds = pa.schema([(name, pa.int64()) for name in COLUMNS])
    paf.write_feather(pa.Table.from_pylist(rows, kinds), place / f"2024-01-{13 + day}.feather", compression="lz4")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("recflow") / "all_stage"
    source.mkdir()
    for day in range(4):
        day_file(source, day)
    out = source.parent / "log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data.loaders.recflow.SIZES", {})  # tables for four million videos take seconds
        make(parse(options_for, ["--source", "recflow", "--input", str(source), "--out", str(out)]))
    return out


WORDS = ("--problem", "prerank", "--workers", "0", "--epochs", "6", "--batch-size", "10", "--stream.lanes", "2",
         "--shown", "6", "--model.hidden", "8", "--model.output", "4", "--optimizer.learning-rate", "0.05",
         "--labels", "in", "--stop-metric", "isph")  # fmt: skip


def test_from_the_published_files_to_figures(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train.run(train.arguments_of("--data", str(log), "--out", str(out), "--k", "15", *WORDS))
    summary = evaluate.run(
        evaluate.Arguments(run=out, data=str(log), out=tmp_path / "test", by=("item_category",), replicates=100)
    )
    trained = json.loads((out / "summary.json").read_text())
    assert summary["requests"] == 40
    assert summary["candidates"] == 45
    for name in ("isph", "isph.5", "pauc"):
        assert summary[name] == trained[name], name
        assert summary[f"{name}.low"] < summary[name] < summary[f"{name}.high"]
    assert summary["isph"] > 1.3 * 15 / 45, "chance"
    assert {"asph", "recall", "pauc.true"} <= summary["absent"].keys()
    assert len(json.loads((tmp_path / "test" / "evaluation.json").read_text())["slices"][0]["slices"]) == 5


def test_what_recflow_cannot_say_is_said_before_a_training_starts(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str) -> str:
        out = ("--data", str(log), "--out", str(tmp_path / "run"), *WORDS, *words)
        return error_line(train, out, monkeypatch, capsys)

    assert "take a smaller --k" in refused()  # 60 of at most 45 candidates
    assert "elsewhere_click" in refused("--k", "15", "--labels", "all")
    assert "take isph or pauc" in refused("--k", "15", "--stop-metric", "asph")
    assert not (tmp_path / "run").exists()
