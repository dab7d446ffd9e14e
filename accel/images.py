"""Images and arrays from files, as the int8 maps a network reads.

What an array's type means:

* int8: bytes that are already quantised, taken as they are;
* uint8: pixels from 0 to 255. ``network.preprocessing`` makes real values of them: ``pad`` (top, left, bottom, right) pixels of 0
  around, then ``(pixel * scale - mean) / std``, where each is a number or one number for each channel. A key left out changes
  nothing, so that without preprocessing the value of a pixel is the pixel itself. An ONNX file says nothing about it unless its
  metadata holds the entry ``systolith.preprocessing``: the same keys, as JSON;
* float32 and float64: real values.

Real values are quantised with the input tensor's scale and zero point, ties to even. Image files are pixels.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from accel.errors import SystolithError
from accel.graph import Network, Shape

__all__ = ["ImageError", "as_images", "check_preprocessing", "load_images", "read_array", "real_values"]

Int8Array = npt.NDArray[np.int8]
FloatArray = npt.NDArray[np.float32]
Array = npt.NDArray[Any]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")

#: Axis orders that an array may have. An axis that is left out has length 1.
LAYOUTS = ("NHWC", "NCHW", "NHW", "HWC", "CHW", "NWC", "NCW", "HW", "WC", "CW", "NC", "C")


class ImageError(SystolithError):
    """A file or array that is not what the network reads."""


def load_images(path: str | Path, network: Network) -> Int8Array:
    """Return what the file holds as int8 maps ``(N, height, width, channels)`` of the network's input.

    Reads .npy, .npz (the array ``x``, or the only one), .png, .jpg and .bmp. Raises :class:`ImageError`, in one sentence, for a
    missing or unreadable file and for data of another type or shape.
    """
    return as_images(read_array(path, channels=network.input.shape[2]), network, origin=str(path))


def as_images(array: npt.ArrayLike, network: Network, *, origin: str = "images") -> Int8Array:
    """Return an int8, uint8 or floating array as int8 maps ``(N, height, width, channels)`` of the network's input.

    ``origin`` is what error messages call the array. Raises :class:`ImageError`.
    """
    values = np.asarray(array)
    tensor = network.input
    if values.dtype == np.int8:
        return np.ascontiguousarray(_arranged(values, (tensor.shape,), origin))
    real = real_values(values, tensor.shape, network.preprocessing, origin=origin)
    # The division is in float32 because QuantizeLinear's is.
    quotient = np.rint(real / np.float32(tensor.scale)).astype(np.float64)
    return np.asarray(np.clip(quotient + tensor.zero_point, -128, 127), np.int8)


def real_values(array: npt.ArrayLike, shape: Shape, preprocessing: Mapping[str, Any], *, origin: str) -> FloatArray:
    """Return a uint8 or floating array as real input values: float32 ``(N, *shape)``. Raises :class:`ImageError`."""
    values = np.asarray(array)
    if values.dtype == np.uint8:
        top, left, bottom, right = preprocessing.get("pad", (0, 0, 0, 0))
        bare = (shape[0] - top - bottom, shape[1] - left - right, shape[2])
        pixels = _arranged(values, (bare, shape) if bare != shape else (shape,), origin)
        if pixels.shape[1:] == bare:
            pixels = np.pad(pixels, ((0, 0), (top, bottom), (left, right), (0, 0)))
        scale, mean, std = (
            np.asarray(preprocessing.get(key, default), np.float64) for key, default in (("scale", 1), ("mean", 0), ("std", 1))
        )
        return np.asarray((pixels * scale - mean) / std, np.float32)
    if values.dtype not in (np.float32, np.float64):
        raise ImageError(
            f"{origin}: values must be int8 (already quantised), uint8 (pixels) or float32 or float64 (real), not {values.dtype}"
        )
    try:
        arranged = _arranged(values, (shape,), origin)
    except ImageError as error:
        if "pad" in preprocessing and values.shape[-2:] != shape[:2]:
            raise ImageError(f"{error}; images that are not padded yet are taken as uint8, pixels from 0 to 255") from None
        raise
    if not np.isfinite(arranged).all():
        raise ImageError(f"{origin}: holds NaN or infinity; every value must be finite")
    return arranged.astype(np.float32)


def read_array(path: str | Path, *, channels: int | None = None) -> Array:
    """Return the array in a .npy, .npz or image file; images come out as uint8 ``(H, W)`` or ``(H, W, 3)``.

    ``channels`` turns an image to grey (1) or colour (3) first. Raises :class:`ImageError`.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".npy", ".npz", *IMAGE_SUFFIXES):
        raise ImageError(f"{path}: must be a .npy, .npz, {', '.join(IMAGE_SUFFIXES)} file")
    if not path.is_file():
        raise ImageError(f"{path}: there is no such file")
    if suffix in IMAGE_SUFFIXES:
        return _read_image(path, channels)
    try:
        with path.open("rb") as file:  # NumPy leaves a file that it opens itself open when it is damaged
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            with loaded:
                names = loaded.files
                if "x" not in names and len(names) != 1:
                    raise ImageError(f"{path}: must hold an array called x, or a single array, not {', '.join(names) or 'none'}")
                return np.asarray(loaded["x" if "x" in names else names[0]])
    except ImageError:
        raise
    except Exception as error:  # damaged archives and headers surface as whatever zipfile, zlib, tokenize or NumPy raise
        if "allow_pickle" in str(error):  # what NumPy says of anything that does not begin as its own files do
            raise ImageError(f"{path}: cannot be read as a {suffix} file: it is cut off, or holds something else") from None
        raise ImageError(f"{path}: cannot be read as a {suffix} file: {_one_line(error)}") from None


