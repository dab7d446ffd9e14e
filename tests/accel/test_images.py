"""Images and arrays from files: what each type and layout means, and every refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from accel.graph import Lookup, Network, Tensor
from accel.images import ImageError, as_images, load_images


def network(
    shape: tuple[int, int, int] = (6, 8, 1), *, zero_point: int = -128, scale: float = 1 / 255, pixels: Any = None
) -> Network:
    """Return a network that hands its input on; ``pixels`` is its preprocessing."""
    source = Tensor(name="image", shape=shape, zero_point=zero_point, scale=scale)
    layer = Lookup(name="copy", inputs=("image",), output="copy", table=np.arange(-128, 128).astype(np.int8))
    return Network(
        name="test",
        input=source,
        operators=(layer,),
        tensors={"copy": Tensor(name="copy", shape=shape)},
        output="copy",
        preprocessing=pixels or {},
    )


PIXELS = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 1)).astype(np.uint8)


def test_int8_is_taken_as_it_is() -> None:
    maps = (PIXELS.astype(int) - 128).astype(np.int8)
    assert np.array_equal(as_images(maps, network(scale=3.0, pixels={"pad": (1, 1, 1, 1)})), maps)


def test_pixels_are_scaled_and_quantised() -> None:
    assert np.array_equal(as_images(PIXELS, network(scale=1 / 255)), np.where(PIXELS > 0, 127, -128))
    assert np.array_equal(as_images(PIXELS, network()), as_images(PIXELS / 1.0, network()))


def test_preprocessing_makes_bytes_of_pixels() -> None:
    assert np.array_equal(as_images(PIXELS, network(pixels={"scale": 1 / 255})), PIXELS.astype(int) - 128)


def test_mean_and_deviation_for_each_channel() -> None:
    colour = np.random.default_rng(1).integers(0, 256, (2, 4, 5, 3)).astype(np.uint8)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.25, 0.125]
    net = network((4, 5, 3), zero_point=7, scale=0.02, pixels={"scale": 1 / 255, "mean": mean, "std": std})
    real = (colour / 255 - mean) / std
    assert np.array_equal(as_images(colour, net), np.clip(np.rint(real.astype(np.float32) / np.float32(0.02)) + 7, -128, 127))


def test_pixels_may_lack_the_padding() -> None:
    net = network((10, 12, 1), pixels={"pad": (2, 2, 2, 2), "scale": 1 / 255})
    padded = as_images(PIXELS, net)
    assert padded.shape == (3, 10, 12, 1)
    assert np.array_equal(padded[:, 2:-2, 2:-2], PIXELS.astype(int) - 128)
    assert padded[:, :2].max() == padded[:, :, -2:].max() == -128
    full = np.pad(PIXELS, ((0, 0), (2, 2), (2, 2), (0, 0)))
    assert np.array_equal(as_images(full, net), padded)


def test_real_values_round_half_to_even_and_saturate() -> None:
    values = np.array([0.5, 1.5, 2.5, -0.5, 1e9, -1e9, 126.5, 127.4], np.float32).reshape(1, 8, 1)
    expected = [0, 2, 2, 0, 127, -128, 126, 127]
    for dtype in (np.float32, np.float64):
        assert as_images(values.astype(dtype), network((1, 8, 1), zero_point=0, scale=1.0)).reshape(-1).tolist() == expected


@pytest.mark.parametrize(
    ("layout", "array"),
    [
        ("NHWC", PIXELS),
        ("NCHW", PIXELS.transpose(0, 3, 1, 2)),
        ("NHW", PIXELS[..., 0]),
        ("HW", PIXELS[:1, :, :, 0].reshape(6, 8)),
        ("HWC", PIXELS[0]),
        ("CHW", PIXELS[0].transpose(2, 0, 1)),
    ],
)
def test_layouts(layout: str, array: np.ndarray) -> None:
    expected = as_images(PIXELS[: 3 if "N" in layout else 1], network())
    assert np.array_equal(as_images(array, network()), expected)


def test_layouts_of_several_channels() -> None:
    colour = np.random.default_rng(2).integers(-128, 128, (2, 4, 5, 3)).astype(np.int8)
    net = network((4, 5, 3))
    assert np.array_equal(as_images(colour.transpose(0, 3, 1, 2), net), colour)
    assert np.array_equal(as_images(colour[0].transpose(2, 0, 1), net), colour[:1])
    with pytest.raises(ImageError, match=r"images: the shape must be \(N, 4, 5, 3\) \(or .*\), not \(4, 5\)"):
        as_images(colour[0, :, :, 0], net)


def test_vectors() -> None:
    values = np.arange(10).astype(np.int8)
    net = network((1, 1, 10))
    assert np.array_equal(as_images(values, net), values.reshape(1, 1, 1, 10))
    assert as_images(np.stack([values, values]), net).shape == (2, 1, 1, 10)


def test_ambiguous_layout() -> None:
    cube = np.zeros((4, 4, 4), np.int8)
    with pytest.raises(ImageError, match=r"the shape \(4, 4, 4\) may mean HWC or CHW; give \(N, 4, 4, 4\)"):
        as_images(cube, network((4, 4, 4)))
    marked = np.arange(64).astype(np.int8).reshape(1, 4, 4, 4)
    assert np.array_equal(as_images(marked, network((4, 4, 4))), marked)


@pytest.mark.parametrize("dtype", [np.int16, np.int64, np.uint16, np.bool_, np.complex64, np.float16])
def test_other_types(dtype: Any) -> None:
    with pytest.raises(ImageError, match=r"values must be int8 .*, uint8 .* or float32 or float64"):
        as_images(np.zeros((6, 8), dtype), network())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(value: float) -> None:
    array = np.zeros((6, 8), np.float32)
    array[3, 3] = value
    with pytest.raises(ImageError, match="images: holds NaN or infinity; every value must be finite"):
        as_images(array, network())


def test_no_image() -> None:
    with pytest.raises(ImageError, match="holds no image; give at least one"):
        as_images(PIXELS[:0], network())


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "b.npz", "grey.png", "colour.png", "grey.jpg"])
def test_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith(".npy"):
        np.save(path, PIXELS)
    elif name.startswith("a"):
        np.savez(path, x=PIXELS, y=np.zeros(3))
    elif name.endswith(".npz"):
        np.savez(path, anything=PIXELS)
    else:
        picture = Image.fromarray(PIXELS[0, :, :, 0])
        (picture if name.startswith("grey") else picture.convert("RGB")).save(path, quality=100)
    maps = load_images(path, network())
    assert maps.dtype == np.int8
    if path.suffix == ".jpg":
        assert maps.shape == (1, 6, 8, 1)
    else:
        assert np.array_equal(maps, as_images(PIXELS[: 1 if path.suffix == ".png" else 3], network()))


def test_colour_image_for_a_network_of_three_channels(tmp_path: Path) -> None:
    colour = np.random.default_rng(3).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    Image.fromarray(colour).save(tmp_path / "colour.png")
    net = network((6, 8, 3), pixels={"scale": 1 / 255})
    assert np.array_equal(load_images(tmp_path / "colour.png", net)[0], colour.astype(int) - 128)


def refusal(path: Path, net: Network | None = None) -> str:
    with pytest.raises(ImageError) as caught:
        load_images(path, net or network())
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    assert refusal(tmp_path / "absent.npy") == "there is no such file"
    assert refusal(tmp_path / "digits.csv") == "must be a .npy, .npz, .png, .jpg, .jpeg, .bmp file"
    (tmp_path / "folder.npy").mkdir()
    assert refusal(tmp_path / "folder.npy") == "there is no such file"


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.png"])
def test_truncated_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.npy":
        np.save(path, PIXELS)
    elif name == "a.npz":
        np.savez_compressed(path, x=PIXELS)
    else:
        Image.fromarray(PIXELS[0, :, :, 0]).save(path)
    data = path.read_bytes()
    for length in (0, 5, len(data) // 2, len(data) - 50):
        path.write_bytes(data[:length])
        assert refusal(path).startswith("cannot be read as")


def test_arrays_of_objects_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], object), allow_pickle=True)
    assert refusal(tmp_path / "a.npy").startswith("cannot be read as a .npy file")


def test_archive_without_x(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=PIXELS, labels=PIXELS)
    assert refusal(tmp_path / "a.npz") == "must hold an array called x, or a single array, not images, labels"


def test_image_of_another_size_transparency_and_depth(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(path)
    assert refusal(path) == "the shape must be (N, 6, 8, 1) (or the same with channels first, or a single image), not (9, 9)"
    Image.fromarray(np.zeros((6, 8, 4), np.uint8)).save(path)
    assert refusal(path) == "is partly transparent; save it on an opaque background"
    Image.fromarray(np.zeros((6, 8), np.uint16)).save(path)
    assert refusal(path) == "must have 8 bits a channel, grey or colour, not Pillow's mode I;16"
    assert refusal(path, network((6, 8, 5))) == "an image has 1 or 3 channels, but the network reads 5; give a .npy or .npz file"
