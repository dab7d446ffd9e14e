"""Frontends: from files and built-in networks to :class:`accel.graph.Network`."""

from __future__ import annotations

from pathlib import Path

from accel.errors import SystolithError
from accel.frontends.builtin import NETWORKS, sample_images
from accel.graph import Network
from accel.images import read_array

__all__ = ["NETWORKS", "FrontendError", "load_network", "sample_images"]


class FrontendError(SystolithError):
    """A name that is neither a built-in network nor a model file."""


def load_network(name_or_path: str, *, calibration: str | Path | None = None, assume: bool = False) -> Network:
    """Return the built-in network called ``name_or_path``, or the one in that .onnx or .tflite file.

    ``calibration`` is a file of typical inputs (.npy, .npz or an image), needed to quantise a float model. With ``assume`` only the
    layers count, as for cycles: calibration is not needed and weights may be missing, their numbers made up, as a note says; random
    weights of built-in networks are zeros that take no memory. The instructions that come of it are the same.
    Raises a :class:`SystolithError` in one sentence for an unknown name, a bad file or a model that is not supported.
    """
    if name_or_path in NETWORKS:
        if calibration is not None:
            raise FrontendError(f"{name_or_path}: is quantised already; leave the calibration data out")
        return NETWORKS[name_or_path].load(not assume)
    path = Path(name_or_path)
    suffix = path.suffix.lower()
    # A file may share its stem with a built-in network, whose sample images are found by name.
    name = path.name if path.stem in NETWORKS else path.stem
    if suffix == ".tflite":
        from accel.frontends.tflite import load_tflite  # as below

        if calibration is not None:
            raise FrontendError(f"{path}: a .tflite file is quantised by its converter; leave the calibration data out")
        return load_tflite(path, name=name, assume=assume)
    if suffix != ".onnx" and path.exists():
        raise FrontendError(f"{path}: is no network; give a .onnx or .tflite file, or one of {', '.join(NETWORKS)}")
    if suffix != ".onnx":
        raise FrontendError(f"no network is called {name_or_path!r}; use one of {', '.join(NETWORKS)}, or a .onnx or .tflite file")
    from accel.frontends.onnx import load_onnx  # takes a while, and the built-in networks do not need it

    return load_onnx(path, name=name, calibration=None if calibration is None else read_array(calibration), assume=assume)
