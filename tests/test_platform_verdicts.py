"""What an experiment says and goes on with: Holm's p, the headline, pair files and weights that were changed."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import t as student

from data.errors import UserError
from funnel.platform.experiment import PRIMARY, PlatformSimulator, chance_of, changed, holm, message, told
from funnel.platform.figures import DAILY, METRICS
from funnel.platform.settings import PlatformSettings
from funnel.simulator import Compared
from jobs import experiment
from jobs.experiment.conduct import checked
from jobs.experiment.files import digests

SMALL = PlatformSettings(users=120, items=100, providers=20, uploads=8.0)
WORDS = ("--users", 120, "--items", 100, "--providers", 20, "--uploads", 8, "--days", 2, "--warmup", 1)
SLOT = {"slot": {"kind": "random", "rate": 0.5}}


def test_holms_p_by_hand() -> None:
    """Three tests: .01 * 3, then .02 * 2, then .9 as it is; never less than the one before."""
    assert holm({"b": 0.02, "a": 0.01, "c": 0.9}) == pytest.approx({"a": 0.03, "b": 0.04, "c": 0.9})
    assert holm({"a": 0.02, "b": 0.021}) == pytest.approx({"a": 0.04, "b": 0.04})


@pytest.mark.slow
def test_a_headline_of_nothing_names_something_in_one_test_of_twenty() -> None:
    """400 tests of 8 pairs in which the treatment does nothing: all 20 metrics together are named in a few."""
    rng = np.random.default_rng(4)
    named = {"primary": 0, "secondary": 0}
    for _ in range(400):
        effect_MP = rng.normal(0, 1, (len(METRICS), 8))
        summary: dict[str, Any] = {}
        for metric, effect_P in zip(METRICS, effect_MP, strict=True):
            half = student.ppf(0.975, 7) * effect_P.std(ddof=1) / np.sqrt(8)
            ends = {"": effect_P.mean(), ".low": effect_P.mean() - half, ".high": effect_P.mean() + half}
            summary |= {f"{metric}.control": 1.0, f"{metric}.effect.p": chance_of(effect_P)}
            summary |= {f"{metric}.effect{end}": value for end, value in ends.items()}
        named["primary"] += bool(told(summary, PRIMARY))
        named["secondary"] += bool(told(summary, [metric for metric in METRICS if metric not in PRIMARY]))
    assert named["primary"] / 400 < 0.08
    assert named["secondary"] / 400 < 0.08


def test_the_headline_tells_primary_metrics_from_the_others() -> None:
    summary: dict[str, Any] = {"treatment": "slot", "control": "plain", "pairs": 8}
    for metric, effect, p in (("duic_at_5", 0.04, 0.001), ("dwell", 0.01, 0.2), ("uploads", 0.02, 0.001)):
        ends = {"": effect, ".low": effect - 0.02, ".high": effect + 0.02, ".p": p}
        summary |= {f"{metric}.effect{end}": value for end, value in ends.items()}
    said = message(summary)
    assert said.startswith(
        "slot against plain (8 pairs): duic_at_5 +4.0%, dwell, discoverable_at_5_7d not told from 0."
    )
    assert "Secondary: nothing told from 0" in said  # +2% -+ 2% holds 0
    summary["uploads.effect.low"] = 0.005
    assert "Secondary: uploads +2.0%" in message(summary)


def test_a_test_of_re_ranking_is_judged_by_what_a_better_list_is_for() -> None:
    lists = {"reranking": {"kind": "shuffled"}}
    for control, treatment, stages in (
        ({}, lists, ["reranking"]),
        ({"reranking": {"kind": "shuffled", "temperature": 2.0}}, lists, ["reranking"]),
        (SLOT, {**SLOT, **lists}, ["reranking"]),
        (SLOT, lists, ["slot", "reranking"]),
        (lists, lists, []),
    ):
        assert changed(Compared(control, treatment)) == stages
    summary: dict[str, Any] = {"treatment": "mine", "control": "single", "pairs": 8, "changed": "reranking"}
    for metric, p in (("effective_views", 0.001), ("dwell", 0.001), ("likes", 0.2)):
        ends = {"": 0.04, ".low": 0.02, ".high": 0.06, ".p": p}
        summary |= {f"{metric}.effect{end}": value for end, value in ends.items()}
    said = message(summary)
    assert said.startswith(
        "mine against single, which differ in reranking (8 pairs): effective_views +4.0%, likes, visit_length not told"
    )
    assert "Secondary: dwell +4.0%" in said
    kinds = {str(row[0]): row[-1] for row in PlatformSimulator.results({**summary, "days": 3, "design": "user"}).rows}
    assert [name for name, kind in kinds.items() if kind == "primary"] == ["effective_views", "likes", "visit_length"]
    assert list(kinds)[:3] == ["effective_views", "likes", "visit_length"]


def run(out: Path, *words: object) -> dict[str, Any]:
    return experiment.run(experiment.arguments_of("--out", out, *WORDS, *words))


@pytest.mark.parametrize(
    "change",
    [
        lambda pair: pair.pop("control"),
        lambda pair: pair.update(control=pair["control"][:-1]),
        lambda pair: pair["treatment"][0].__setitem__(0, "many"),
        lambda pair: pair["treatment"][0].__setitem__(3, -1.0),
        lambda pair: pair["names"].reverse(),
    ],
)
def test_a_pair_that_was_changed_by_hand_is_one_line(tmp_path: Path, change: Any) -> None:
    out = tmp_path / "run"
    (out / "pairs").mkdir(parents=True)
    simulator = PlatformSimulator.open(SMALL, Compared({}, SLOT, design="user_corpus", days=2, warmup=1))
    table = np.ones((2, len(DAILY))).tolist()
    pair: dict[str, Any] = {"names": list(DAILY), "control": table, "treatment": [list(day) for day in table]}
    path = tmp_path / "00000.json"
    path.write_text(json.dumps(pair))
    assert checked(simulator, path) == pair
    change(pair)
    path.write_text(json.dumps(pair))
    with pytest.raises(UserError, match=r"00000\.json: not what the run's command writes there") as caught:
        checked(simulator, path)
    assert "\n" not in str(caught.value)


def test_weights_that_changed_are_another_experiment(tmp_path: Path) -> None:
    """A policy that names a file: the digest of its bytes is kept, and a folder's is that of all its files."""
    weights, folder = tmp_path / "w.npz", tmp_path / "model"
    weights.write_bytes(b"one")
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "a").write_bytes(b"a")
    tree = {"treatment": {"slot": {"kind": "mine:Net", "weights": str(weights), "model": str(folder), "rate": 0.1}}}
    before = digests(tree)["files"]
    assert before.keys() == {"treatment.slot.weights", "treatment.slot.model"}
    assert before["treatment.slot.weights"] == hashlib.sha256(b"one").hexdigest()
    (folder / "inner" / "a").write_bytes(b"b")
    after = digests(tree)["files"]
    assert after["treatment.slot.weights"] == before["treatment.slot.weights"]
    assert after["treatment.slot.model"] != before["treatment.slot.model"]
    assert digests({"control": {}, "treatment": SLOT}) == {}


def test_an_experiment_does_not_go_on_with_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, policy = tmp_path / "w.txt", tmp_path / "mine.json"
    weights.write_text("0.2")
    (tmp_path / "weighed.py").write_text(
        "from dataclasses import dataclass\n"
        "from funnel.platform.slot import RandomSlot, RandomSlotSettings\n\n\n"
        "@dataclass(frozen=True)\nclass Settings(RandomSlotSettings):\n    weights: str = ''\n\n\n"
        "class Weighed(RandomSlot):\n    settings_type = Settings\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    policy.write_text(json.dumps({"slot": {"kind": "weighed:Weighed", "weights": str(weights)}}))
    words = ("--treatment", policy, "--trust", "weighed:Weighed")
    out = tmp_path / "run"
    run(out, *words, "--pairs", 1)
    run(out, *words, "--pairs", 2)
    weights.write_text("0.3")
    with pytest.raises(UserError, match=r"files\.treatment\.slot\.weights was"):
        run(out, *words, "--pairs", 3)
