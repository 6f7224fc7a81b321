"""Small networks over a flat vector, for one observation at a time: linear or tanh layers, virtual batch norm.

Initial weights as in openai/evolution-strategies-starter: normal, each output's fan-in scaled to length 1 (hidden) or
0.01 (last layer), biases 0. Bits do not depend on BLAS threads: products small enough that OpenBLAS keeps them on one
thread go through it, larger ones through einsum.

B reference observations, I inputs and O outputs of a layer.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

ONE_THREAD = 8192  # elements of a matrix up to which OpenBLAS multiplies it with a vector on one thread
LAST_LENGTH = 0.01
SMALLEST_DEVIATION = 1e-3

Act = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Network:
    """Layer widths from observation to output; with `normalised`, hidden layers have virtual batch norm.

    Parameters, layer after layer: weights (O, I), then the bias (O,), or, where normalised, gain (O,) and shift (O,),
    the gain as an offset from 1 so that theta = 0 is neutral.
    """

    widths: tuple[int, ...]
    normalised: bool = False

    @property
    def dimension(self) -> int:
        return sum(sum(sizes) for sizes in self._sizes())

    def _sizes(self) -> list[tuple[int, ...]]:
        """Sizes of each layer's parameters: weights, [gain,] bias or shift."""
        last = len(self.widths) - 2
        return [
            (outputs * inputs, *([outputs] if self.normalised and layer < last else []), outputs)
            for layer, (inputs, outputs) in enumerate(zip(self.widths[:-1], self.widths[1:], strict=True))
        ]

    def _layers(self, theta_D: np.ndarray) -> list[tuple[np.ndarray, np.ndarray | None, np.ndarray]]:
        """(weights (O, I), gain or None, bias or shift) of each layer: views of theta."""
        layers, start = [], 0
        for inputs, sizes in zip(self.widths[:-1], self._sizes(), strict=True):
            parts = []
            for size in sizes:
                parts.append(theta_D[start : start + size])
                start += size
            layers.append((parts[0].reshape(-1, inputs), parts[1] if len(parts) == 3 else None, parts[-1]))
        return layers

    def initial(self, seed: int) -> np.ndarray:
        """theta before training, (D,) float32."""
        generator = np.random.default_rng([seed, *self.widths])
        theta_D = np.zeros(self.dimension, np.float32)
        layers = self._layers(theta_D)
        for index, (weights_OI, _, _) in enumerate(layers):
            drawn_OI = generator.standard_normal(weights_OI.shape)
            length = LAST_LENGTH if index == len(layers) - 1 else 1.0
            weights_OI[:] = drawn_OI * length / np.sqrt(np.square(drawn_OI).sum(axis=1, keepdims=True))
        return theta_D

    def bind(self, theta_D: np.ndarray, reference_BI: np.ndarray | None = None) -> Act:
        """The network of one theta as a function of an observation (I,) float32; its result is reused by the next call.

        With virtual batch norm the reference batch passes through first; a unit's mean and deviation over it are then
        folded into the unit's weights, so that a step costs no more than without.
        """
        assert (reference_BI is not None) == self.normalised
        layers = []
        hidden_BI = reference_BI
        for weights_OI, gain_O, bias_O in self._layers(theta_D):
            weights_OI, bias_O = np.array(weights_OI, np.float32), np.array(bias_O, np.float32)
            if gain_O is not None:
                assert hidden_BI is not None
                sums_BO = np.einsum("bi,oi->bo", hidden_BI, weights_OI, dtype=np.float64)
                mean_O = sums_BO.mean(axis=0)
                scale_O = (1 + gain_O) / np.maximum(sums_BO.std(axis=0), SMALLEST_DEVIATION)
                hidden_BI = np.tanh((sums_BO - mean_O) * scale_O + bias_O)
                weights_OI = (weights_OI * scale_O[:, None]).astype(np.float32)
                bias_O = (bias_O - mean_O * scale_O).astype(np.float32)
            layers.append((weights_OI, bias_O, np.empty(len(bias_O), np.float32)))
        return _forward(layers)


def _forward(layers: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Act:
    products = [_small if weights_OI.size <= ONE_THREAD else _large for weights_OI, _, _ in layers]
    last = len(layers) - 1

    def act(x_I: np.ndarray) -> np.ndarray:
        for index, (weights_OI, bias_O, out_O) in enumerate(layers):
            products[index](weights_OI, x_I, out_O)
            np.add(out_O, bias_O, out=out_O)
            if index < last:
                np.tanh(out_O, out=out_O)
            x_I = out_O
        return x_I

    return act


def _small(weights_OI: np.ndarray, x_I: np.ndarray, out_O: np.ndarray) -> None:
    np.dot(weights_OI, x_I, out=out_O)


def _large(weights_OI: np.ndarray, x_I: np.ndarray, out_O: np.ndarray) -> None:
    np.einsum("oi,i->o", weights_OI, x_I, out=out_O)
