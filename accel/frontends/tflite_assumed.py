"""Float TFLite models as if they had been quantised: for estimates, as cycles depend on shapes and not on weights or scales."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from accel.frontends.assumed import GRID, WEIGHT_SCALE, Weights
from accel.frontends.tflite_file import FileModel, FileOperator, FileTensor
from accel.frontends.tflite_kernels import FIXED_GRIDS, Grid
from accel.numerics import INT8_MIN

__all__ = ["assumed", "is_quantised"]

_LINEAR = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"})

#: Operators whose kernel does not rescale.
_SAME = frozenset({"AVERAGE_POOL_2D", "CONCATENATION", "EXPAND_DIMS", "MAX_POOL_2D", "PAD", "PADV2", "RELU6", "RESHAPE", "SQUEEZE"})

#: What only changes the form of numbers, of which there is one here.
_CONVERSIONS = frozenset({"DEQUANTIZE", "QUANTIZE"})


def is_quantised(model: FileModel) -> bool:
    """Whether no layer computes real numbers. (A DEQUANTIZE at the end may.)"""
    return all(
        model.tensors[number].kind not in ("FLOAT16", "FLOAT32")
        for op in model.operators
        if op.kind in _LINEAR
        for number in op.outputs
    )


def assumed(model: FileModel) -> FileModel:
    """Return the model with int8 maps on made-up grids and random int8 weights in place of its real numbers."""
    tensors = list(model.tensors)
    weights = Weights()
    operators: list[FileOperator] = []
    for number in model.inputs:
        tensors[number] = _map(tensors[number], GRID)
    for op in model.operators:
        first = tensors[op.inputs[0]] if op.inputs and op.inputs[0] >= 0 else None
        if op.kind in _CONVERSIONS and first is not None and first.is_constant:
            # Weights in half precision, spread out when the model is loaded.
            for number in op.outputs:
                tensors[number] = replace(first, shape=tensors[number].shape)
            continue
        if op.kind in _LINEAR:
            for number in _given(op, 1):
                data = weights.draw(tensors[number].shape, f"{model.origin}: {op.label}")
                tensors[number] = _constant(tensors[number], "INT8", data, WEIGHT_SCALE)
            for number in _given(op, 2):
                data = np.broadcast_to(np.int32(0), tuple(max(size, 0) for size in tensors[number].shape))
                tensors[number] = _constant(tensors[number], "INT32", data, GRID[0] * WEIGHT_SCALE)
        grid = FIXED_GRIDS.get(op.kind, GRID)
        if op.kind in _SAME and first is not None and len(first.scale):
            grid = first.scale[0], int(first.zero_point[0])
        if op.kind == "PADV2":
            for number in _given(op, 2):
                value = tensors[number].data
                is_low = value is not None and bool((value < 0).any())
                data = np.full(1, INT8_MIN if is_low else grid[1], np.int8)
                tensors[number] = _constant(tensors[number], "INT8", data, grid[0])
        for number in op.outputs:
            tensors[number] = _map(tensors[number], grid)
        operators.append(replace(op, kind="RESHAPE") if op.kind in _CONVERSIONS else op)
    return replace(model, tensors=tuple(tensors), operators=tuple(operators))


def _map(tensor: FileTensor, grid: Grid) -> FileTensor:
    return replace(tensor, kind="INT8", scale=np.array([grid[0]], np.float32), zero_point=np.array([grid[1]], np.int64), axis=0)


def _given(op: FileOperator, position: int) -> tuple[int, ...]:
    """Return the tensor at a position, if it is not left out."""
    return tuple(number for number in op.inputs[position : position + 1] if number >= 0)


def _constant(tensor: FileTensor, kind: str, data: npt.NDArray[Any], scale: np.float32) -> FileTensor:
    return replace(_map(tensor, (scale, 0)), kind=kind, data=data, is_constant=True)
