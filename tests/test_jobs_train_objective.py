"""An objective of the user's own, found by its file's name; Ray Train's workers do so in test_distributed_workers.py.

They import this very file from the root, where other test modules cannot be found: it imports none.
"""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jobs import train
from models.objectives.base import Labels, ObjectiveConfig
from models.objectives.escm2_dr import Escm2Dr
from models.registry import build_objective, find_objective

ROOT = Path(__file__).resolve().parent.parent
QUICK = (
    *("--workers", "0", "--epochs", "2", "--batch-size", "200", "--stream.lanes", "4"),
    *("--model.embedding-width", "4", "--model.backbone.expert-hidden", "16", "8"),
    *("--optimizer.learning-rate", "0.01", "--optimizer.embedding", "adam"),
    *("--optimizer.embedding-learning-rate", "0.01"),
)


class Normalised(Escm2Dr):
    """DR divided by a total of its own: what a worker alone could not know."""

    def totals(self, logits: dict[str, Tensor], labels: Labels) -> Tensor:
        certainty = logits["ctr"].detach().abs().sum(dtype=torch.float64)
        return torch.cat([labels.totals(), certainty.unsqueeze(0)])

    def __call__(self, logits: dict[str, Tensor], labels: Labels, totals: Tensor) -> dict[str, Tensor]:
        terms = super().__call__(logits, labels, totals)
        return {name: term * totals[0] / totals[2] for name, term in terms.items()}


def arguments(log: Path, out: Path, objective: str) -> train.Arguments:
    return train.arguments_of("--data", str(log), "--out", str(out), "--objective.name", objective, *QUICK)


@pytest.fixture
def written_by_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """my/focal.py in a directory of its own, as docs/objectives.md has it."""
    (tmp_path / "my").mkdir()
    code, *_ = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "objectives.md").read_text(), re.DOTALL)
    (tmp_path / "my" / "focal.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_the_documented_objective_trains(written_by_a_user: Path, small_log: Path) -> None:
    summary = train.run(arguments(small_log, written_by_a_user / "run", "my/focal.py:Focal"))
    assert summary["ctr.auc"] > 0.55
    lines = [json.loads(line) for line in (written_by_a_user / "run" / "metrics.jsonl").read_text().splitlines()]
    step = next(line for line in lines if line["event"] == "step")
    assert {"loss", "loss.ctr", "loss.ctcvr"} <= step.keys()
    assert find_objective("my.focal:Focal") is find_objective("my/focal.py:Focal")
    logit_B, click_B = torch.tensor([0.3, -1.2]), torch.tensor([1.0, 0.0])
    labels = Labels(click_B, torch.zeros(2))
    logits = {"ctr": logit_B, "cvr": torch.zeros(2)}
    right_B = torch.stack([logit_B[0].sigmoid(), 1 - logit_B[1].sigmoid()])
    ctr = build_objective(ObjectiveConfig(name="my.focal:Focal"), 0.5)(logits, labels, labels.totals())["ctr"]
    assert ctr.item() == pytest.approx((-((1 - right_B) ** 2) * right_B.log()).mean().item(), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("focl", "unknown objective 'focl'; valid: escm2_dr"),
        ("no/such.py:Thing", "objective 'no/such.py:Thing': No module named 'no'"),
        ("models/objectives/naive.py:Nave", "has no attribute 'Nave'"),
        ("models.objectives.base:Labels", "Labels is no subclass of models.objectives.base.Objective"),
        (":Thing", "objective ':Thing'"),
    ],
)
def test_a_wrong_name_is_named_before_anything_starts(name: str, message: str, small_log: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        train.run(arguments(small_log, tmp_path / "run", name))
    assert not (tmp_path / "run").exists()
