"""An accuracy in plain words: how it is known, on how many images, whether they also chose. Standard library only."""

from typing import Protocol

PREDICTED = "predicted from other networks of its supernet that were measured"


class WithAccuracy(Protocol):
    """An accuracy, or what says the same in a manifest or over HTTP. Attributes as of `Accuracy`."""

    @property
    def source(self) -> str | None: ...
    @property
    def images(self) -> int | None: ...
    @property
    def independent(self) -> bool | None: ...
    @property
    def lower(self) -> float | None: ...
    @property
    def upper(self) -> float | None: ...


def in_words(accuracy: WithAccuracy) -> str:
    """As in: measured on 5,000 images that were used for no choice (95 % interval 73.4 % to 75.8 %)."""
    how = _predicted(accuracy) if accuracy.source == "predicted" else _measured(accuracy)
    return f"{how}{interval_in_words(accuracy.lower, accuracy.upper)}"


def interval_in_words(lower: float | None, upper: float | None, unit: str = "%") -> str:
    """In brackets, behind a space; empty without an interval. Fractions are given as percent or points."""
    if lower is None or upper is None:
        return ""
    sign, end = ("+", " points") if unit == "points" else ("", " %")
    return f" (95 % interval {100 * lower:{sign}.1f} to {100 * upper:{sign}.1f}{end})"


def _measured(accuracy: WithAccuracy) -> str:
    number = f"{accuracy.images:,} images" if accuracy.images else "images"
    if accuracy.independent:
        return f"measured on {number} that were used for no choice"
    if accuracy.independent is False:
        return f"measured on the {number} that also chose this network: expect less"
    return f"measured on {number} of which it is not known whether they also chose this network: expect less"


def _predicted(accuracy: WithAccuracy) -> str:
    if accuracy.independent:
        return f"{PREDICTED} on images that were used for no choice; this network was not"
    if accuracy.independent is False:
        return f"{PREDICTED} on images that also chose this network: expect less; this network was not"
    return f"{PREDICTED}; this network was not"
