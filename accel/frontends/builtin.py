"""The networks that ship with the package."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from accel.frontends.zoo import ZOO
from accel.graph import Network

__all__ = ["DATA", "NETWORKS", "Builtin", "sample_images"]

DATA = Path(__file__).parent / "data"

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Builtin:
    """A network of the package: one line about it, how to load it, and how to get labelled images it has not been trained on.

    ``load`` takes whether the weights are needed: random ones need not be drawn to know a network's shape.
    """

    description: str
    load: Callable[[bool], Network]
    samples: Callable[[], tuple[Pixels, Pixels]] | None = None


def _digits() -> tuple[Pixels, Pixels]:
    with np.load(DATA / "digits.npz", allow_pickle=False) as data:
        return data["x"], data["y"]


def _lenet5(_weights: bool) -> Network:
    from accel.frontends.onnx import load_onnx  # takes a while, and few networks need it

    return load_onnx(DATA / "lenet5.onnx", name="lenet5")


#: Every built-in network by name.
NETWORKS: Mapping[str, Builtin] = MappingProxyType(
    {
        "lenet5": Builtin(
            description="LeNet-5 with ReLU and max pooling, int8, trained on MNIST digits (28x28, padded to 32x32; 10 classes)",
            load=_lenet5,
            samples=_digits,
        ),
        **{name: Builtin(description=f"{what}; random weights", load=load) for name, (what, load) in ZOO.items()},
    }
)


def sample_images(network: Network | str) -> tuple[Pixels, Pixels] | None:
    """Return a built-in network's held-out images, uint8 ``(N, height, width)``, and their classes, uint8 ``(N,)``, or None.

    The images are pixels, to be passed through :func:`accel.images.as_images`.
    """
    builtin = NETWORKS.get(network if isinstance(network, str) else network.name)
    return builtin.samples() if builtin is not None and builtin.samples is not None else None
