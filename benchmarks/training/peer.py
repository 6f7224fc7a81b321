"""A training step of two public libraries, as released; benchmarks/training/peers.py runs it in their environment.

    python3.11 -m venv /tmp/peers
    /tmp/peers/bin/pip install torch==2.13.0 torch-rechub==0.9.0 deepctr-torch==0.3.0 requests

One case as JSON in the first argument, one line of JSON out. Their own models (MMoE), trainers and default optimizers
(Adam over whole tables). `fit` is what a user calls, their data loader included; `step` feeds torch-rechub's training
loop with batches made before, so that its loader costs nothing.
"""

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def synthetic(rows: int, fields: int, values: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """ids (rows, fields), low ones oftener, and labels (rows, 2): clicks of 10%, conversions of 10% of them."""
    generator = np.random.default_rng(seed)
    ids = (generator.random((rows, fields)) ** 2 * values).astype(np.int64)
    click = generator.random(rows) < 0.1
    return ids, np.stack([click, click & (generator.random(rows) < 0.1)], 1).astype(np.float32)


def clocked(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds that it takes on the clock, and of all its threads on CPUs."""
    began, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - used


def rechub(case: dict[str, Any]) -> Any:
    from torch_rechub.basic.features import SparseFeature
    from torch_rechub.models.multi_task import MMOE
    from torch_rechub.trainers import MTLTrainer
    from torch_rechub.utils.data import DataGenerator

    names = [f"f{k:02}" for k in range(case["fields"])]
    features = [SparseFeature(name, vocab_size=case["values"], embed_dim=case["width"]) for name in names]
    tasks = ["classification", "classification"]
    towers = [{"dims": list(case["towers"])} for _ in tasks]
    model = MMOE(features, tasks, case["experts"], {"dims": list(case["hidden"])}, towers)
    trainer = MTLTrainer(model, tasks, optimizer_params={"lr": 1e-3}, n_epoch=1, model_path="/tmp")

    def run(rows: int, seed: int) -> tuple[float, float]:
        ids, labels = synthetic(rows, case["fields"], case["values"], seed)
        columns = {name: ids[:, k] for k, name in enumerate(names)}
        if case["mode"] == "fit":
            loader, _, _ = DataGenerator(columns, labels).generate_dataloader(
                columns, labels, columns, labels, batch_size=case["batch"]
            )
        else:
            parts = [slice(start, start + case["batch"]) for start in range(0, rows, case["batch"])]
            loader = [
                ({name: torch.from_numpy(values[part].copy()) for name, values in columns.items()},
                 torch.from_numpy(labels[part])) for part in parts
            ]  # fmt: skip
        return clocked(lambda: trainer.train_one_epoch(loader))

    return run


def deepctr(case: dict[str, Any]) -> Any:
    from deepctr_torch.inputs import SparseFeat
    from deepctr_torch.models.multitask.mmoe import MMOE

    names = [f"f{k:02}" for k in range(case["fields"])]
    model = MMOE(
        [SparseFeat(name, case["values"], embedding_dim=case["width"]) for name in names],
        num_experts=case["experts"], expert_dnn_hidden_units=tuple(case["hidden"]), gate_dnn_hidden_units=(),
        tower_dnn_hidden_units=tuple(case["towers"]), task_types=["binary", "binary"], task_names=["ctr", "cvr"],
    )  # fmt: skip
    model.compile("adam", loss=["binary_crossentropy", "binary_crossentropy"])

    def run(rows: int, seed: int) -> tuple[float, float]:
        ids, labels = synthetic(rows, case["fields"], case["values"], seed)
        columns = {name: ids[:, k] for k, name in enumerate(names)}
        return clocked(lambda: model.fit(columns, labels, batch_size=case["batch"], epochs=1, verbose=0))

    return run


def main() -> None:
    case = json.loads(sys.argv[1])
    torch.set_num_threads(case["threads"])
    torch.manual_seed(0)
    # They print as they go; the answer is the only line on the real output.
    answer = os.fdopen(os.dup(1), "w")
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
        run = {"torch-rechub": rechub, "DeepCTR-Torch": deepctr}[case["library"]](case)
        run(2 * case["batch"], 1)
        seconds, cpu = run(case["rows"], 2)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rates = {"rows_per_s": case["rows"] / seconds, "rows_per_cpu_s": case["rows"] / cpu}
    answer.write(json.dumps({**rates, "peak_mib": peak_mib}) + "\n")


if __name__ == "__main__":
    main()
