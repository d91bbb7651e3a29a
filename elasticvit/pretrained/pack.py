"""A supernet file for distribution: half precision, with calibration images in place of the training images."""

from dataclasses import replace
from pathlib import Path

from elasticvit.accuracy.evaluate import as_trained
from elasticvit.data.image_set import load_named
from elasticvit.nn.supernet_file import load_supernet, replace_supernet
from elasticvit.pretrained.calibration_images import STEPS, K, make_calibration_images
from elasticvit.progress import Report, silent


def pack(
    file: Path, out: Path, *, k: int = K, steps: int = STEPS, seed: int = 0, report: Report = silent
) -> dict[str, object]:
    """Write `out` from a supernet file whose training images are available; returns a summary for JSON.

    If the card states no terms, it gets those of the images. The accuracy table of `file` does not apply to `out`,
    whose recalibrated networks differ.

    Raises:
        SupernetFileError: `file` cannot be read, or `out` not written.
        DataError: the images that the card names are not available.
    """
    supernet = load_supernet(file)
    data = as_trained(supernet, load_named(supernet.card.data))
    images = make_calibration_images(supernet, data, k=k, steps=steps, seed=seed, report=report)
    made = {"images": k, "steps": steps, "seed": seed}
    card = replace(
        supernet.card,
        terms=supernet.card.terms or data.terms,
        provenance={**supernet.card.provenance, "calibration": made},
    )
    replace_supernet(out, supernet, card, half=True, calibration=images)
    return {"supernet": str(out), "size_bytes": out.stat().st_size, "calibration": made, "terms": card.terms}
