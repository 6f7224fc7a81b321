"""Parts of one problem on the nodes, each an actor that keeps its arrays: only what methods return travels."""

from collections.abc import Sequence
from typing import Any

import ray


class RayShards:
    """Any objects as actors; `call` asks all of them at once and gives their answers in order.

    An actor that dies is not replaced: the call raises ray.exceptions.RayActorError, and whoever dealt out the parts
    begins anew (a part's state is what calls before have made of it).
    """

    def __init__(self, parts: Sequence[Any], cpus: float = 1.0) -> None:
        actor = ray.remote(num_cpus=cpus)(Held)
        self.actors = [actor.remote(part) for part in parts]

    def call(self, method: str, *arguments: Any) -> list[Any]:
        """The named method of every part, in order."""
        return ray.get([actor.call.remote(method, *arguments) for actor in self.actors])

    def close(self) -> None:
        """Give the actors' CPUs and memory back."""
        for actor in self.actors:
            ray.kill(actor)
        self.actors = []


class Held:
    """What an actor holds."""

    def __init__(self, part: Any) -> None:
        self.part = part

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self.part, method)(*arguments)
