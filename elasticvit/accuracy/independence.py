"""Whether images trained nothing and chose nothing of a supernet, as far as its file tells."""

from elasticvit.data.image_set import ImageSet
from elasticvit.nn.supernet_file import Card


def val_is_apart(card: Card | None, data: ImageSet) -> bool | None:
    """True if the images of `val` trained and chose nothing of the supernet; None if that is not known.

    The provenance of a supernet holds number and digest of each split as they were when it was trained
    (`ImageSet.splits`). Another `val`, of a folder that got new images or of an imported checkpoint, may hold images
    that were trained on. Files that are older than this record hold the number of training images, and sets were split
    by the same rule.

    Args:
        card: of the supernet; None for a supernet that was trained on `data` as it is now.
    """
    if card is None:
        return True
    recorded = card.provenance.get("splits")
    if isinstance(recorded, dict) and isinstance(recorded.get("val"), dict):
        return recorded["val"].get("sha256") == data.val.digest or None
    return card.provenance.get("images") == len(data.train) or None
