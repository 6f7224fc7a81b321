"""The GPU script on a machine without one, and its whole logic on the CPU."""

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import Arguments, collectives, generation, main, make_batches, parity, relative


def test_without_a_gpu_it_says_so_in_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(Arguments()) == 0
    said = capsys.readouterr().out
    assert said.startswith("no GPU here")
    assert said.count("\n") == 1


def test_collectives_of_one_give_back_what_was_sent() -> None:
    found = collectives(torch.device("cpu"))
    assert found["backend"] == "gloo"
    assert len(found["collectives"]) == 5
    assert all(found["collectives"].values())


@pytest.mark.slow
def test_a_generation_and_a_training_agree_with_themselves() -> None:
    cpu = torch.device("cpu")
    found = generation(4, cpu, generations=2)
    assert found["es.returns"] == 0
    assert found["es.generation_ms"] > 0
    arguments = Arguments("cpu", values=50, steps=1)
    assert parity(arguments, make_batches(50, 1), cpu)["parity.weights"] == 0
    assert relative(torch.tensor([1.0, -4.0]), torch.tensor([1.0, -3.0])) == 0.25


def test_what_is_not_right_ends_with_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    for name in ("training_rate", "embedding", "generation"):
        value = 1.0 if name == "training_rate" else {"es.returns": 0.0} if name == "generation" else {}
        monkeypatch.setattr(gpu, name, lambda *_, value=value: value)
    monkeypatch.setattr(gpu, "make_batches", lambda _: [])
    monkeypatch.setattr(gpu, "collectives", lambda _: {"collectives": {"objects": False}})
    monkeypatch.setattr(gpu, "parity", lambda *_: {"parity.loss": float("nan"), "parity.weights": 0.5})
    assert main(Arguments("cpu")) == 1
    wrong = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wrong")]
    assert len(wrong) == 3
