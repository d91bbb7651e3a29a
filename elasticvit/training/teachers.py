"""External teachers of a supernet, loaded from files.

They get images at the size of the data set, scaled by their own card if they have one, else as for the supernet.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from elasticvit.accuracy.evaluate import RECALIBRATION_IMAGES, recalibrate
from elasticvit.data.image_set import ImageSet, check_same_classes
from elasticvit.errors import DataError
from elasticvit.nn.net import Net
from elasticvit.nn.net_file import read_net
from elasticvit.nn.supernet_file import Card, load_supernet
from elasticvit.nn.supernet_header import ENDING
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
    if path.suffix != ENDING:
        script: nn.Module = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
        return script.eval()
    net, card = read_net(path) or _largest(path, data)
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
