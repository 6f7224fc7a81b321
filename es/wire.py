"""What travels between driver and workers, in the form that Ray sends fastest.

Plain numbers and bytes cost Ray half of what small objects that hold arrays cost it, and that is most of a generation
whose objective is cheap. Large arrays go as arrays, through the node's object store.
"""

import numpy as np

from es.algorithms.base import Proposal
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


def unpack_reply(packed: Reply | Packed) -> Reply:
    if isinstance(packed, Reply):
        return packed
    returns, centre, seconds = packed
    returns_k2 = np.frombuffer(returns, np.float64).reshape(-1, 2)  # type: ignore[call-overload]
    return Reply(returns_k2, centre, seconds=seconds)  # type: ignore[arg-type]
