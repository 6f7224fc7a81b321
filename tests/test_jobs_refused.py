"""What is refused before or in place of a long wait: one class, divergence in the last step, a cluster that is gone."""

import http.server
import re
import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.errors import UserError
from distributed.training.learner import Learner
from funnel.ranking.problem import refuse_one_class
from jobs import evolve, train, tune
from jobs.cluster.answers import check_answers
from jobs.cluster.connect import check_cpus, names_cluster
from jobs.cluster.job_server import connect
from tests.support import arguments, change_column, config, copy, error_line, tiny_search, train_here


def converted(log: Path, tmp_path: Path, parts: tuple[str, ...] = ("valid",)) -> Path:
    """A copy of the log in which every click of some parts is a conversion."""
    log = copy(log, tmp_path)
    for part in parts:
        for file in sorted((log / part).glob("*.parquet")):
            table = pq.read_table(file)
            clicks = table.column("click")
            index = table.schema.get_field_index("conversion")
            pq.write_table(table.set_column(index, "conversion", clicks), file)
    return log


def test_a_part_of_one_class_is_refused_before_an_epoch(small_log: Path, tmp_path: Path) -> None:
    log = converted(small_log, tmp_path)
    said = r"stop_metric cvr\.click\.auc: part valid has (\d+) conversions in \1 clicks, and an AUC needs both labels"
    with pytest.raises(UserError, match=said):
        train.run(arguments(log, tmp_path / "run", "--stop-metric", "cvr.click.auc"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match=f"--metric cvr.click.auc: {said}"):
        tune.run(tiny_search(log, tmp_path / "search", metric="cvr.click.auc"))
    train.run(arguments(log, tmp_path / "run", "--stop-metric", "ctr.auc"))  # which it has


def test_all_rows_clicked_is_refused_before_an_epoch(small_log: Path, tmp_path: Path) -> None:
    log = copy(small_log, tmp_path)
    for _ in (log / "valid").glob("*.parquet"):
        change_column(log, "valid", "click", lambda column: np.ones_like(column))
    with pytest.raises(UserError, match="log/valid: all rows that weigh anything are clicks"):
        train.run(arguments(log, tmp_path / "run", "--stop-metric", "ctr.auc"))
    with pytest.raises(UserError, match=r"stop_metric ctr.auc: part valid has 600 clicks in 600 rows"):
        refuse_one_class("ctr.auc", {"rows": 600, "clicks": 600, "conversions": 3})
    refuse_one_class("ctr.log_loss", {"rows": 600, "clicks": 600, "conversions": 3})


def test_requests_of_one_class_are_refused_before_an_epoch(listed_log: Path, tmp_path: Path) -> None:
    log = copy(listed_log, tmp_path)

    for file in (log / "valid").glob("*.parquet"):
        table = pq.read_table(file)
        requests = np.unique(table.column("request_id").to_numpy(), return_inverse=True)[1]
        for name, value in (("click", requests % 2), ("conversion", 0 * requests)):
            index = table.schema.get_field_index(name)
            kind = table.schema.field(name).type
            table = table.set_column(index, name, pa.array(value, kind))
        pq.write_table(table, file)
    with pytest.raises(UserError, match="valid: no request has a row where 'click' is 1 and one where it is 0"):
        train.run(train.arguments_of("--problem", "listwise", "--data", str(log), "--out", str(tmp_path / "run")))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_divergence_in_the_last_step_is_one_clear_error(
    small_log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    """The loss of the last step is still a number; the weights after it are none."""
    step = Learner.step

    def diverging(self: Learner, batch: Any, number: int) -> Any:
        terms = step(self, batch, number)
        for weight in self.network.parameters():
            weight.data.fill_(value)
        return terms

    steps = len(list(train_steps(small_log, tmp_path, monkeypatch)))
    monkeypatch.setattr(Learner, "step", lambda self, batch, number: (diverging if number == steps - 1 else step)(
        self, batch, number))  # fmt: skip
    with pytest.raises(ValueError, match="outputs on part valid are no finite numbers: training diverged; lower"):
        train_here(tmp_path / "run", small_log, config(epochs=1))


def train_steps(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    seen: list[int] = []
    step = Learner.step

    def counted(self: Learner, batch: Any, number: int) -> Any:
        seen.append(number)
        return step(self, batch, number)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", counted)
        train_here(tmp_path / "counted", log, config(epochs=1))
    return seen


def test_early_stopping_is_announced(small_log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--epochs", "6", "--patience", "1", "--optimizer.learning-rate", "0.3", "--optimizer.embedding", "adam")
    summary = train.run(arguments(small_log, tmp_path / "run", *words))
    printed = capsys.readouterr().out
    epochs = summary["train.epochs"]
    assert epochs < 6
    assert f"stopped early, after epoch {epochs} of 6: no better ctcvr.log_loss in the last 1 valid" in printed
    assert f"the weights of epoch {epochs - 1} are kept" in printed


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:{closed}", "no Ray cluster answers there (connection refused); unset it to start one here"),
        ("ray://127.0.0.1:{closed}", "no Ray cluster answers there (connection refused)"),
        ("nosuchhost.invalid:6379", "no Ray cluster answers there"),
        ("http://127.0.0.1:8265", "is a dashboard's; write HOST:PORT of the cluster's head"),
        ("head", "write HOST:PORT of the cluster's head"),
        ("head:port", "write HOST:PORT of the cluster's head"),
    ],
)
def test_a_cluster_that_is_gone_is_one_line_within_seconds(
    address: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], small_log: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed = server.getsockname()[1]
    address = address.format(closed=closed)
    monkeypatch.setenv("RAY_ADDRESS", address)
    began = time.monotonic()
    with pytest.raises(UserError, match=re.escape(f"RAY_ADDRESS={address}: {said}")):
        check_answers(address)
    assert time.monotonic() - began < 10
    line = error_line(train, ("--data", small_log, "--out", tmp_path / "run", "--workers", 1), monkeypatch, capsys)
    assert said in line
    assert not (tmp_path / "run").exists()
    words = ("--objective", "sphere", "--out", tmp_path / "es", "--workers", 1)
    assert said in error_line(evolve, words, monkeypatch, capsys)
    words = ("--objective", "sphere", "--out", tmp_path / "search", "--samples", 1)
    assert said in error_line(tune, words, monkeypatch, capsys)
    check_cpus(0)  # no Ray is asked for, so none is looked for


def test_another_server_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.cluster.answers.SPEAK_S", 0.5)

    class Silent(http.server.BaseHTTPRequestHandler):
        def log_message(self, *words: Any) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UserError, match="what answers there is no Ray head"):
            check_answers(f"127.0.0.1:{server.server_port}")
        server.shutdown()


def test_a_dashboard_that_speaks_no_http_is_one_line() -> None:
    def talk(server: socket.socket) -> None:
        taken, _ = server.accept()
        taken.sendall(b"SSH-2.0-OpenSSH\r\n")
        taken.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=talk, args=(server,), daemon=True).start()
        with pytest.raises(UserError, match="no Ray dashboard answers there"):
            connect(f"http://127.0.0.1:{server.getsockname()[1]}")
    with pytest.raises(UserError, match="no Ray dashboard answers there"):
        connect("http://127.0.0.1:port")


def test_local_is_no_named_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for address, named in (("", False), ("local", False), ("auto", True), ("10.0.0.1:6379", True)):
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert names_cluster() is named
