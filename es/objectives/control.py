"""Control tasks of Gymnasium: the return of an episode, played by a linear or tanh network.

    run(Control(env="CartPole-v1"), ESConfig(pairs=20, sigma=0.02, learning_rate=0.01, weight_decay=0.005))

As in Salimans et al. 2017 (arXiv 1703.03864): 64-64 tanh, actions optionally in bins, observations normalised by
running moments, virtual batch norm instead for networks of discrete actions, episodes cut at twice the mean length.
Moments and lengths come back with the returns, are added in pair order and apply from the next generation on
(`Observing` in es/objectives/base.py), so that no bit depends on who played which episode. Needs `gymnasium`.

P candidates, D parameters, O numbers of an observation.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from data.errors import UserError
from es.hashing import hash64
from es.objectives.networks import Network

BOUND = 5.0  # normalised observations are clipped to +-5 (openai/evolution-strategies-starter)
SMALLEST_VARIANCE = 1e-4
SMALLEST_CAP, NO_CAP = 20, 2**31
REFERENCE = 7  # keeps the random streams apart


@dataclass
class Control:
    """The mean undiscounted return of an episode."""

    batch_pairs = 1
    env: str = "CartPole-v1"
    """Id of a Gymnasium task with flat observations."""
    policy: Literal["mlp", "linear"] = "mlp"
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the mlp's tanh layers."""
    action_bins: int = 0
    """Cut each continuous action into so many values and take the best-scored one; 0: the outputs are the actions."""
    normalise: bool = True
    """Normalise observations by the moments of all those of earlier generations."""
    virtual_batch_norm: bool = False
    """Normalise hidden layers by their statistics over a fixed batch of observations taken with random actions."""
    reference_size: int = 128
    """Observations of that batch."""
    episodes: int = 1
    """Episodes of a training evaluation."""
    centre_episodes: int = 1
    """Episodes of an evaluation of the unperturbed policy."""
    max_steps: int | None = None
    """Cut episodes here (None: where the task itself ends)."""
    adaptive_cap: bool = False
    """Cut episodes at twice the mean length of the last generation's, at least 20 steps."""
    seed: int = 0
    """Of the initial weights and the reference batch."""

    def __post_init__(self) -> None:
        self._env: Any = None
        env = self._open()
        space, actions = env.observation_space, env.action_space
        if len(space.shape or ()) != 1:
            raise UserError(f"env {self.env!r}: its observations must be flat vectors, not {space}")
        self._observations = int(space.shape[0])
        self._bins_AK: np.ndarray | None = None
        if hasattr(actions, "n"):
            if self.action_bins:
                raise UserError(f"env {self.env!r} has discrete actions already: action_bins must be 0")
            self._discrete, outputs = True, int(actions.n)
        elif len(getattr(actions, "shape", ())) == 1:
            self._discrete, outputs = False, int(actions.shape[0])
            self._low_A, self._high_A = actions.low.astype(np.float32), actions.high.astype(np.float32)
            if self.action_bins:
                if self.action_bins < 2 or not np.isfinite([self._low_A, self._high_A]).all():
                    raise UserError(f"action_bins is {self.action_bins}: at least 2, for bounded actions only")
                self._bins_AK = np.linspace(self._low_A, self._high_A, self.action_bins, axis=1)
                outputs *= self.action_bins
        else:
            raise UserError(f"env {self.env!r}: its actions must be discrete or a vector, not {actions}")
        hidden = tuple(self.hidden) if self.policy == "mlp" else ()
        self.network = Network((self._observations, *hidden, outputs), self.virtual_batch_norm)
        self._reference_BO = self._collect_reference() if self.virtual_batch_norm else None
        self._state = {
            "moments": np.zeros((2, self._observations)),  # sums and sums of squares
            "count": np.zeros(1),
            "mean_length": np.zeros(1),
        }
        self._prepare()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_env": None}  # every process opens its own

    def _open(self) -> Any:
        if self._env is None:
            try:
                import gymnasium
            except ImportError as error:
                raise UserError("control tasks need Gymnasium: pip install 'gymnasium[mujoco]'") from error
            try:
                self._env = gymnasium.make(self.env, disable_env_checker=True)
            except (gymnasium.error.Error, ImportError) as error:
                raise UserError(f"env {self.env!r}: {' '.join(str(error).split())}") from error
        return self._env

    def _collect_reference(self) -> np.ndarray:
        """Observations of one stream of random actions, (B, O)."""
        env = self._open()
        observations: list[np.ndarray] = []
        env.action_space.seed(self.seed)
        seeds = (int(seed) for seed in hash64((self.seed, REFERENCE), np.arange(self.reference_size, dtype=np.uint64)))
        done = True
        while len(observations) < self.reference_size:
            if done:
                env.reset(seed=next(seeds))
            observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
            observations.append(np.array(observation, np.float32))
            done = terminated or truncated
        return np.stack(observations)

    def initial(self) -> np.ndarray:
        return self.network.initial(self.seed)

    def describe(self) -> dict[str, Any]:
        return {"objective": "control", **asdict(self), "hidden": list(self.hidden)}

    def evaluate_batch(self, theta_PD: np.ndarray, seeds_P: np.ndarray) -> np.ndarray:
        """Returns of the unperturbed policy: `centre_episodes` of them, never cut by the adaptive cap."""
        return self._evaluate(theta_PD, seeds_P, self.max_steps or NO_CAP, self.centre_episodes)[0]

    def evaluate_observed(self, theta_PD: np.ndarray, seeds_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Statistics of a candidate: steps, episodes, and the sums and sums of squares of its observations."""
        return self._evaluate(theta_PD, seeds_P, self.cap, self.episodes)

    def _evaluate(
        self, theta_PD: np.ndarray, seeds_P: np.ndarray, cap: int, episodes: int
    ) -> tuple[np.ndarray, np.ndarray]:
        returns_P = np.empty(len(theta_PD))
        statistics_PS = np.zeros((len(theta_PD), 2 + 2 * self._observations))
        for index, (theta_D, seed) in enumerate(zip(theta_PD, seeds_P.tolist(), strict=True)):
            act = self.actor(theta_D)
            seeds = hash64((seed,), np.arange(episodes, dtype=np.uint64)).tolist()
            returns_P[index] = np.mean([self._episode(act, each, cap, statistics_PS[index]) for each in seeds])
        return returns_P, statistics_PS

    def actor(self, theta_D: np.ndarray) -> Callable[[np.ndarray], Any]:
        """The policy of one theta under the present moments: an observation (O,) to an action of the task."""
        reference_BO = self._reference_BO
        if reference_BO is not None:
            reference_BO = self._normalised(reference_BO)
        network, bins_AK = self.network.bind(theta_D, reference_BO), self._bins_AK
        rows = np.arange(len(bins_AK)) if bins_AK is not None else np.empty(0, np.int64)

        def act(observation_O: np.ndarray) -> Any:
            output = network(self._normalised(observation_O))
            if self._discrete:
                return int(output.argmax())
            if bins_AK is not None:
                return bins_AK[rows, output.reshape(bins_AK.shape).argmax(axis=1)]
            return np.minimum(np.maximum(output, self._low_A), self._high_A)

        return act

    def _normalised(self, observation: np.ndarray) -> np.ndarray:
        if not self._scales:
            return observation.astype(np.float32)
        scaled = (observation - self._mean_O) * self._scale_O
        return np.minimum(np.maximum(scaled, -BOUND), BOUND).astype(np.float32)

    def _episode(self, act: Callable[[np.ndarray], Any], seed: int, cap: int, statistics_S: np.ndarray) -> float:
        env, total, step = self._open(), 0.0, 0
        seen_LO = np.empty((min(cap, 4096), self._observations))
        observation, _ = env.reset(seed=seed)
        done = False
        while not done:
            if self.normalise:
                if step and step % len(seen_LO) == 0:
                    _add_moments(statistics_S, seen_LO)
                seen_LO[step % len(seen_LO)] = observation
            observation, reward, terminated, truncated, _ = env.step(act(observation))
            total, step = total + float(reward), step + 1
            done = terminated or truncated or step >= cap
        if self.normalise:
            _add_moments(statistics_S, seen_LO[: (step - 1) % len(seen_LO) + 1])
        statistics_S[:2] += step, 1
        return total

    @property
    def cap(self) -> int:
        """Steps after which an episode is cut now; a very large number where only the task ends it."""
        cap = self.max_steps or NO_CAP
        mean = float(self._state["mean_length"][0])
        return min(cap, max(SMALLEST_CAP, round(2 * mean))) if self.adaptive_cap and mean else cap

    def observe(self, statistics_n2S: np.ndarray) -> dict[str, float]:
        """Add the rows in their order; figures: steps played, mean length and, where adapted, the next cap."""
        rows = np.ascontiguousarray(statistics_n2S.reshape(-1, statistics_n2S.shape[-1]))
        sums_S = np.add.reduce(rows, axis=0)
        steps, episodes = float(sums_S[0]), float(sums_S[1])
        state = self._state
        self._state = {
            "moments": state["moments"] + sums_S[2:].reshape(2, -1),
            "count": state["count"] + (steps if self.normalise else 0.0),
            "mean_length": np.asarray([steps / episodes]) if episodes else state["mean_length"],
        }
        self._prepare()
        figures = {"steps": steps, "episode_length": steps / max(episodes, 1.0)}
        return figures | ({"episode_cap": float(self.cap)} if self.adaptive_cap else {})

    def state(self) -> dict[str, np.ndarray]:
        return dict(self._state)

    def load(self, state: dict[str, np.ndarray]) -> None:
        self._state = dict(state)
        self._prepare()

    def _prepare(self) -> None:
        """What `_normalised` multiplies with, from the moments."""
        count = float(self._state["count"][0])
        self._scales = self.normalise and count > 0
        if self._scales:
            self._mean_O, square_O = self._state["moments"] / count
            self._scale_O = 1 / np.sqrt(np.maximum(square_O - self._mean_O**2, SMALLEST_VARIANCE))


def _add_moments(statistics_S: np.ndarray, seen_LO: np.ndarray) -> None:
    width = seen_LO.shape[1]
    statistics_S[2 : 2 + width] += np.add.reduce(seen_LO, axis=0)
    statistics_S[2 + width :] += np.add.reduce(seen_LO * seen_LO, axis=0)
