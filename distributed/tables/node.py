"""Workers on one machine: who they are, memory that all of them map, and a barrier between them.

Who shares a machine is found out by trying: each worker listens on a local socket whose name is drawn at random, and
who reaches it runs on the same kernel. Addresses and host names would only suggest it: two pods on one machine may
differ in both, two machines may agree in both. Workers of which $COUNTERPOINT_NODE differs are kept apart.

Shared memory is a file without a name, whose descriptor goes from the first worker of a machine to the others: from the
first moment on nothing is left of it when the last of them has ended, in whatever way. Nor is it bound by the size of
/dev/shm, which is 64 MB in a container. Pages that nobody has written take no memory.

The sockets stay open. A barrier is one byte to each of the others: who waits for it sleeps, and gets an error if one of
them dies, which closes its sockets, or if one of them takes longer than a collective may.
"""

import contextlib
import math
import mmap
import os
import secrets
import socket
import struct
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from distributed.tables.collectives import Group, communicating, world_size

NODE = "COUNTERPOINT_NODE"
LINUX = sys.platform == "linux"


class Neighbours:
    """The workers of this worker's machine. All workers of the process group make one at the same time.

    ranks: of the workers on this machine; place: this one's among them; nodes: the ranks of every machine, in the
    order of their first ones. group: over which connections the thread talks that is to use it (collectives.Group).
    """

    def __init__(self, group: Group = None) -> None:
        self.peers: dict[int, socket.socket] = {}
        self.group = group
        self.rank, self.timeout = dist.get_rank(), timeout_s()
        with listening() as (listener, name):
            token = secrets.token_bytes(16)
            everyone = gathered((os.environ.get(NODE, ""), name, token))
            for rank in range(self.rank):
                peer = reach(everyone[rank][1]) if everyone[rank][0] == everyone[self.rank][0] else None
                if peer is not None:
                    peer.sendall(everyone[rank][2] + struct.pack("!I", self.rank))
                    self.peers[rank] = peer
            reached = gathered(sorted(self.peers))
            first = [min([rank, *lower]) for rank, lower in enumerate(reached)]
            self.nodes = [[r for r, of in enumerate(first) if of == leader] for leader in sorted(set(first))]
            self.node_of = [
                next(n for n, ranks in enumerate(self.nodes) if rank in ranks) for rank in range(len(first))
            ]
            self.ranks = self.nodes[self.node_of[self.rank]]
            self.place = self.ranks.index(self.rank)
            if any(list(lower) != [r for r in self.nodes[self.node_of[rank]] if r < rank]
                   for rank, lower in enumerate(reached)):  # fmt: skip
                raise RuntimeError(f"workers of one machine do not all reach each other: {reached}")
            listener.settimeout(self.timeout)
            while len(self.peers) < len(self.ranks) - 1:
                peer, _ = listener.accept()
                self._admit(peer, token)
        for peer in self.peers.values():
            peer.settimeout(self.timeout)
        self.begun = 0
        self.heard = dict.fromkeys(self.peers, 0)

    def _admit(self, peer: socket.socket, token: bytes) -> None:
        """Take in a worker that has connected; anything else that found the socket does not know the token."""
        peer.settimeout(self.timeout)
        said = b""
        while len(said) < len(token) + 4 and (more := peer.recv(len(token) + 4 - len(said))):
            said += more
        if own_user(peer) and secrets.compare_digest(said[:-4], token):
            self.peers[struct.unpack("!I", said[-4:])[0]] = peer
        else:
            peer.close()

    def tensor(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Zeros in memory that the workers of this machine share. All of them ask for the same at the same time."""
        self.wait()  # or a byte of the last barrier would be taken for one of these
        count = math.prod(shape)
        length = max(count * dtype.itemsize, 1)
        leader = self.ranks[0]
        if self.rank == leader:
            descriptor = nameless_file(length)
            for rank, peer in self.peers.items():
                with self._expecting(rank):
                    socket.send_fds(peer, [b"f"], [descriptor])
        else:
            with self._expecting(leader):
                _, descriptors, _, _ = socket.recv_fds(self.peers[leader], 1, 1)
                if not descriptors:
                    raise EOFError
                (descriptor,) = descriptors
        try:
            mapped = mmap.mmap(descriptor, length)
        finally:
            os.close(descriptor)
        return torch.frombuffer(mapped, dtype=dtype, count=count).view(*shape) if count else torch.empty(*shape)

    def arrive(self) -> None:
        """This worker has come to the next barrier, and goes on; `wait` is for the others."""
        self.begun += 1
        with communicating(self.group):
            for rank, peer in self.peers.items():
                with self._expecting(rank):
                    peer.sendall(b".")

    def wait(self) -> None:
        """Until all have come to the last barrier that this worker has come to. What each wrote before is seen then.

        Raises RuntimeError if one has ended, or does not come in time.
        """
        with communicating(self.group):
            for rank, peer in self.peers.items():
                while self.heard[rank] < self.begun:
                    with self._expecting(rank):
                        found = peer.recv(self.begun - self.heard[rank])
                        if not found:
                            raise EOFError
                        self.heard[rank] += len(found)

    @contextlib.contextmanager
    def _expecting(self, rank: int) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise RuntimeError(f"timed out: worker {rank} was waited for {self.timeout:g} s") from None
        except (EOFError, OSError) as error:
            raise RuntimeError(
                f"worker {rank}, on the same machine, has ended ({error or 'its socket closed'})"
            ) from None

    def __del__(self) -> None:
        for peer in self.peers.values():
            peer.close()


def gathered(value: Any) -> list[Any]:
    """Every worker's small object, in the order of ranks."""
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found


def timeout_s() -> float:
    """How long a worker waits for another: what collectives of the process group wait, so that one setting decides."""
    group: Any = dist.group.WORLD
    return float(group._get_backend(torch.device("cpu")).options._timeout.total_seconds())


# ---- sockets and files of one machine


@contextlib.contextmanager
def listening() -> Iterator[tuple[socket.socket, str]]:
    """A socket that other workers of this machine reach by its name, and the name."""
    with socket.socket(socket.AF_UNIX) as listener:
        name = f"counterpoint-{secrets.token_hex(16)}"
        # Linux has names that are no files, and go with the socket.
        name = f"\0{name}" if LINUX else str(Path(tempfile.gettempdir()) / name)
        listener.bind(name)
        listener.listen(world_size())
        try:
            yield listener, name
        finally:
            if not LINUX:
                Path(name).unlink(missing_ok=True)


def reach(name: str) -> socket.socket | None:
    peer = socket.socket(socket.AF_UNIX)
    try:
        peer.connect(name)
        if own_user(peer):
            return peer
    except OSError:
        pass
    peer.close()
    return None


def own_user(peer: socket.socket) -> bool:
    """Whether a process of the same user is at the other end, where the system says it."""
    if not LINUX:
        return True
    _, user, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return bool(user == os.getuid())


def nameless_file(length: int) -> int:
    """A descriptor of so many zeros that take room only where they are written."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("counterpoint")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, length)
    return descriptor
