"""A checkpoint: one safetensors file that holds everything that decides the next step, written whole or not at all.

Tensors: theta, generation and the optimizer's state. Header: format, version, what the run is (the settings that
decide theta, objective, noise), counters, and a digest of all that. No pickle.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from data.errors import UserError
from data.files import write_whole

FORMAT, VERSION = "counterpoint.es", 2
RETIRED = ("rank", "matrices")  # settings of perturb low_rank, which was taken out: they decided nothing without it


@dataclass(frozen=True)
class Checkpoint:
    tensors: dict[str, np.ndarray]
    counters: dict[str, Any]


def save_checkpoint(path: Path, identity: dict[str, Any], checkpoint: Checkpoint) -> None:
    """Write all of it or nothing (data/files.py). `identity`: JSON facts that say which run it is."""
    tensors = {name: np.ascontiguousarray(value) for name, value in checkpoint.tensors.items()}
    header = {
        "format": FORMAT,
        "version": VERSION,
        "identity": identity,
        "counters": checkpoint.counters,
    }
    header["digest"] = digest(tensors, header)
    write_whole(path, save(tensors, {"counterpoint": json.dumps(header)}))


def load_checkpoint(path: Path, identity: dict[str, Any], like: dict[str, np.ndarray]) -> Checkpoint:
    """Read and check a checkpoint; UserError, one line, if it is broken, foreign, newer, or another run's.

    `like` gives the names, shapes and types the tensors must have; one of 0 rows there may have any number here.
    """
    header, tensors = read_checkpoint(path)
    _check_identity(path, header.get("identity"), identity)
    for name in sorted(like.keys() | tensors.keys()):
        found, wanted = tensors.get(name), like.get(name)
        if found is None or wanted is None or found.dtype != wanted.dtype or not _fits(found.shape, wanted.shape):
            raise UserError(f"{path}: tensor {name!r} is {_kind(found)}, this run needs {_kind(wanted)}")
    return Checkpoint(tensors, header["counters"])


def read_checkpoint(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and tensors of a checkpoint of any run; UserError, one line, if it is broken, foreign or newer."""
    try:
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get("counterpoint")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError, TypeError) as error:  # numpy has no name for some of its types
        raise UserError(f"{path}: not a whole checkpoint ({error})") from error
    try:
        header = json.loads(text or "null")
        known = isinstance(header, dict) and header["format"] == FORMAT and isinstance(header["version"], int)
    except (ValueError, KeyError, RecursionError):
        known = False
    if not known:
        raise UserError(f"{path}: a safetensors file, but not a checkpoint of an evolution-strategies run")
    if header["version"] > VERSION:
        raise UserError(f"{path}: written by a newer version (format {header['version']}, this one reads {VERSION})")
    if header.get("digest") != digest(tensors, header if header["version"] > 1 else {}):
        raise UserError(f"{path}: its content is not what was saved (digest differs)")
    if not isinstance(header.get("identity"), dict) or not isinstance(header.get("counters"), dict):
        raise UserError(f"{path}: its header lacks 'identity' or 'counters'")
    settings = header["identity"].get("settings")
    for name in RETIRED if isinstance(settings, dict) else ():
        settings.pop(name, None)  # else a run of an earlier version could not go on
    return header, tensors


def _fits(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return found == wanted or (wanted[:1] == (0,) and found[1:] == wanted[1:])


def _check_identity(path: Path, found: Any, wanted: dict[str, Any]) -> None:
    wanted = json.loads(json.dumps(wanted))
    found = found if isinstance(found, dict) else {}
    for part in wanted:
        before, now = found.get(part), wanted[part]
        if before == now:
            continue
        if isinstance(before, dict) and isinstance(now, dict):
            key = min(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
            raise UserError(f"{path}: of another run: {part}.{key} was {before.get(key)!r}, now {now.get(key)!r}")
        raise UserError(f"{path}: of another run: {part} was {before!r}, now {now!r}")


def _kind(tensor: np.ndarray | None) -> str:
    return "absent" if tensor is None else f"{tensor.dtype}{list(tensor.shape)}"


def digest(tensors: dict[str, np.ndarray], header: dict[str, Any]) -> str:
    """sha256 over the header (format 1 left it out) and over names and bytes, 32 hex digits."""
    content = {key: value for key, value in header.items() if key != "digest"}
    state = hashlib.sha256(json.dumps(content, sort_keys=True).encode() if content else b"")
    for name in sorted(tensors):
        state.update(name.encode())
        state.update(np.ascontiguousarray(tensors[name]).data)
    return state.hexdigest()[:32]
