"""What the words on a command line stand for: architectures, spaces, networks with their weights."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import typer

from elasticvit.archs.arch import Arch
from elasticvit.archs.published import PUBLISHED
from elasticvit.archs.space import PRESETS, Space
from elasticvit.errors import ArchError, DataError

if TYPE_CHECKING:  # torch is loaded by the commands that need it
    from elasticvit.accuracy.value import Accuracy
    from elasticvit.data.image_set import ImageSet
    from elasticvit.nn.net import Net
    from elasticvit.nn.supernet_file import LoadedSuperNet


def find_arch(text: str, space: Space | None = None) -> Arch:
    """An architecture by published name or id, or by JSON or a file of it: its own, a manifest's, the authors' 10-list.

    With a space also its `smallest` and `largest`, and the space's head on whatever is named.

    Raises:
        ArchError: nothing of that name, or the file holds no architecture.
    """
    named = dict(PUBLISHED)
    if space is not None:
        named |= {"smallest": space.smallest(), "largest": space.largest()}
        named = {name: space.adopt(arch) for name, arch in named.items()}
    if text in named:
        return named[text]
    if text.lstrip()[:1] in ("{", "[") or Path(text).is_file():
        arch = _read_arch(text)
        return arch if space is None else space.adopt(arch)
    for arch in (*named.values(), *PUBLISHED.values()):
        if arch.id == text:
            return arch if space is None else space.adopt(arch)
    if re.fullmatch("[0-9a-f]{12}", text):
        raise ArchError(
            f"no published architecture has the id {text}; give its JSON, which searches, manifests and `front` have"
        )
    raise ArchError(f"{text!r} is no file, no id and no name; names are {', '.join(named)}")


def _read_arch(text: str) -> Arch:
    """Of JSON, or of the file at this path."""
    try:
        data = json.loads(text if text.lstrip()[:1] in ("{", "[") else Path(text).read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ArchError(f"{text} holds no JSON: {error}") from error
    if isinstance(data, list):
        return Arch.from_moonlit(data)
    # A manifest carries its architecture, so a model's own manifest names it.
    inner = data.get("arch", data) if isinstance(data, dict) else data
    return Arch.from_json(inner)


def find_space(name: str) -> Space:
    """The preset of this name, or the space of a supernet file. Raises `SupernetFileError`."""
    if name in PRESETS:
        return PRESETS[name]()
    from elasticvit.nn.supernet_file import read_card

    return read_card(name)[0]


class Trained(NamedTuple):
    """A network with its weights, the supernet that they are from, its accuracy (None where it is not known) and the
    images that the supernet was trained on (None where they cannot be had)."""

    net: "Net"
    supernet: "LoadedSuperNet"
    accuracy: "Accuracy | None"
    data: "ImageSet | None"


def trained(arch: str, path: Path) -> Trained:
    """The network of that name, recalibrated where there are images for it.

    Raises:
        ArchError, SpaceError: nothing of that name, or it lies outside the supernet's space.
        SupernetFileError: the file is missing or damaged.
    """
    from elasticvit.accuracy.evaluate import as_trained, calibrated, known_accuracy
    from elasticvit.accuracy.table import AccuracyTable, table_path
    from elasticvit.data.image_set import load_named
    from elasticvit.nn.supernet_file import load_supernet

    supernet = load_supernet(path)
    found = find_arch(arch, supernet.space)
    try:
        data = as_trained(supernet, load_named(supernet.card.data))
    except DataError as error:
        if supernet.calibration is None:
            typer.echo(f"elasticvit: norms are not recalibrated and accuracy is not known: {error}", err=True)
            return Trained(supernet.extract(found), supernet, None, None)
        data = None
    table = AccuracyTable.load(table_path(path)) if table_path(path).is_file() else None
    net = calibrated(supernet, found, data)
    return Trained(net, supernet, known_accuracy(net, supernet.space, table, data), data)
