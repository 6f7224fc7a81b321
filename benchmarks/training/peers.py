"""Training rate beside two public libraries and beside the dense part alone, over the size of the vocabulary.

    python -m benchmarks.training.peers --peer /tmp/peers/bin/python      # see peer.py
    python -m benchmarks.training.peers --values 8700 --repeats 5         # ours and the limit only
    python -m benchmarks.training.peers --peer ... --cpu --threads 1      # beside other work: rows a CPU second

23 id fields, batches of 4096, width 16, MMoE of 4 experts 128-64, two towers, CPU, a process with two threads. Ours is
`python -m jobs.train` on Parquet files, reading, decoding and hashing included. The limit is the same backbone, towers,
loss and AdamW on an input that is there already: float32, once without and once with the gradient of the input, which
a model with embeddings needs and which costs a third of the arithmetic. Every figure is a process of its own; all
variants take turns in each repeat. With --cpu a rate is rows by the CPU time of all the process's threads, ours reader
included, from the sixth step on (with more than one thread, waiting for each other counts).
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import pyarrow as pa
import torch
import tyro

from benchmarks.bench import markdown, write_result
from benchmarks.settings import options, training
from benchmarks.training.peer import synthetic
from data.log import open_log
from data.schema import CategoricalField, Schema
from data.write import PartWriter, new_log
from distributed.training.loop import train
from distributed.training.memory import keep_freed_memory
from distributed.training.recorder import Recorder
from models.backbones.base import BackboneConfig
from models.layers import MLP
from models.registry import build_backbone

FIELDS, WIDTH, BATCH, EXPERTS, HIDDEN, TOWERS = 23, 16, 4096, 4, (128, 64), (32,)
OURS = {"ours, float32": "float32", "ours, bfloat16": "bfloat16"}
LIMITS = {"dense part alone": "no", "dense part alone, with input gradient": "yes"}
PEERS = {"torch-rechub, fit": ("torch-rechub", "fit"), "torch-rechub, step only": ("torch-rechub", "step"),
         "DeepCTR-Torch, fit": ("DeepCTR-Torch", "fit")}  # fmt: skip


@dataclass
class Arguments:
    peer: Path | None = None
    """Python of the peers' environment; without it only ours and the limit are timed."""
    values: tuple[int, ...] = (8_700, 87_000, 870_000)
    """Distinct values of each of the 23 fields: 200 thousand, 2 and 20 million in all."""
    rows: int = 409_600
    """Rows ours trains on; the peers get as many batches as take them some seconds."""
    repeats: int = 3
    threads: int = 2
    cpu: bool = False
    """Rates by CPU time, which a busy machine disturbs less."""
    log: str = ""
    """Used by this script when it calls itself: train on this log, in this precision."""
    precision: str = "float32"
    skip: tuple[str, ...] = ()
    """Variants to leave out, by their names in the table."""
    dense: Literal["", "no", "yes"] = ""
    """Used by this script when it calls itself: time the dense part, with or without gradient of the input."""


def main(arguments: Arguments) -> None:
    if arguments.log:
        print(json.dumps(trained(arguments.log, arguments.precision)))
        return
    if arguments.dense:
        print(json.dumps(dense(arguments.dense == "yes", arguments.threads)))
        return
    results: dict[int, dict[str, list[dict[str, float]]]] = {}
    skip = arguments.skip
    for values in arguments.values:
        found: dict[str, list[dict[str, float]]] = {}
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log"
            write_log(log, arguments.rows, values)
            for repeat in range(arguments.repeats):
                for name, precision in kept(OURS, skip).items():
                    out = Path(folder) / f"{precision}-{repeat}"
                    found.setdefault(name, []).append(ours(log, out, precision, arguments))
                for name, gradient in kept(LIMITS, skip).items():
                    command = [sys.executable, "-m", "benchmarks.training.peers", "--dense", gradient]
                    command += ["--threads", str(arguments.threads)]
                    found.setdefault(name, []).append(answer(command))
                for name, (library, mode) in kept(PEERS, skip).items() if arguments.peer else ():
                    case = {"library": library, "mode": mode, "fields": FIELDS, "values": values, "width": WIDTH,
                            "batch": BATCH, "experts": EXPERTS, "hidden": HIDDEN, "towers": TOWERS,
                            "threads": arguments.threads, "rows": BATCH * (20 if values < 500_000 else 3)}  # fmt: skip
                    script = str(Path(__file__).with_name("peer.py"))
                    found.setdefault(name, []).append(answer([str(arguments.peer), script, json.dumps(case)]))
                rate = "rows_per_cpu_s" if arguments.cpu else "rows_per_s"
                print(values, {name: round(runs[-1][rate]) for name, runs in found.items()}, flush=True)
        results[values] = found
    part = "".join(f"-{values}" for values in arguments.values) if arguments.values != Arguments.values else ""
    write_result(
        "train-peers" + part + ("-cpu" if arguments.cpu else ""), {"runs": results}, describe(results, arguments)
    )


def kept(variants: dict[str, Any], skip: tuple[str, ...]) -> dict[str, Any]:
    return {name: variant for name, variant in variants.items() if name not in skip}


