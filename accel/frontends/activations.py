"""Unary functions as models evaluate them between two quantisations, in float32, and the 256-entry tables they become."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["FUNCTIONS", "Function", "clamp", "dequantise", "quantise"]

FloatArray = npt.NDArray[np.float32]
Evaluate = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True, eq=False)
class Function:
    """A float32 function of one value: the layer's ``name``, the operator's ``kind``, and how to ``evaluate`` it on an array.

    ``bounds`` is set when all it does is clamp to that interval; ``monotone`` when it never decreases, so that it commutes
    with a maximum.
    """

    name: str
    kind: str
    evaluate: Evaluate
    bounds: tuple[float, float] | None = None
    monotone: bool = False


def clamp(name: str, kind: str, low: float, high: float) -> Function:
    """Return the function that limits values to ``low`` and ``high`` (ReLU is 0 and infinity)."""
    # The order makes an empty interval yield its upper end, as ONNX defines for Clip.
    return Function(name, kind, lambda x: np.minimum(np.maximum(x, np.float32(low)), np.float32(high)), (low, high), True)


def quantise(values: npt.ArrayLike, scale: np.float32, zero_point: int) -> npt.NDArray[np.int8]:
    """Return ``clip(round(values / scale) + zero_point)``: float32 division, ties to even (ONNX's QuantizeLinear). Any shape."""
    with np.errstate(over="ignore"):
        quotient = np.asarray(values, np.float32) / np.float32(scale)
    return np.asarray(np.clip(np.rint(quotient).astype(np.float64) + zero_point, -128, 127), np.int8)


def dequantise(values: npt.ArrayLike, scale: np.float32, zero_point: int) -> FloatArray:
    """Return ``(values - zero_point) * scale`` in float32 (ONNX's DequantizeLinear). Any shape."""
    return np.asarray((np.asarray(values, np.int64) - zero_point).astype(np.float32) * np.float32(scale), np.float32)


def _through_double(function: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]) -> Evaluate:
    """Evaluate in double precision and round once, which is the best that a float32 library function can do."""

    def evaluate(x: FloatArray) -> FloatArray:
        with np.errstate(over="ignore"):
            return np.asarray(function(np.asarray(x, np.float64)), np.float32)

    return evaluate


def _sigmoid(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-x)))


def _softplus(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(np.logaddexp(0, x))


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _hard_sigmoid(alpha: float, beta: float) -> Evaluate:
    return lambda x: np.clip(np.float32(alpha) * x + np.float32(beta), np.float32(0), np.float32(1))


def _softsign(x: FloatArray) -> FloatArray:
    return np.asarray(x / (np.float32(1) + np.abs(x)), np.float32)


def _hard_swish(x: FloatArray) -> FloatArray:
    return x * _hard_sigmoid(1 / 6, 0.5)(x)


def _gelu(approximate: str) -> Evaluate:
    if approximate == "tanh":
        return _through_double(lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
    return _through_double(lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))))


def _leaky(alpha: float) -> Evaluate:
    return lambda x: np.where(x >= 0, x, np.float32(alpha) * x)


#: Operator type -> (attributes with their defaults, from attribute values to the evaluation, whether it never decreases).
FUNCTIONS: dict[str, tuple[dict[str, float | str], Callable[..., Evaluate], bool]] = {
    "Abs": ({}, lambda: np.abs, False),
    "Celu": (
        {"alpha": 1.0},
        lambda alpha: _through_double(lambda x: np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(x / alpha))),
        True,
    ),
    "Elu": ({"alpha": 1.0}, lambda alpha: _through_double(lambda x: np.where(x >= 0, x, alpha * np.expm1(x))), True),
    "Erf": ({}, lambda: _through_double(_erf), True),
    "Exp": ({}, lambda: _through_double(np.exp), True),
    "Gelu": ({"approximate": "none"}, _gelu, False),
    "HardSigmoid": ({"alpha": 0.2, "beta": 0.5}, _hard_sigmoid, True),
    "HardSwish": ({}, lambda: _hard_swish, False),
    "LeakyRelu": ({"alpha": 0.01}, _leaky, True),
    "Mish": ({}, lambda: _through_double(lambda x: x * np.tanh(_softplus(x))), False),
    "Neg": ({}, lambda: np.negative, False),
    "Selu": (
        {"alpha": 1.6732632, "gamma": 1.0507010},
        lambda alpha, gamma: _through_double(lambda x: gamma * np.where(x > 0, x, alpha * np.expm1(x))),
        True,
    ),
    "Sigmoid": ({}, lambda: _through_double(_sigmoid), True),
    "Softplus": ({}, lambda: _through_double(_softplus), True),
    "Softsign": ({}, lambda: _softsign, True),
    "Tanh": ({}, lambda: _through_double(np.tanh), True),
    "ThresholdedRelu": ({"alpha": 1.0}, lambda alpha: lambda x: np.where(x > np.float32(alpha), x, np.float32(0)), True),
}
