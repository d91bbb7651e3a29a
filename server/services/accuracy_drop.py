"""The bound on the top-1 that a precision costs a model, where that change is known."""

from __future__ import annotations

from server.errors import BadValue
from server.store.tables import Model


def exceeds(model: Model, max_drop: float | None) -> bool:
    """Whether the precision alone costs more top-1 than `max_drop`, a fraction (0 to 1); False where either is unknown
    or None."""
    change = model.manifest.get("top1_change")
    return change is not None and max_drop is not None and -change["value"] > max_drop


def check(model: Model, max_drop: float | None) -> None:
    """Raises BadValue if the drop `exceeds` the bound."""
    if exceeds(model, max_drop):
        change = model.manifest["top1_change"]
        raise BadValue(
            f"{model.precision} costs this network {-change['value']:.4f} of top-1 ({change['source']}), more than "
            f"max_accuracy_drop allows ({max_drop:g}): allow more, or ask for another precision"
        )