def write_log(path: Path, rows: int, values: int) -> None:
    names = [f"f{k:02}" for k in range(FIELDS)]
    fields = tuple(CategoricalField(name, "hash", values) for name in names)
    labels = {"click": "click", "conversion": "conversion"}
    schema = Schema(name=f"{FIELDS} fields of {values:,}", categorical=fields, numeric=(), labels=labels)
    with new_log(path, schema) as directory:
        for seed, (part, number) in enumerate({"train": rows, "valid": 8192}.items()):
            ids, outcomes = synthetic(number, FIELDS, values, seed)
            columns = {name: pa.array(ids[:, k]) for k, name in enumerate(names)}
            columns |= {name: pa.array(outcomes[:, k].astype(np.int8)) for k, name in enumerate(labels)}
            with PartWriter(directory, part, schema) as writer:
                writer.write(pa.table(columns))


def ours(log: Path, out: Path, precision: str, arguments: Arguments) -> dict[str, float]:
    if arguments.cpu:
        command = [sys.executable, "-m", "benchmarks.training.peers", "--log", str(log)]
        return answer([*command, "--precision", precision], arguments.threads)
    command = [sys.executable, "-m", "jobs.train", "--data", str(log), "--out", str(out), "--workers", "0"]
    command += ["--epochs", "1", *options({"batch_size": BATCH, "precision": precision})]
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, f"{' '.join(command)} ended with {status}"
    summary = json.loads((out / "summary.json").read_text())
    return {"rows_per_s": summary["train.rows_per_s"], "peak_mib": usage.ru_maxrss / 1024}


def trained(log: str, precision: str) -> dict[str, float]:
    """Train an epoch in this process; rows by the CPU time from the sixth step on."""
    marks: list[tuple[int, float]] = []
    proper = Recorder.stepped

    def stepped(self: Recorder, terms: dict[str, Any], units: int) -> None:
        proper(self, terms, units)
        marks.append((units, time.process_time()))

    with tempfile.TemporaryDirectory() as out, mock.patch.object(Recorder, "stepped", stepped):
        train(training(Path(out), open_log(log), {"batch_size": BATCH, "epochs": 1, "precision": precision}))
    counted = marks[5:]
    return {"rows_per_cpu_s": sum(units for units, _ in counted) / (counted[-1][1] - marks[4][1])}


def answer(command: list[str], threads: int = 0) -> dict[str, float]:
    """The JSON that a process prints last."""
    environment = {**os.environ, "TQDM_DISABLE": "1"} | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    process = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return dict(json.loads(process.stdout.splitlines()[-1]))


def dense(input_gradient: bool, threads: int) -> dict[str, float]:
    """rows/s of backbone, towers, two cross-entropies and AdamW on a given float32 input; median of 30 steps."""
    torch.set_num_threads(threads)
    keep_freed_memory()  # as a training does
    torch.manual_seed(0)
    backbone = build_backbone(BackboneConfig(experts=EXPERTS, expert_hidden=HIDDEN), FIELDS * WIDTH, 2)
    towers = torch.nn.ModuleList([MLP(backbone.output_width, TOWERS, 1) for _ in range(2)])
    optimizer = torch.optim.AdamW([*backbone.parameters(), *towers.parameters()], lr=1e-3, fused=True)
    x_BI, labels_B2 = torch.randn(BATCH, FIELDS * WIDTH), torch.rand(BATCH, 2).round()
    seconds, used = [], []
    for _ in range(35):
        began, before = time.perf_counter(), time.process_time()
        x = x_BI.detach().requires_grad_(input_gradient)
        logits_B2 = torch.cat([tower(h_BH) for tower, h_BH in zip(towers, backbone(x), strict=True)], 1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits_B2, labels_B2)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - began)
        used.append(time.process_time() - before)
    return {"rows_per_s": BATCH / statistics.median(seconds[5:]), "rows_per_cpu_s": BATCH / statistics.median(used[5:])}


def describe(results: dict[int, dict[str, list[dict[str, float]]]], arguments: Arguments) -> str:
    """A table of medians; ratios are medians over the repeats, each within its repeat."""
    best, rate_of = list(kept(OURS, arguments.skip)), "rows_per_cpu_s" if arguments.cpu else "rows_per_s"
    rows: list[list[Any]] = []
    for values, found in results.items():
        for name, runs in found.items():
            rates = [run[rate_of] for run in runs]
            ratios = [
                statistics.median(own[rate_of] / rate for own, rate in zip(found[mine], rates, strict=True))
                for mine in best
            ]
            peaks = [run["peak_mib"] for run in runs if "peak_mib" in run]
            rows.append([
                f"{values * FIELDS / 1e6:.3g} M", name, f"{statistics.median(rates):,.0f}",
                f"{min(rates):,.0f} to {max(rates):,.0f}", *(f"{ratio:.2f}" for ratio in ratios),
                f"{statistics.median(peaks):,.0f}" if peaks else "",
            ])  # fmt: skip
    header = [
        "table rows",
        "training",
        "rows a CPU second (median)" if arguments.cpu else "rows/s (median)",
        "range",
        *(f"{name.removeprefix('ours, ')} to it" for name in best),
        "peak MiB",
    ]
    how = (
        f"{FIELDS} id fields, batch {BATCH}, width {WIDTH}, MMoE of {EXPERTS} experts 128-64, two towers of 32; "
        f"{arguments.threads} threads; {arguments.repeats} repeats. Peak memory is a process's resident set.\n\n"
    )
    return how + markdown(header, rows)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
