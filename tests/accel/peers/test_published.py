"""Published figures: what follows from them, and that each says where it is from."""

from __future__ import annotations

import pytest

from accel.frontends import NETWORKS
from accel.peers.published import Figure, figures


def figure(peer: str, network: str, macs: int | None = None) -> Figure:
    return next(f for f in figures() if (f.peer, f.network) == (peer, network) and macs in (None, f.macs))


def test_every_peer_is_there() -> None:
    assert {f.peer for f in figures()} == {"NVDLA", "Gemmini", "TPU v1", "Eyeriss", "fpgaConvNet"}


@pytest.mark.parametrize("number", range(len(figures())))
def test_a_figure_is_whole(number: int) -> None:
    one = figures()[number]
    assert one.kind in ("measured", "estimated")
    assert one.layers in ("all", "convolutions")
    assert one.network in NETWORKS or one.peer == "TPU v1"
    assert "https://" in one.source or "table" in one.source, "where to look"
    assert one.counts
    assert (one.cycles_per_image is not None) or one.utilisation is not None
    assert [one.cycles, one.milliseconds, one.images_per_second].count(None) >= 2, "one way to give the time"
    assert one.utilisation is None or 0 < one.utilisation <= 1


@pytest.mark.parametrize(("network", "cycles"), [("resnet8", 58_813), ("dscnn", 46_310), ("mobilenetv1-0.25-96", 1_053_011)])
def test_cycles_are_the_clock_over_the_images_a_second(network: str, cycles: int) -> None:
    found = figure("fpgaConvNet", network).cycles_per_image
    assert found is not None
    assert round(found) == cycles


def test_cycles_are_the_clock_times_the_time() -> None:
    found = figure("Eyeriss", "alexnet")
    assert found.cycles_per_image == pytest.approx(200e6 * 115.3e-3 / 4)
    # 34.7 images a second, as the paper has it
    assert 200e6 / found.cycles_per_image == pytest.approx(34.7, abs=0.05)
    assert found.share(0) == pytest.approx(666e6 / (168 * found.cycles_per_image))


def test_utilisation_follows_from_the_networks_multiply_accumulates() -> None:
    found = figure("NVDLA", "resnet50", 256)
    assert found.mac_cycles(1) == pytest.approx(256 * 1e9 / 46)
    assert found.share(3_860_000_000) == pytest.approx(0.69, abs=0.005)


def test_a_published_utilisation_is_taken_as_it_is() -> None:
    found = figure("TPU v1", "CNN1")
    assert found.cycles_per_image is None
    assert found.share(123) == 0.225
    assert found.mac_cycles(900) == pytest.approx(4000)
    gemmini = figure("Gemmini", "resnet50")
    assert gemmini.share(1) == 0.40
    assert gemmini.cycles_per_image == 153_709_356 / 4
