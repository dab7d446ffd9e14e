"""Well-known networks with seeded random weights: what an engine must be fast at, without a download.

Layers, strides, padding and groups are the published ones. Weights are random, and bias and requantisation follow from them: a
layer's factor is chosen so that its sums, had they a normal distribution, would spread over the bytes, and its bias takes away
what the mean of its input adds. So maps are full of different bytes, even those far from the input. Classes mean nothing.

Rounding is TensorFlow Lite's (:attr:`accel.numerics.Rounding.DOUBLE_AWAY`), and so are the tables of the residual add. A final
softmax is left to the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from accel.frontends.tflite_kernels import add_factor, add_operand
from accel.graph import Add, AveragePool, Concat, Conv2D, MaxPool, Network, Operator, Requantisation, Shape, Tensor, Window
from accel.numerics import INT8_MIN, Rounding, channel_sums, quantise_multiplier

__all__ = ["ZOO"]


_ROUNDING = Rounding.DOUBLE_AWAY
#: Standard deviation, in bytes, that a layer's results have before its activation function.
_SPREAD = 48.0
#: Weights are uniform from -127 to 127: TensorFlow Lite's range. Their standard deviation:
_WEIGHT_DEVIATION = math.sqrt((255**2 - 1) / 12)

_SAME = "same"
_Padding = int | tuple[int, int, int, int] | str


@dataclass(frozen=True, kw_only=True)
class _Map:
    """A map under construction; ``mean`` and ``deviation`` are of ``byte - zero_point``, estimated."""

    tensor: Tensor
    mean: float
    deviation: float


class _Builder:
    """Puts layers one after the other, each reading the map it is given.

    Without ``weights``, all of them are zeros that take no memory; everything else but the biases is the same.
    """

    def __init__(self, name: str, shape: Shape, *, weights: bool, zero_point: int = INT8_MIN) -> None:
        self.name = name
        self.rng, weight_rng = np.random.default_rng(list(name.encode())).spawn(2)
        self.weight_rng = weight_rng if weights else None
        self.operators: list[Operator] = []
        self.tensors: dict[str, Tensor] = {}
        self.input = _Map(
            tensor=Tensor(name="input", shape=shape, zero_point=zero_point, scale=1 / 255),
            mean=-0.5 - zero_point,
            deviation=256 / math.sqrt(12),
        )

    def conv(
        self,
        name: str,
        source: _Map,
        channels: int,
        kernel: int | tuple[int, int] = 1,
        *,
        stride: int = 1,
        padding: _Padding = 0,
        groups: int = 1,
        relu: bool = True,
    ) -> _Map:
        """Add a convolution, its batch normalisation folded in. With ``relu`` the zero point is -128, so the clamp is the ReLU (or
        the ReLU6 of a map whose bytes end at 6)."""
        size = (kernel, kernel) if isinstance(kernel, int) else kernel
        height, width, depth = source.tensor.shape
        window = Window(kernel=size, stride=(stride, stride), padding=_padding(padding, size, stride, (height, width)))
        weights = self._weights((channels, *size, depth // groups))
        sums = channel_sums(weights)
        deviation = source.deviation * _WEIGHT_DEVIATION * math.sqrt(math.prod(weights.shape[1:]))
        bias = np.rint(self.rng.normal(0, deviation / 8, channels) - source.mean * sums).astype(np.int32)
        factors = _SPREAD / deviation * self.rng.uniform(0.75, 1.25, channels)
        zero_point = INT8_MIN if relu else int(self.rng.integers(-16, 17))
        requantisation = _requantisation([quantise_multiplier(factor) for factor in factors.tolist()], zero_point)
        return self._add(
            Conv2D(
                name=name,
                inputs=(source.tensor.name,),
                output=f"{name}_out",
                window=window,
                weights=weights,
                bias=bias,
                requantisation=requantisation,
                groups=groups,
            ),
            zero_point=zero_point,
            scale=6 / 256,
            moments=_rectified(0, _SPREAD) if relu else (0, _SPREAD),
        )

    def _weights(self, shape: tuple[int, ...]) -> npt.NDArray[np.int8]:
        if self.weight_rng is None:
            return np.broadcast_to(np.int8(0), shape)
        return self.weight_rng.integers(-127, 128, shape, np.int8)

    def depthwise(self, name: str, source: _Map, *, kernel: int = 3, stride: int = 1, padding: _Padding = 1) -> _Map:
        """Add a depthwise convolution."""
        channels = source.tensor.shape[2]
        return self.conv(name, source, channels, kernel, stride=stride, padding=padding, groups=channels)

    def dense(self, name: str, source: _Map, channels: int, *, relu: bool = False) -> _Map:
        """Add a fully connected layer: a convolution whose kernel is the whole map."""
        height, width, _ = source.tensor.shape
        return self.conv(name, source, channels, (height, width), relu=relu)

    def max_pool(self, name: str, source: _Map, kernel: int, stride: int, padding: _Padding = 0) -> _Map:
        """Add a max pool after a ReLU."""
        sides = _padding(padding, (kernel, kernel), stride, source.tensor.shape[:2])
        op = MaxPool(
            name=name,
            inputs=(source.tensor.name,),
            output=f"{name}_out",
            window=Window(kernel=(kernel, kernel), stride=(stride, stride), padding=sides),
        )
        largest = np.maximum(self.rng.normal(0, _SPREAD, (1024, kernel * kernel)).max(axis=1), 0)
        tensor = source.tensor
        moments = float(largest.mean()), float(largest.std())
        return self._add(op, zero_point=tensor.zero_point, scale=tensor.scale, moments=moments)

    def mean(self, name: str, source: _Map) -> _Map:
        """Add the average of the whole map. Averages spread less than bytes do, so its scale is finer."""
        height, width, _ = source.tensor.shape
        gain = 2.0
        op = AveragePool(
            name=name,
            inputs=(source.tensor.name,),
            output=f"{name}_out",
            window=Window(kernel=(height, width)),
            input_zero_point=source.tensor.zero_point,
            factors={height * width: quantise_multiplier(gain / (height * width))},
            requantisation=_requantisation([(0, 0)], INT8_MIN),
        )
        moments = gain * source.mean, source.deviation
        return self._add(op, zero_point=INT8_MIN, scale=source.tensor.scale / gain, moments=moments)

    def add(self, name: str, first: _Map, second: _Map, *, relu: bool) -> _Map:
        """Add a residual add, rescaled as TensorFlow Lite does."""
        operands = first, second
        largest = max(operand.tensor.scale for operand in operands)
        tables = []
        for operand in operands:
            tables.append(add_operand(operand.tensor.scale, operand.tensor.zero_point, largest))
        mean = sum(operand.tensor.scale * operand.mean for operand in operands)
        scale = math.hypot(*(operand.tensor.scale * operand.deviation for operand in operands)) / _SPREAD
        zero_point = INT8_MIN if relu else int(self.rng.integers(-16, 17))
        factor = add_factor(largest, scale)
        op = Add(
            name=name,
            inputs=(first.tensor.name, second.tensor.name),
            output=f"{name}_out",
            tables=(tables[0], tables[1]),
            requantisation=_requantisation([factor], zero_point),
        )
        moments = _rectified(mean / scale, _SPREAD) if relu else (mean / scale, _SPREAD)
        return self._add(op, zero_point=zero_point, scale=scale, moments=moments)

    def concat(self, name: str, *sources: _Map) -> _Map:
        """Join channels of maps on one grid."""
        op = Concat(name=name, inputs=tuple(source.tensor.name for source in sources), output=f"{name}_out")
        tensor = sources[0].tensor
        channels = np.array([source.tensor.shape[2] for source in sources])
        moments = (np.average([getattr(s, k) for s in sources], weights=channels) for k in ("mean", "deviation"))
        mean, deviation = (float(moment) for moment in moments)
        return self._add(op, zero_point=tensor.zero_point, scale=tensor.scale, moments=(mean, deviation))

    def _add(self, op: Operator, *, zero_point: int, scale: float, moments: tuple[float, float]) -> _Map:
        shapes = tuple(self.input.tensor.shape if n == self.input.tensor.name else self.tensors[n].shape for n in op.inputs)
        tensor = Tensor(name=op.output, shape=op.output_shape(shapes), zero_point=zero_point, scale=scale)
        self.operators.append(op)
        self.tensors[op.output] = tensor
        return _Map(tensor=tensor, mean=moments[0], deviation=moments[1])

    def network(self, *notes: str) -> Network:
        """Return the network that ends with the last layer."""
        return Network(
            name=self.name,
            input=self.input.tensor,
            operators=tuple(self.operators),
            tensors=self.tensors,
            output=self.operators[-1].output,
            notes=(*notes, "the weights are random, so the classes mean nothing"),
        )


def _requantisation(factors: list[tuple[int, int]], zero_point: int) -> Requantisation:
    multiplier, shift = np.array(factors, np.int32).T
    return Requantisation(multiplier=multiplier, shift=shift, rounding=_ROUNDING, zero_point=zero_point)


def _padding(padding: _Padding, kernel: tuple[int, int], stride: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return (top, left, bottom, right). ``"same"`` is TensorFlow's: as many outputs as inputs over the stride, odd rows after."""
    if isinstance(padding, int):
        return (padding,) * 4
    if isinstance(padding, tuple):
        return padding
    totals = [max((-(-n // stride) - 1) * stride + k - n, 0) for n, k in zip(size, kernel, strict=True)]
    return totals[0] // 2, totals[1] // 2, totals[0] - totals[0] // 2, totals[1] - totals[1] // 2


def _rectified(mean: float, deviation: float) -> tuple[float, float]:
    """Return mean and standard deviation of a normal distribution after a ReLU."""
    ratio = mean / deviation
    above = (1 + math.erf(ratio / math.sqrt(2))) / 2
    density = math.exp(-ratio * ratio / 2) / math.sqrt(2 * math.pi)
    first = mean * above + deviation * density
    second = (mean * mean + deviation * deviation) * above + mean * deviation * density
    return first, math.sqrt(second - first * first)


# Networks, each with the source of its layers


def _alexnet(weights: bool) -> Network:
    """bvlc_alexnet of the ONNX Model Zoo: Krizhevsky 2012 in its Caffe form, two groups, 224 pixels."""
    net = _Builder("alexnet", (224, 224, 3), zero_point=-5, weights=weights)
    x = net.conv("conv1", net.input, 96, 11, stride=4)
    x = net.max_pool("pool1", x, 3, 2)
    x = net.conv("conv2", x, 256, 5, padding=2, groups=2)
    x = net.max_pool("pool2", x, 3, 2)
    x = net.conv("conv3", x, 384, 3, padding=1)
    x = net.conv("conv4", x, 384, 3, padding=1, groups=2)
    x = net.conv("conv5", x, 256, 3, padding=1, groups=2)
    x = net.max_pool("pool5", x, 3, 2, (0, 0, 1, 1))
    x = net.dense("fc6", x, 4096, relu=True)
    x = net.dense("fc7", x, 4096, relu=True)
    net.dense("fc8", x, 1000)
    return net.network("the two local response normalisations are left out; they are no 8-bit layers")


def _vgg16(weights: bool) -> Network:
    """Configuration D of Simonyan and Zisserman 2014."""
    net = _Builder("vgg16", (224, 224, 3), zero_point=-5, weights=weights)
    x = net.input
    for block, (layers, channels) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), 1):
        for layer in range(1, layers + 1):
            x = net.conv(f"conv{block}_{layer}", x, channels, 3, padding=1)
        x = net.max_pool(f"pool{block}", x, 2, 2)
    x = net.dense("fc6", x, 4096, relu=True)
    x = net.dense("fc7", x, 4096, relu=True)
    net.dense("fc8", x, 1000)
    return net.network()


def _resnet(name: str, blocks: tuple[int, int, int, int], weights: bool, *, bottleneck: bool) -> Network:
    """torchvision's form of He 2015: a bottleneck strides in its 3x3 convolution (version 1.5)."""
    net = _Builder(name, (224, 224, 3), zero_point=-5, weights=weights)
    x = net.conv("conv1", net.input, 64, 7, stride=2, padding=3)
    x = net.max_pool("maxpool", x, 3, 2, 1)
    for group, count in enumerate(blocks, 1):
        inner = 64 << (group - 1)
        outer = 4 * inner if bottleneck else inner
        for index in range(count):
            layer = f"layer{group}.{index}"
            stride = 2 if group > 1 and index == 0 else 1
            if bottleneck:
                y = net.conv(f"{layer}.conv1", x, inner)
                y = net.conv(f"{layer}.conv2", y, inner, 3, stride=stride, padding=1)
                y = net.conv(f"{layer}.conv3", y, outer, relu=False)
            else:
                y = net.conv(f"{layer}.conv1", x, inner, 3, stride=stride, padding=1)
                y = net.conv(f"{layer}.conv2", y, outer, 3, padding=1, relu=False)
            if x.tensor.shape != y.tensor.shape:
                x = net.conv(f"{layer}.downsample", x, outer, stride=stride, relu=False)
            x = net.add(f"{layer}.add", x, y, relu=True)
    net.dense("fc", net.mean("avgpool", x), 1000)
    return net.network()


#: Stride and output channels (at width 1) of each depthwise separable layer. Howard 2017, table 1.
_MOBILENET_V1 = ((1, 64), (2, 128), (1, 128), (2, 256), (1, 256), (2, 512), *((1, 512),) * 5, (2, 1024), (1, 1024))


def _mobilenet_v1(name: str, pixels: int, divisor: int, classes: int, weights: bool) -> Network:
    """Howard 2017, with TensorFlow's padding; channels are divided by ``divisor``."""
    net = _Builder(name, (pixels, pixels, 3), zero_point=-1, weights=weights)
    x = net.conv("conv", net.input, 32 // divisor, 3, stride=2, padding=_SAME)
    for index, (stride, channels) in enumerate(_MOBILENET_V1, 1):
        x = net.depthwise(f"dw{index}", x, stride=stride, padding=_SAME)
        x = net.conv(f"pw{index}", x, channels // divisor)
    net.dense("fc", net.mean("avgpool", x), classes)
    return net.network()


#: Expansion, output channels, repeats and first stride. Sandler 2018, table 2.
_MOBILENET_V2 = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def _mobilenet_v2(weights: bool) -> Network:
    """Sandler 2018, with torchvision's padding."""
    net = _Builder("mobilenetv2", (224, 224, 3), zero_point=-5, weights=weights)
    x = net.conv("conv1", net.input, 32, 3, stride=2, padding=1)
    number = 0
    for expansion, channels, repeats, first_stride in _MOBILENET_V2:
        for index in range(repeats):
            number += 1
            stride = first_stride if index == 0 else 1
            inner = expansion * x.tensor.shape[2]
            y = net.conv(f"block{number}.expand", x, inner) if expansion > 1 else x
            y = net.depthwise(f"block{number}.dw", y, stride=stride)
            y = net.conv(f"block{number}.project", y, channels, relu=False)
            x = net.add(f"block{number}.add", x, y, relu=False) if x.tensor.shape == y.tensor.shape else y
    x = net.conv("conv2", x, 1280)
    net.dense("fc", net.mean("avgpool", x), 1000)
    return net.network()


#: Channels that a fire module squeezes to and expands to in each half, by stage. Iandola 2016, as of version 1.1.
_FIRES = (((16, 64), (16, 64)), ((32, 128), (32, 128)), ((48, 192), (48, 192), (64, 256), (64, 256)))


def _squeezenet(weights: bool) -> Network:
    """Version 1.1 of Iandola 2016, which its authors published with the code; the last convolution has a ReLU."""
    net = _Builder("squeezenet", (224, 224, 3), zero_point=-5, weights=weights)
    x = net.conv("conv1", net.input, 64, 3, stride=2)
    number = 1
    for stage, fires in enumerate(_FIRES, 1):
        x = net.max_pool(f"pool{stage}", x, 3, 2)
        for squeezed, expanded in fires:
            number += 1
            x = net.conv(f"fire{number}.squeeze", x, squeezed)
            halves = (
                net.conv(f"fire{number}.expand1x1", x, expanded),
                net.conv(f"fire{number}.expand3x3", x, expanded, 3, padding=1),
            )
            x = net.concat(f"fire{number}.join", *halves)
    x = net.conv("conv10", x, 1000)
    net.mean("avgpool", x)
    return net.network()


def _resnet8(weights: bool) -> Network:
    """MLPerf Tiny, image classification."""
    net = _Builder("resnet8", (32, 32, 3), weights=weights)
    x = net.conv("conv1", net.input, 16, 3, padding=_SAME)
    for index, (channels, stride) in enumerate(((16, 1), (32, 2), (64, 2)), 1):
        y = net.conv(f"stack{index}.conv1", x, channels, 3, stride=stride, padding=_SAME)
        y = net.conv(f"stack{index}.conv2", y, channels, 3, padding=_SAME, relu=False)
        if stride > 1:
            x = net.conv(f"stack{index}.downsample", x, channels, stride=stride, relu=False)
        x = net.add(f"stack{index}.add", x, y, relu=True)
    net.dense("fc", net.mean("avgpool", x), 10)
    return net.network()


def _dscnn(weights: bool) -> Network:
    """MLPerf Tiny, keyword spotting: a depthwise separable network on 49 x 10 cepstral coefficients (Zhang 2017)."""
    net = _Builder("dscnn", (49, 10, 1), zero_point=83, weights=weights)
    x = net.conv("conv", net.input, 64, (10, 4), stride=2, padding=_SAME)
    for index in range(1, 5):
        x = net.depthwise(f"dw{index}", x)
        x = net.conv(f"pw{index}", x, 64)
    net.dense("fc", net.mean("avgpool", x), 12)
    return net.network()


def _autoencoder(weights: bool) -> Network:
    """MLPerf Tiny, anomaly detection: fully connected, 640 spectrogram values in and out."""
    net = _Builder("autoencoder", (1, 1, 640), zero_point=89, weights=weights)
    x = net.input
    for index, channels in enumerate((128, 128, 128, 128, 8, 128, 128, 128, 128), 1):
        x = net.dense(f"fc{index}", x, channels, relu=True)
    net.dense("fc10", x, 640)
    return net.network()


#: One line about each network, and how to make it, with its weights or (where none are needed) zeros.
ZOO: Mapping[str, tuple[str, Callable[[bool], Network]]] = MappingProxyType(
    {
        "alexnet": ("AlexNet as in the ONNX Model Zoo (bvlc), two groups, without its normalisations", _alexnet),
        "vgg16": ("VGG-16", _vgg16),
        "resnet18": ("ResNet-18", lambda weights: _resnet("resnet18", (2, 2, 2, 2), weights, bottleneck=False)),
        "resnet50": ("ResNet-50 (version 1.5)", lambda weights: _resnet("resnet50", (3, 4, 6, 3), weights, bottleneck=True)),
        "mobilenetv1": ("MobileNetV1", lambda weights: _mobilenet_v1("mobilenetv1", 224, 1, 1000, weights)),
        "mobilenetv2": ("MobileNetV2", _mobilenet_v2),
        "squeezenet": ("SqueezeNet 1.1", _squeezenet),
        "resnet8": ("ResNet-8 of MLPerf Tiny (image classification)", _resnet8),
        "dscnn": ("DS-CNN of MLPerf Tiny (keyword spotting)", _dscnn),
        "mobilenetv1-0.25-96": (
            "MobileNetV1 0.25 of MLPerf Tiny (visual wake words)",
            lambda weights: _mobilenet_v1("mobilenetv1-0.25-96", 96, 4, 2, weights),
        ),
        "autoencoder": ("autoencoder of MLPerf Tiny (anomaly detection)", _autoencoder),
    }
)
