"""A fitted forest of shares from the run directory that jobs.fit wrote: arrays and JSON, no code."""

import json
from pathlib import Path

from safetensors.numpy import load_file

from data.errors import UserError
from funnel.exposure.fitted import ExposureForest
from funnel.settings import read


def read_fitted(run: Path) -> ExposureForest:
    """Raises UserError for a directory that holds no fitted shares."""
    facts_file, arrays_file = run / "model" / "model.json", run / "model" / "arrays.safetensors"
    try:
        record = json.loads(facts_file.read_text())
        arrays = load_file(arrays_file)
    except OSError as error:
        raise UserError(f"{run}: holds no fitted model ({error.strerror}: {error.filename})") from None
    except Exception as error:  # safetensors has errors of its own
        raise UserError(f"{run}/model: not readable ({str(error).splitlines()[0]})") from None
    if record.get("system") != ExposureForest.name:
        raise UserError(f"{run}: a model of {record.get('system')!r}, not of {ExposureForest.name}")
    settings = read(ExposureForest.settings_type, record["settings"], str(facts_file))
    return ExposureForest.restore(settings, arrays, record["facts"])