def check_preprocessing(values: Any, shape: Shape, *, origin: str) -> dict[str, Any]:
    """Return the preprocessing of a model with input ``shape`` if it makes sense. Raises :class:`ImageError` naming ``origin``."""
    known = ("pad", "scale", "mean", "std")
    if not isinstance(values, dict) or any(key not in known for key in values):
        raise ImageError(f"{origin}: preprocessing must be an object with the keys {', '.join(known)}, not {values!r}")
    checked: dict[str, Any] = {}
    for key, value in values.items():
        numbers = value if isinstance(value, list) else [value]
        if not all(isinstance(n, int | float) and not isinstance(n, bool) and np.isfinite(n) for n in numbers):
            raise ImageError(f"{origin}: preprocessing {key} must be finite numbers, not {value!r}")
        if key == "pad":
            room = len(numbers) == 4 and min(numbers) >= 0 and all(isinstance(n, int) for n in numbers)
            if not room or numbers[0] + numbers[2] >= shape[0] or numbers[1] + numbers[3] >= shape[1]:
                raise ImageError(
                    f"{origin}: preprocessing pad must be 4 integers (top, left, bottom, right) within {shape[:2]}, not {value!r}"
                )
            checked[key] = tuple(numbers)
        elif len(numbers) not in (1, shape[2]) or (key == "std" and 0 in numbers):
            raise ImageError(f"{origin}: preprocessing {key} must be one number or {shape[2]} (a divisor not 0), not {value!r}")
        else:
            checked[key] = tuple(numbers) if isinstance(value, list) else value
    return checked


def _read_image(path: Path, channels: int | None) -> Array:
    try:
        pillow: Any = importlib.import_module("PIL.Image")
    except ImportError:
        raise ImageError(f"{path}: reading image files needs Pillow; run 'pip install pillow'") from None
    if channels not in (None, 1, 3):
        raise ImageError(f"{path}: an image has 1 or 3 channels, but the network reads {channels}; give a .npy or .npz file")
    try:
        with pillow.open(path) as image:
            image.load()
            if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
                raise ImageError(f"{path}: must have 8 bits a channel, grey or colour, not Pillow's mode {image.mode}")
            if image.has_transparency_data:
                if image.convert("RGBA").getchannel("A").getextrema()[0] < 255:
                    raise ImageError(f"{path}: is partly transparent; save it on an opaque background")
                image = image.convert("RGB")
            grey = channels == 1 or (channels is None and image.mode in ("1", "L"))
            return np.asarray(image.convert("L" if grey else "RGB"), np.uint8)
    except ImageError:
        raise
    except Exception as error:  # Pillow's decoders raise many types for damaged files
        raise ImageError(f"{path}: cannot be read as an image: {_one_line(error)}") from None


def _arranged(array: Array, shapes: tuple[Shape, ...], origin: str) -> Array:
    """Return the array as ``(N, *shape)``, for the one of ``shapes`` (height, width, channels) that it has in any axis order."""
    found: dict[tuple[object, ...], tuple[str, Array]] = {}
    for shape in shapes:
        sizes = dict(zip("HWC", shape, strict=True))
        for layout in LAYOUTS:
            if len(layout) != array.ndim or any(sizes[axis] != 1 for axis in "HWC" if axis not in layout):
                continue
            if any(array.shape[i] != sizes[axis] for i, axis in enumerate(layout) if axis != "N"):
                continue
            order = [layout.index(axis) for axis in "NHWC" if axis in layout]
            batch = array.shape[layout.index("N")] if "N" in layout else 1
            # Axes of length 1 may stand anywhere: two layouts that differ only in them say the same.
            key = (shape, batch, *(axis for axis in order if array.shape[axis] != 1))
            found.setdefault(key, (layout, array.transpose(order).reshape(batch, *shape)))
    expected = " or ".join(f"(N, {', '.join(map(str, shape))})" for shape in shapes)
    if not found:
        raise ImageError(
            f"{origin}: the shape must be {expected} (or the same with channels first, or a single image), not {array.shape}"
        )
    if len(found) > 1 and array.ndim < 4:
        names = " or ".join(layout for layout, _ in found.values())
        raise ImageError(f"{origin}: the shape {array.shape} may mean {names}; give {expected}")
    # Four axes that fit both ways are channels last, the order of every map here.
    arranged = next(iter(found.values()))[1]
    if len(arranged) == 0:
        raise ImageError(f"{origin}: holds no image; give at least one")
    return arranged


def _one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
