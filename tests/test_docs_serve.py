"""The server of docs/serve.md, as it stands there, gives the scores that the export promises."""

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from support import arguments

from jobs import export, train

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.mark.parametrize("log", ["small_log", "listed_log"])
def test_the_server_of_the_page_scores_as_the_export_says(
    log: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = request.getfixturevalue(log)
    train.run(arguments(place, tmp_path / "run"))
    served = export.run(export.Arguments(run=tmp_path / "run", out=tmp_path / "served", formats=("onnx",)))
    text = (ROOT / "docs" / "serve.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (tmp_path / "server.py").write_text(code)
    port = free_port()
    server = subprocess.Popen([sys.executable, tmp_path / "server.py", served, str(port)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert time.monotonic() < deadline
            assert server.poll() is None
            time.sleep(0.1)
        examples = json.loads((served / "serving.json").read_text())["example"]
        body = json.dumps([example["values"] for example in examples]).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}", data=body, timeout=30) as answer:
            found = json.loads(answer.read())
    finally:
        server.kill()
        server.wait()
    assert {"pctr", "pcvr", "pctcvr"} <= found.keys()
    for name, scores in found.items():
        assert scores == pytest.approx([example["outputs"][name] for example in examples], abs=1e-5), name
