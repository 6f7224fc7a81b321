"""A trained pre-ranker in one file, for whatever runs it without the training's code: the platform's stage, a service.

    pre_ranker.npz    the network's tensors by name, and "about": JSON of settings, schema and facts

No pickles: reading one runs no code. Shapes: as the network's.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.errors import UserError
from data.files import naming
from data.filesystems import first_line
from data.schema import Schema
from funnel.prerank.network import PreRankNetwork
from funnel.prerank.problem import PreRank
from funnel.prerank.settings import PreRankSettings
from funnel.settings import plain, read
from models.rows import EVERY_ROW

WEIGHTS = "pre_ranker.npz"
ABOUT = "about"
FORMAT, VERSION = "counterpoint.pre_ranker", 1


def save_weights(problem: PreRank, network: PreRankNetwork, path: Path) -> None:
    """Raises OSError, naming the file, for a full disk."""
    about = {
        "format": FORMAT,
        "version": VERSION,
        "settings": plain(problem.settings),
        "schema": problem.schema.to_dict(),
        "facts": {key: problem.facts[key] for key in ("columns", "numeric_mean", "numeric_std")},
    }
    tensors: dict[str, Any] = {name: tensor.cpu().numpy() for name, tensor in network.state_dict().items()}
    with naming(path), path.open("wb") as file:
        np.savez(file, **tensors | {ABOUT: np.frombuffer(json.dumps(about).encode(), np.uint8)})


def load_weights(path: Path) -> tuple[PreRank, PreRankNetwork]:
    """The problem and its network, in evaluation mode. Raises UserError, naming the file, for one that is none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(bytes(file[ABOUT]))
            tensors = {name: torch.from_numpy(file[name]) for name in file.files if name != ABOUT}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; jobs.export --run RUN writes {WEIGHTS}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: no pre-ranker's weights ({first_line(error)})") from None
    if about.get("format") != FORMAT or about.get("version") != VERSION:
        raise UserError(f"{path}: format {about.get('format')!r} version {about.get('version')!r}; "
                        f"this reads {FORMAT!r} version {VERSION}")  # fmt: skip
    schema = Schema.from_dict(about["schema"], f"{path}: schema")
    problem = PreRank(read(PreRankSettings, about["settings"], f"{path}: settings"), schema, about["facts"], {})
    network = problem.network(EVERY_ROW, 0)
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    if {name: tensor.shape for name, tensor in tensors.items()} != expected:
        raise UserError(f"{path}: its tensors are not those of its settings")
    if wrong := [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]:
        raise UserError(f"{path}: {wrong[0]} is no finite number: the training diverged")
    network.load_state_dict(tensors)
    return problem, network.eval()
