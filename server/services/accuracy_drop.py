"""What a precision may cost a model of its top-1, as far as that is known."""

from __future__ import annotations

from server.errors import BadValue
from server.store.tables import Model


def exceeds(model: Model, most: float | None) -> bool:
    """Whether the precision alone costs more than `most`, a part of 1; never where either is None."""
    change = model.manifest.get("top1_change")
    return change is not None and most is not None and -change["value"] > most


def check(model: Model, most: float | None) -> None:
    """Raises BadValue where it `exceeds`."""
    if exceeds(model, most):
        change = model.manifest["top1_change"]
        raise BadValue(
            f"{model.precision} costs this network {-change['value']:.4f} of top-1 ({change['source']}), more than "
            f"max_accuracy_drop allows ({most:g}): allow more, or ask for another precision"
        )
