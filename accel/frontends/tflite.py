"""TFLite models that are quantised whole: int8, and uint8 where moving the zero point by 128 makes it int8.

Every byte is the one that tflite-micro's reference kernels give: Q31 multipliers with two roundings, ties away from zero, in every
layer but AVERAGE_POOL_2D, which divides integers. (LiteRT's fully connected kernel rounds once, and its default kernels compute in
float32, so their bytes may differ by one.) For uint8, which tflite-micro does not run, the reference kernels are LiteRT's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accel.frontends.assumed import NOTE
from accel.frontends.simplify import simplify
from accel.frontends.tflite_assumed import assumed, is_quantised
from accel.frontends.tflite_file import TfliteError, read_tflite
from accel.frontends.tflite_graph import Importer
from accel.frontends.tflite_operators import HANDLERS
from accel.graph import Network

__all__ = ["TfliteError", "load_tflite"]


def load_tflite(path: str | Path, *, name: str | None = None, assume: bool = False) -> Network:
    """Return the network in a .tflite file, called ``name`` (or as the file is, without its ending).

    ``assume`` takes a float model too, and gives a network of the same layers with random weights and made-up scales, as a note
    says.

    Raises :class:`TfliteError` or another :class:`~accel.errors.SystolithError`, in one sentence, for what cannot be read or run.
    """
    path = Path(path)
    model = read_tflite(path)
    notes: tuple[str, ...] = ()
    if assume and not is_quantised(model):
        model, notes = assumed(model), (NOTE,)
    importer = Importer(model, HANDLERS)
    importer.add_input()
    for operator in model.operators:
        importer.run(operator)
    source, output = importer.finish()
    operators = simplify(tuple(importer.operators), output)
    preprocessing: Mapping[str, Any] = {}
    if model.tensors[model.inputs[0]].kind != "FLOAT32":
        # Bytes in, so that a pixel is the byte itself (and int8 bytes are pixels moved by 128).
        preprocessing = {"scale": source.scale, "mean": source.scale * (source.zero_point + 128)}
    return Network(
        name=path.stem if name is None else name,
        input=source,
        operators=operators,
        tensors={operator.output: importer.tensors[operator.output] for operator in operators},
        output=output,
        notes=(*notes, *importer.notes),
        preprocessing=preprocessing,
    )
