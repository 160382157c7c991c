"""The network of the shapes that come with the package."""

from __future__ import annotations

from drumfire.sut.models.networks.ssd import SsdMobileNet


def network(classes: int, side: int) -> SsdMobileNet:
    """A quarter-width SSD-MobileNet on the first 12 layers of its trunk; ``classes`` counts the background."""
    return SsdMobileNet(classes, side, width=0.25, taken=(6, 12), extras=0, scales=(0.2, 0.36), candidates=100)
