"""What is known of a Ray cluster that this process, or the one it descends from, has started for itself alone.

`mark` is called before ray.init; Ray's processes inherit the environment, so each of them can ask `is_own`.
"""

import json
import os
from collections.abc import Mapping

OWN = "COUNTERPOINT_OWN_CLUSTER"
RAY_TRAIN = "RAY_TRAIN_"


def mark() -> None:
    """Note that a cluster is about to be started, and with which of Ray Train's variables its processes will have."""
    os.environ.pop(OWN, None)
    os.environ[OWN] = json.dumps({name: value for name, value in os.environ.items() if name.startswith(RAY_TRAIN)})


def unmark() -> None:
    """Note that this process joins a cluster of somebody else."""
    os.environ.pop(OWN, None)


def is_own() -> bool:
    return OWN in os.environ


def changed_since(variables: Mapping[str, str]) -> dict[str, str]:
    """Those of these variables that the cluster's processes do not have, or with another value."""
    had = json.loads(os.environ[OWN])
    return {name: value for name, value in variables.items() if had.get(name) != value}
