"""Fitted shares from the run directory that jobs.fit wrote: arrays and JSON, no code."""

import json
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file

from data.errors import UserError
from funnel.exposure.fitted import ExposureForest
from funnel.exposure.joint import JointShares
from funnel.settings import read

SYSTEMS: dict[str, type[ExposureForest] | type[JointShares]] = {
    system.name: system for system in (ExposureForest, JointShares)
}


def read_fitted(run: Path) -> ExposureForest | JointShares:
    """Raises UserError for a directory that holds no fitted shares."""
    facts_file, arrays_file = run / "model" / "model.json", run / "model" / "arrays.safetensors"
    try:
        record = json.loads(facts_file.read_text())
        arrays = load_file(arrays_file)
    except OSError as error:
        raise UserError(f"{run}: holds no fitted model ({error.strerror}: {error.filename})") from None
    except Exception as error:  # safetensors has errors of its own
        raise UserError(f"{run}/model: not readable ({str(error).splitlines()[0]})") from None
    system = SYSTEMS.get(str(record.get("system")))
    if system is None:
        raise UserError(f"{run}: a model of {record.get('system')!r}, not of {' or '.join(SYSTEMS)}")
    settings: Any = read(system.settings_type, record["settings"], str(facts_file))
    return system.restore(settings, arrays, record["facts"])
