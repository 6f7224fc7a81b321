"""Logs that do not lie in a local directory: trained from where they are, and what is wrong said in one line.

The S3 tests run where moto (a local S3 server) is installed: `pip install 'moto[server,s3]'`.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow.fs as pafs
import pytest
from support import arguments

from data.credentials import shown
from data.filesystems import in_process, resolve
from data.log import open_log
from data.schema import Schema
from data.write import new_log
from jobs import train

SCHEMA = Schema("toy", (), ("price",), {"click": "click", "conversion": "conversion"})
FIGURES = ("ctr.auc", "ctr.log_loss", "cvr.click.log_loss", "cvr.entire.log_loss", "ctcvr.auc", "train.steps")


def summary(data: str, out: Path) -> dict[str, float]:
    train.run(arguments(data, out))
    return {name: json.loads((out / "summary.json").read_text())[name] for name in FIGURES}


@pytest.fixture(scope="module")
def expected(small_log: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    return summary(str(small_log), tmp_path_factory.mktemp("local") / "run")


@pytest.fixture(scope="module")
def in_memory(small_log: Path) -> str:
    fsspec.filesystem("memory").put(str(small_log), "/remote-log", recursive=True)
    return "memory://remote-log"


def test_training_reads_an_fsspec_filesystem(in_memory: str, expected: dict[str, float], tmp_path: Path) -> None:
    assert summary(in_memory, tmp_path / "run") == expected


def test_a_log_in_this_processs_memory_is_not_for_workers(in_memory: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"memory://remote-log lies in this process's memory.*--workers 0"):
        train.run(train.Arguments(data=in_memory, out=tmp_path / "run", workers=2))
    assert not (tmp_path / "run").exists()


def test_results_are_written_to_directories(small_log: Path) -> None:
    with pytest.raises(ValueError, match=r"s3:/bucket/run: is a URI; results are written to a local or shared dir"):
        train.run(train.Arguments(data=str(small_log), out=Path("s3://bucket/run")))
    with pytest.raises(ValueError, match=r"s3:/bucket/log: is a URI"), new_log("s3://bucket/log", SCHEMA):
        pass


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("memory://nowhere", "^memory://nowhere: no such directory or bucket$"),
        ("file:///nowhere/at/all/", "^file:///nowhere/at/all: no such directory or bucket$"),
        ("s3://", "^s3://: names no bucket or directory$|no filesystem for this URI"),
        ("nosuch://x", r"^nosuch://x: no filesystem for this URI \(.*\)$"),
        ("s3://key:secret@bucket/log", "^s3://bucket/log: the URI holds a password or a secret key"),
        ("s3://bucket/log?region=here&colour=red", "^s3://bucket/log: no filesystem for this URI .*'colour'"),
    ],
)
def test_a_location_that_is_none_is_named_without_its_secrets(location: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        open_log(location)
    assert "\n" not in str(caught.value)
    assert "secret@" not in str(caught.value)


def test_what_a_client_raises_is_one_line(monkeypatch: pytest.MonkeyPatch, small_log: Path) -> None:
    class Broken(pafs.FSSpecHandler):
        def get_file_info(self, paths: list[str]) -> list[pafs.FileInfo]:
            raise OSError("AWS Error ACCESS_DENIED during HeadObject\nwith a second line")

    broken = pafs.PyFileSystem(Broken(fsspec.filesystem("file")))
    monkeypatch.setattr("data.log.resolve", lambda location: (broken, str(small_log)))
    with pytest.raises(ValueError, match=r"^s3://b/log: cannot be read \(AWS Error ACCESS_DENIED during HeadObject\)$"):
        open_log("s3://b/log?region=x")


def test_locations_are_taken_apart() -> None:
    assert shown("s3://user:secret@bucket/log?endpoint_override=host:1") == "s3://bucket/log"
    assert shown("abfs://container@account/log") == "abfs://container@account/log"
    assert shown("data/log?x") == "data/log?x"
    assert in_process("memory://x")
    assert not in_process("/memory/x")
    filesystem, root = resolve("s3://bucket/some/log/?region=eu-west-1&endpoint_override=host:1&scheme=http")
    assert (filesystem.type_name, filesystem.region, root) == ("s3", "eu-west-1", "bucket/some/log")


@pytest.fixture(scope="module")
def s3(small_log: Path) -> Iterator[str]:
    """The small log behind a local S3 server; the query that leads there, with {} for bucket and path."""
    server = pytest.importorskip("moto.server", reason="no moto, which serves S3 locally").ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    patch = pytest.MonkeyPatch()
    patch.setenv("AWS_ACCESS_KEY_ID", "key")
    patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    query = f"endpoint_override={host}:{port}&scheme=http&region=us-east-1"
    filesystem, _ = pafs.FileSystem.from_uri(f"s3://logs/x?{query}&allow_bucket_creation=true")
    filesystem.create_dir("logs")
    pafs.copy_files(str(small_log), "logs/small", pafs.LocalFileSystem(), filesystem)
    yield f"s3://{{}}?{query}"
    patch.undo()
    server.stop()


def test_training_reads_an_s3_bucket(s3: str, expected: dict[str, float], tmp_path: Path) -> None:
    assert summary(s3.format("logs/small"), tmp_path / "run") == expected


def test_an_absent_bucket_or_path_is_named(s3: str) -> None:
    for place in ("logs/other", "nobucket", "nobucket/log"):
        with pytest.raises(ValueError, match=rf"^s3://{place}: no such directory or bucket$"):
            open_log(s3.format(place))
    with pytest.raises(ValueError, match=r"^s3://logs/schema\.json: no such file"):
        open_log(s3.format("logs"))
    unreachable = "s3://logs/small?endpoint_override=127.0.0.1:9&scheme=http&region=us-east-1"
    with pytest.raises(ValueError, match=r"^s3://logs/small: cannot be read \(.*NETWORK_CONNECTION"):
        open_log(unreachable)
