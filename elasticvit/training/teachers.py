"""External teachers of a supernet, loaded from files.

They get images at the size of the data set, scaled by their own card if they have one, else as for the supernet.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from elasticvit.accuracy.evaluate import RECALIBRATION_IMAGES, recalibrate
from elasticvit.archs.arch import Arch
from elasticvit.data.image_set import ImageSet, check_same_classes
from elasticvit.errors import ArchError, DataError, SupernetFileError
from elasticvit.nn.net import Net
from elasticvit.nn.net_file import FORMAT as NET_FORMAT
from elasticvit.nn.supernet_file import Card, load_supernet
from elasticvit.training.losses import Teacher


def load_teacher(path: Path, data: ImageSet, device: torch.device) -> Teacher:
    """A teacher in eval mode on a device.

    Args:
        path: a supernet file (its largest network, recalibrated on the data's training images), a network file of
            `elasticvit extract`, TorchScript (.pt), or an exported program (.pt2); the last two contain code, so they
            must come from a trusted source.

    Raises:
        DataError: no such file, another kind of file, or other classes than the data.
    """
    if not path.is_file():
        raise DataError(f"no teacher file {path}")
    try:
        teacher = _load(path, data, device)
        answers = teacher(data.scaled(data.train.images[:2]).to(device))
    except DataError:
        raise
    except Exception as error:  # a file of other software may fail in any way
        raise DataError(f"{path} is no teacher that can be used: {error}") from error
    if tuple(answers.shape) != (2, len(data.class_names)):
        raise DataError(f"{path} answers {tuple(answers.shape)} to 2 images of {len(data.class_names)} classes")
    return teacher


def _load(path: Path, data: ImageSet, device: torch.device) -> Callable[[Tensor], Tensor]:
    if path.suffix == ".pt2":
        return torch.export.load(path).module().to(device)
    if path.suffix != ".safetensors":
        script: nn.Module = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
        return script.eval()
    net, card = _of_net_file(path) or _largest(path, data)
    check_same_classes(data, card.class_names, f"the teacher {path}")
    net = net.to(device).eval()
    if (card.mean, card.std) == (data.mean, data.std):
        return net
    return lambda images: net(rescaled(images, data, card))


def rescaled(images: Tensor, of: ImageSet, to: Card) -> Tensor:
    """Images (N, 3, H, W) with the scaling of a data set, converted to the scaling of a card."""
    mean, std, new_mean, new_std = (
        torch.tensor(values, device=images.device, dtype=images.dtype).view(3, 1, 1)
        for values in (of.mean, of.std, to.mean, to.std)
    )
    return (images * std + mean - new_mean) / new_std


def _largest(path: Path, data: ImageSet) -> tuple[Net, Card]:
    """The largest network of a supernet file, recalibrated."""
    supernet = load_supernet(path)
    net = supernet.extract(supernet.space.largest())
    return recalibrate(net, supernet.card.scaled(data.train.images[:RECALIBRATION_IMAGES])), supernet.card


def _of_net_file(path: Path) -> tuple[Net, Card] | None:
    """The network and card of a file that `elasticvit extract` wrote; None for other safetensors files."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != NET_FORMAT:
                return None
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        with torch.device("meta"):
            net = Net(Arch.from_json(json.loads(header["arch"])))
        net.load_state_dict(state, assign=True)
        card = Card.from_json(header["card"])
    except (SafetensorError, KeyError, ArchError, RuntimeError, TypeError, ValueError) as error:
        raise SupernetFileError(f"{path} is no network file: {error}") from error
    return net, card
