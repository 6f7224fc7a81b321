"""What travels between driver and workers, in the form that Ray sends fastest, and theta without sending it.

Plain numbers and bytes cost Ray half of what small objects with arrays cost it: a generation of a cheap objective is
mostly that. Large arrays go as arrays, through the node's object store.

Follower: the paper's Algorithm 2 (Salimans et al. 2017). A worker keeps the algorithm's state and is sent the returns
of the generations it has not seen, 16 bytes a pair; from them it makes the driver's steps, to the same bits.
"""

import zlib
from collections.abc import Sequence

import numpy as np

from es.algorithms.base import Algorithm, Proposal
from es.algorithms.registry import make_algorithm
from es.config import ESConfig
from es.noise import Noise
from es.worker import Reply

HASH_EVERY = 10  # generations between two comparisons of the followers' theta with the driver's

Packed = tuple[object, ...]


def pack_proposal(proposal: Proposal) -> Packed:
    """Of the part that every task needs (not: candidates)."""
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
    return (reply.returns_k2.tobytes(), reply.centre, reply.seconds, reply.theta_crc32)


def unpack_reply(packed: Reply | Packed) -> Reply:
    if isinstance(packed, Reply):
        return packed
    returns, centre, seconds, crc32 = packed
    returns_k2 = np.frombuffer(returns, np.float64).reshape(-1, 2)  # type: ignore[call-overload]
    return Reply(returns_k2, centre, seconds=seconds, theta_crc32=crc32)  # type: ignore[arg-type]


class Follower:
    """A worker's own copy of the algorithm."""

    def __init__(self, config: ESConfig, noise: Noise, state: dict[str, np.ndarray]) -> None:
        self.algorithm: Algorithm = make_algorithm(config, np.array(state["theta"]), noise)
        self.algorithm.load({name: np.array(value) for name, value in state.items()})
        self.pairs = config.pairs

    def advance(self, generation: int, missed: Sequence[bytes]) -> Proposal:
        """Take the steps of the generations missed; return the proposal of `generation`."""
        for returns in missed:
            self.algorithm.ask()
            self.algorithm.tell(np.frombuffer(returns, np.float64).reshape(self.pairs, 2))
        assert self.algorithm.generation == generation, (self.algorithm.generation, generation)
        return self.algorithm.ask()


def checksum(theta_D: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(theta_D).data)
