"""What travels between driver and workers, in the form that Ray sends fastest.

Plain numbers and bytes cost Ray half of what small objects that hold arrays cost it, and that is most of a generation
whose objective is cheap. Large arrays go as arrays, through the node's object store.
"""

import sys
from typing import Any

import numpy as np
import ray
import ray.cloudpickle

from data.errors import UserError
from es.algorithms.base import Proposal
from es.contract import BY_VALUE, ObjectiveError, name_of
from es.worker import Reply

Packed = tuple[object, ...]


def pack_proposal(proposal: Proposal) -> Packed:
    """The part of a proposal that every task needs; explicit candidates are sent task by task."""
    sigma = proposal.sigma
    vector = (sigma.dtype.str, sigma.tobytes()) if isinstance(sigma, np.ndarray) else None
    number = 0.0 if isinstance(sigma, np.ndarray) else float(sigma)
    return (proposal.generation, proposal.theta_D.tobytes(), number, vector, proposal.mirrored)


def unpack_proposal(packed: Packed) -> Proposal:
    generation, theta, sigma, vector, mirrored = packed
    if vector is not None:
        sigma = np.frombuffer(vector[1], vector[0])  # type: ignore[index]
    return Proposal(generation, np.frombuffer(theta, np.float32), sigma, mirrored)  # type: ignore[arg-type, call-overload]


def pack_reply(reply: Reply) -> Reply | Packed:
    """A reply with an error or with statistics goes as it is."""
    if reply.error is not None or reply.statistics_k2S is not None:
        return reply
    return (reply.returns_k2.tobytes(), reply.centre, reply.seconds)


def unpack_reply(packed: Reply | Packed | UserError) -> Reply:
    """The reply; raises the fault of the objective that came in its place."""
    if isinstance(packed, UserError):
        raise packed
    if isinstance(packed, Reply):
        return packed
    returns, centre, seconds = packed
    returns_k2 = np.frombuffer(returns, np.float64).reshape(-1, 2)  # type: ignore[call-overload]
    return Reply(returns_k2, centre, seconds=seconds)  # type: ignore[arg-type]


def stored(objective: Any) -> Any:
    """The objective in Ray's store, as the reference to it. Raises ObjectiveError if it cannot be pickled."""
    for module in list(sys.modules.values()):
        if getattr(module, "__dict__", {}).get(BY_VALUE):
            ray.cloudpickle.register_pickle_by_value(module)
    try:
        return ray.put(objective)
    except Exception as error:  # of many kinds, with pages of Ray's search for the reason
        raise ObjectiveError(f"{name_of(objective)} cannot be sent to workers: {unpicklable(objective)}") from error


def unpicklable(objective: Any) -> str | None:
    """Why the objective cannot be pickled, and which of its attributes it is; None if it can."""
    why = refusal(objective)
    if why is None:
        return None
    culprits = [name for name, value in getattr(objective, "__dict__", {}).items() if refusal(value)]
    return f"its attribute {culprits[0]!r}: {refusal(objective.__dict__[culprits[0]])}" if culprits else why


def refusal(value: Any) -> str | None:
    try:
        ray.cloudpickle.dumps(value)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split()):.200}"
    return None


def fetched(reference: Any) -> Any:
    """In a worker: the objective. Raises ObjectiveError if it cannot be loaded there."""
    try:
        return ray.get(reference)
    except Exception as error:
        last = next((line for line in reversed(str(error).splitlines()) if line.strip()), "")
        raise ObjectiveError(f"a worker cannot load the objective: {type(error).__name__}: {last.strip()}") from error
