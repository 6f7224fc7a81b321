"""A trained list scorer in one file without pickles: what the platform's re-ranking stage loads, and a phone could.

list_scorer.npz     the tensors by name, and "about": JSON with settings, schema, facts and calibration
"""

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.errors import UserError
from data.files import write_whole
from data.schema import Schema
from funnel.rerank.counts import Maps
from funnel.rerank.features import RerankSettings
from funnel.rerank.problem import Rerank
from funnel.settings import plain, read
from models.list_scorer import HEADS, ListScorer

FORMAT, VERSION = "counterpoint.list_scorer", 2
WITHOUT_KERNELS = 1
"""Version of the files of networks that had no kernels yet."""
ABOUT = "about"
FACTS = ("session", "order", "numeric_mean", "numeric_std", "rates", "leave")


@dataclass(frozen=True)
class Weights:
    """A list scorer, ready to use."""

    problem: Rerank
    scorer: ListScorer
    maps: Maps
    """Calibration by head; (1, 0): none."""


def save(path: Path, problem: Rerank, scorer: ListScorer, maps: Maps | None) -> None:
    """Write the file whole or not at all."""
    about = {
        "format": FORMAT,
        "version": VERSION,
        "settings": plain(problem.settings),
        "schema": problem.schema.to_dict(),
        "facts": {name: problem.facts[name] for name in FACTS},
        "calibration": {head: list((maps or {}).get(head, (1.0, 0.0))) for head in HEADS},
    }
    tensors: dict[str, Any] = {name: tensor.detach().cpu().numpy() for name, tensor in scorer.state_dict().items()}
    tensors[ABOUT] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    memory = io.BytesIO()
    np.savez(memory, **tensors)
    write_whole(path, memory.getvalue())


def load(path: str | Path) -> Weights:
    """Raises UserError, naming the file, for one that is not there, broken, or of another program."""
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(file[ABOUT].tobytes())
            tensors = {name: torch.from_numpy(file[name]) for name in file.files if name != ABOUT}
        known = about["format"] == FORMAT and about["version"] in (WITHOUT_KERNELS, VERSION)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; jobs.export writes a list_scorer.npz") from None
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not the weights of a list scorer ({type(error).__name__})") from None
    if not known:
        raise UserError(f"{path}: not the weights of a list scorer, or of another version")
    if about["version"] == WITHOUT_KERNELS:
        about["settings"]["model"]["kernels"] = 0
    settings = read(RerankSettings, about["settings"], f"{path}: settings")
    problem = Rerank(settings, Schema.from_dict(about["schema"], f"{path}: schema"), about["facts"])
    scorer = problem.scorer()
    check_shapes(path, tensors, scorer.state_dict())
    scorer.load_state_dict(tensors)
    maps = {head: (float(pair[0]), float(pair[1])) for head, pair in about["calibration"].items()}
    return Weights(problem, scorer.eval().requires_grad_(False), maps)


def check_shapes(path: str | Path, found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    for name, tensor in wanted.items():
        if name not in found:
            raise UserError(f"{path}: holds no {name}: its tensors are not those of its settings")
        if found[name].shape != tensor.shape:
            has, wants = list(found[name].shape), list(tensor.shape)
            raise UserError(f"{path}: {name} has the shape {has}, where its settings and schema say {wants}")
        if not torch.isfinite(found[name]).all():
            raise UserError(f"{path}: {name} holds numbers that are not finite")
