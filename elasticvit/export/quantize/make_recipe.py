"""`elasticvit recipe`: find which operators take int8 weights, on this machine."""

import platform
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from elasticvit.archs.published import published
from elasticvit.archs.space import PRESETS
from elasticvit.atomic import write_atomically
from elasticvit.errors import DataError, ExportError
from elasticvit.export.quantize.recipe import QuantizationRecipe
from elasticvit.hashing import file_sha256
from elasticvit.progress import Report

if TYPE_CHECKING:
    from elasticvit.export.quantize.calibration_set import CalibrationSet
    from elasticvit.nn.net import Net
    from elasticvit.nn.supernet_file import LoadedSuperNet

# Of the published ones: small, middle and large.
STAND_INS = ("T1", "S1", "M")
DRAWN = 2


def make_recipe(of: str, out: Path, version: int, rounds: int, max_drop: float, report: Report) -> QuantizationRecipe:
    """Find a recipe for a preset's networks with random weights, or for a supernet file's, and write it.

    Raises:
        ElasticVitError: no such preset or file, or the disk refuses.
    """
    from elasticvit.export.quantize.find_recipe import find_recipe
    from elasticvit.nn.random_net import random_net
    from elasticvit.nn.supernet_file import load_supernet

    calibration_set: CalibrationSet | None = None
    evaluated_on: dict[str, str] = {}
    if of in PRESETS:
        space, nets = of, [random_net(published(name), 0) for name in STAND_INS]
        if of != "paper":
            preset = PRESETS[of]()
            nets = [random_net(preset.smallest(), 0), random_net(preset.largest(), 0)]
    else:
        supernet = load_supernet(of)
        space, nets, calibration_set = supernet.space.name, _nets(supernet), _calibration_set(supernet)
        if calibration_set is not None and calibration_set.held_out is not None:
            sha256 = file_sha256(Path(of))
            evaluated_on = {"supernet": supernet.card.name, "sha256": sha256, "images": calibration_set.held_out.name}
    name = f"{space}-{platform.machine()}"
    recipe = find_recipe(
        name,
        version,
        space,
        nets,
        calibration_set,
        evaluated_on=evaluated_on,
        rounds=rounds,
        max_drop=max_drop,
        report=report,
    )
    write_atomically(out, recipe.to_json().encode(), error=ExportError)
    return recipe


def _nets(supernet: "LoadedSuperNet") -> list["Net"]:
    """From the smallest to the largest, with two drawn between, recalibrated where the file carries images."""
    from elasticvit.accuracy.evaluate import recalibrated

    space = supernet.space
    drawn = [space.decode(code) for code in space.sample(np.random.default_rng(0), DRAWN)]
    archs = [space.smallest(), *drawn, space.largest()]
    if supernet.calibration is None:
        return [supernet.extract(arch) for arch in archs]
    return [recalibrated(supernet, arch) for arch in archs]


def _calibration_set(supernet: "LoadedSuperNet") -> "CalibrationSet | None":
    from elasticvit.data.image_set import load_named
    from elasticvit.export.quantize.calibration_set import calibration_set_of

    try:
        return calibration_set_of(supernet, load_named(supernet.card.data), split="search")
    except DataError:
        return calibration_set_of(supernet, None)
