"""Parses command-line arguments: architectures, spaces, networks with their weights."""

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
    """The architecture of a published name or id, or of JSON, also in a file: an architecture, a manifest, or the
    authors' 10-list.

    With a space `smallest` and `largest` are names too, and every architecture gets the head of the space.

    Raises:
        ArchError: the name is unknown, or the file holds no architecture.
    """
    named = dict(PUBLISHED)
    if space is not None:
        named |= {"smallest": space.smallest(), "largest": space.largest()}
        named = {name: space.adopt(arch) for name, arch in named.items()}
    if text in named:
        return named[text]
    if text.lstrip()[:1] in ("{", "[") or _is_file(text):
        arch = _read_arch(text)
        return arch if space is None else space.adopt(arch)
    for arch in (*named.values(), *PUBLISHED.values()):
        if arch.id == text:
            return arch if space is None else space.adopt(arch)
    if re.fullmatch("[0-9a-f]{12}", text):
        raise ArchError(
            f"no published architecture has the id {text}; give its JSON, as in search results, manifests and `front`"
        )
    raise ArchError(f"{text[:200]!r} is not a file, an id or a name; names are {', '.join(named)}")


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # too long for a name
        return False


def _read_arch(text: str) -> Arch:
    """From JSON, or from the file at this path."""
    try:
        data = json.loads(text if text.lstrip()[:1] in ("{", "[") else Path(text).read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArchError(f"{text[:200]} is not JSON: {error}") from error
    if isinstance(data, list):
        return Arch.from_moonlit(data)
    # A manifest contains its architecture.
    inner = data.get("arch", data) if isinstance(data, dict) else data
    return Arch.from_json(inner)


def find_space(name: str) -> Space:
    """The preset of this name, or the space of a supernet file. Raises `SupernetFileError`."""
    if name in PRESETS:
        return PRESETS[name]()
    from elasticvit.nn.supernet_file import read_card

    return read_card(name)[0]


class Trained(NamedTuple):
    """A network with its weights, its supernet, its accuracy (None if unknown) and the images that the supernet was
    trained on (None if they are missing)."""

    net: "Net"
    supernet: "LoadedSuperNet"
    accuracy: "Accuracy | None"
    data: "ImageSet | None"


def trained(arch: str, path: Path) -> Trained:
    """The network of that name, recalibrated if there are images for it.

    Raises:
        ArchError, SpaceError: the name is unknown, or the architecture is outside the supernet's space.
        SupernetFileError: the file is missing or damaged.
    """
    from elasticvit.accuracy.evaluate import as_trained, known_accuracy, recalibrated
    from elasticvit.accuracy.table import AccuracyTable
    from elasticvit.data.image_set import load_named
    from elasticvit.nn.supernet_file import load_supernet
    from elasticvit.nn.supernet_header import table_path

    supernet = load_supernet(path)
    chosen = find_arch(arch, supernet.space)
    try:
        data = as_trained(supernet, load_named(supernet.card.data))
    except DataError as error:
        if supernet.calibration is None:
            typer.echo(f"elasticvit: batch norms are not recalibrated and the accuracy is unknown: {error}", err=True)
            return Trained(supernet.extract(chosen), supernet, None, None)
        data = None
    table = AccuracyTable.load(table_path(path), supernet.space) if table_path(path).is_file() else None
    net = recalibrated(supernet, chosen, data)
    return Trained(net, supernet, known_accuracy(net, supernet.card, supernet.space, table, data), data)
