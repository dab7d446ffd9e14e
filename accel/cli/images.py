"""What a run is fed: images of a file, samples of a built-in network, or random bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from accel.cli.group import CommandError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from accel.graph import Network
    from accel.terminal import Pixels

__all__ = ["DEFAULT_IMAGES", "DEFAULT_IMAGES_PYSIM", "Images", "images_of_file", "images_of_network"]

#: Sample images run when no number is given: enough to see, and on Amaranth's simulator (some thousand times slower) just one.
DEFAULT_IMAGES = 10
DEFAULT_IMAGES_PYSIM = 1
#: A network without samples runs on random bytes, of which one image shows as much as many.
_DEFAULT_IMAGES_RANDOM = 1
_MAX_IMAGES_RANDOM = 100_000
_RANDOM_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Images:
    """What a run is fed: int8 NHWC ``inputs``, and what is known of them. ``pixels`` are uint8 pictures, if they are any."""

    inputs: npt.NDArray[np.int8]
    pixels: list[Pixels] | None
    labels: list[int] | None
    source: str
    notes: tuple[str, ...] = ()


def images_of_file(network: Network, path: str, count: int | None) -> Images:
    """Return the first ``count`` images of a file, or all."""
    from accel.images import load_images

    inputs = load_images(path, network)
    if count is not None and count > len(inputs):
        raise CommandError(f"--images: {path} holds {len(inputs)}, not {count}")
    inputs = inputs[:count]
    return Images(inputs=inputs, pixels=_pixels(inputs), labels=None, source=path)


def images_of_network(network: Network, name: str, count: int | None, default: int, batch: int) -> Images:
    """Return ``count`` sample images of the built-in network called ``name``; random ones, if it has none.

    When no count is given, they fill the batches that ``default`` images take.
    """
    import numpy as np

    from accel.frontends import NETWORKS, sample_images
    from accel.images import as_images

    samples = sample_images(name) if name in NETWORKS else None
    if samples is None:
        if count is not None and count > _MAX_IMAGES_RANDOM:
            raise CommandError(f"--images: must be at most {_MAX_IMAGES_RANDOM:,} random images, not {count:,}")
        shape = count or _whole_batches(_DEFAULT_IMAGES_RANDOM, batch), *network.input.shape
        inputs = np.random.default_rng(_RANDOM_SEED).integers(-128, 128, shape, dtype=np.int8)
        note = (
            f"{network.name} has no sample images, so it ran on random bytes and its classes mean nothing; give images with --input"
        )
        return Images(inputs=inputs, pixels=None, labels=None, source=f"random bytes from seed {_RANDOM_SEED}", notes=(note,))
    raw, labels = samples
    count = count or min(_whole_batches(default, batch), len(raw))
    if count > len(raw):
        raise CommandError(f"--images: {name} has {len(raw)} sample images, not {count}")
    return Images(
        inputs=as_images(raw[:count], network),
        pixels=list(raw[:count]),
        labels=[int(n) for n in labels[:count]],
        source="held-out samples of the network",
    )


def _whole_batches(count: int, batch: int) -> int:
    """Return ``count`` rounded up to whole batches."""
    return -(-count // batch) * batch


def _pixels(inputs: npt.NDArray[np.int8]) -> list[Pixels] | None:
    """Return int8 maps as pictures, if they have the form of some."""
    _, height, width, channels = inputs.shape
    if min(height, width) < 8 or channels not in (1, 3):
        return None
    return list(inputs.view("uint8") ^ 0x80)
