"""Import the supernet of the paper's authors (microsoft/Moonlit): all of its 690 tensors accounted for, or none taken.

Their position-bias tables are read through stored index buffers. The moving average in their checkpoints averages and
truncates these integers too. A large number of them are therefore one too small, and the authors evaluate with them.
Here a table is stored by offset and needs no index: `Index.RECOMPUTED` takes the rows as training meant them,
`Index.STORED` moves them to where the stored index points, which reproduces the authors' evaluation.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isqrt, prod
from pathlib import Path

import torch
from torch import Tensor

from elasticvit.archs.space import paper
from elasticvit.errors import SupernetFileError
from elasticvit.hashing import file_sha256
from elasticvit.moonlit.checkpoint import Checkpoint, TensorsByKey, read_checkpoint
from elasticvit.moonlit.names import Entry, Index, Kind, Weights, entries
from elasticvit.nn.layers import relative_index
from elasticvit.nn.supernet import SuperNet
from elasticvit.nn.supernet_file import Card, replace_supernet

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TERMS = (
    "Trained on ImageNet-1k, whose images may be used for non-commercial research and education only"
    " (image-net.org/download). Code and weights: microsoft/Moonlit, MIT licence."
)


@dataclass(frozen=True)
class ImportReport:
    """What an import did, as its supernet's provenance keeps it.

    Attributes:
        weights: the set that was taken: `ema`, `model`, or `unnamed` where the file does not say.
        choice: why that one.
        imported, index, dropped: how many of the file's entries became tensors here, are index buffers, or belong to
            no network of the space.
        dropped_entries: names of the latter, as the authors have them.
        unread_numbers: weights that the file holds and no network reads, those of the dropped entries among them.
        index_differs: for each index buffer, how many of its entries are not the computed ones.
    """

    source: str
    file: str
    sha256: str
    epoch: int | None
    weights: str
    choice: str
    index_mode: str
    imported: int
    index: int
    dropped: int
    dropped_entries: tuple[str, ...]
    unread_numbers: int
    index_differs: Mapping[str, int]


def import_checkpoint(
    path: Path, out: Path, weights: Weights | None = None, index: Index = Index.RECOMPUTED
) -> ImportReport:
    """Write the supernet in a checkpoint of the authors as a supernet file at `out`, exactly there.

    Without `weights` the moving average is taken if the file has it, else the model's.

    Raises:
        SupernetFileError: as `read_checkpoint` and `convert`; the requested weights are not in the file; `out` is the
            checkpoint itself or cannot be written.
    """
    if out.exists() and path.exists() and out.samefile(path):
        raise SupernetFileError(f"{out} is the checkpoint itself; give another file to write")
    checkpoint = read_checkpoint(path)
    label, choice, state = select(checkpoint, weights)
    supernet, differs = convert(state, index)
    kinds = Counter(entry.kind for entry in entries())
    report = ImportReport(
        source="microsoft/Moonlit ElasticViT",
        file=path.name,
        sha256=file_sha256(path),
        epoch=checkpoint.epoch,
        weights=label,
        choice=choice,
        index_mode=index.value,
        imported=kinds[Kind.WEIGHT],
        index=kinds[Kind.INDEX],
        dropped=kinds[Kind.UNUSED],
        dropped_entries=tuple(entry.key for entry in entries() if entry.kind is Kind.UNUSED),
        unread_numbers=_numbers(entries()) - sum(t.numel() for t in supernet.net.state_dict().values()),
        index_differs=differs,
    )
    # The file does not tell its classes' names; numbers are what the authors' labels are.
    names = tuple(str(number) for number in range(supernet.space.classes))
    card = Card(
        name="moonlit",
        class_names=names,
        data="imagenet",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        terms=TERMS,
        provenance=asdict(report),
    )
    replace_supernet(out, supernet, card)
    return report


def convert(state: TensorsByKey, index: Index = Index.RECOMPUTED) -> tuple[SuperNet, dict[str, int]]:
    """A supernet of the paper's space, in eval mode, from the authors' state dict; and how its index buffers differ.

    Returns:
        The supernet, and for each index buffer by its key the number of entries that are not the computed ones.

    Raises:
        SupernetFileError: an entry is missing, too many, of another shape or kind, or not finite, a variance is
            negative, or a stored index that is to be used contradicts itself; the message names it.
    """
    _check_keys(state)
    for entry in entries():
        _check_entry(entry, state[entry.key])
    space = paper()
    with torch.device("meta"):
        supernet = SuperNet(space)
    frame = supernet.net.state_dict()
    indices = {e.key: state[e.key].long() for e in entries() if e.kind is Kind.INDEX}
    taken = {}
    for entry in entries():
        if entry.kind is not Kind.WEIGHT:
            continue
        tensor, shape = state[entry.key].detach(), frame[entry.name].shape
        if entry.name.endswith("position_bias"):
            key = entry.key.replace("attention_bias", "relative_position_index")
            rows = _rows_by_offset(key, indices[key]) if index is Index.STORED else slice(None)
            tensor = tensor[rows].T.reshape(shape)
        used = tensor[tuple(slice(size) for size in shape)]
        taken[entry.name] = used.to(frame[entry.name].dtype, copy=True, memory_format=torch.contiguous_format)
    supernet.net.load_state_dict(taken, assign=True)
    return supernet.eval(), {key: _differences(stored) for key, stored in indices.items()}


def select(checkpoint: Checkpoint, weights: Weights | None = None) -> tuple[str, str, TensorsByKey]:
    """Which set of weights is taken: its name as a report has it, why that one, and the set.

    Raises:
        SupernetFileError: the requested weights are not there.
    """
    if checkpoint.unnamed is not None:
        if weights is Weights.EMA:
            raise SupernetFileError("the file holds one set of weights and does not call it EMA; leave --weights out")
        return "unnamed", "the file holds one set of weights and does not say which", checkpoint.unnamed
    if weights is None:
        weights = Weights.EMA if Weights.EMA in checkpoint.sets else Weights.MODEL
        choice = "the default where the file has EMA weights" if weights is Weights.EMA else "there are no EMA weights"
    else:
        choice = "as requested"
    if weights not in checkpoint.sets:
        held = ", ".join(checkpoint.sets)
        raise SupernetFileError(f"the file holds no {weights.upper()} weights, only {held}; ask for --weights {held}")
    return weights.value, choice, checkpoint.sets[weights]


def _check_keys(state: TensorsByKey) -> None:
    due = {entry.key for entry in entries()}
    sizes = f"the authors' supernet has {len(due)} entries, this file has {len(state)}"
    if missing := [entry.key for entry in entries() if entry.key not in state]:
        raise SupernetFileError(f"{sizes}: {len(missing)} are missing: {_few(missing)}")
    if extra := sorted(state.keys() - due):
        raise SupernetFileError(f"{sizes}: {len(extra)} do not belong to it: {_few(extra)}")


def _check_entry(entry: Entry, tensor: Tensor) -> None:
    # Shape first: a tensor of a few bytes may claim to be endless.
    if tuple(tensor.shape) != entry.shape:
        shapes = f"{entry.key} has shape {tuple(tensor.shape)}, the authors' supernet has {entry.shape}"
        raise SupernetFileError(f"{shapes}; the file is of another space or number of classes")
    whole = entry.kind is Kind.INDEX or entry.key.endswith("num_batches_tracked")
    if whole == tensor.is_floating_point() or tensor.is_complex() or tensor.dtype is torch.bool:
        raise SupernetFileError(f"{entry.key} is {tensor.dtype}, not {'whole' if whole else 'floating-point'} numbers")
    if whole:
        return
    if not torch.isfinite(tensor.detach().float()).all():
        raise SupernetFileError(f"{entry.key} holds NaN or infinite numbers, or such that float32 cannot hold")
    if entry.key.endswith("running_var") and (tensor < 0).any():
        raise SupernetFileError(f"{entry.key} holds a negative variance")


def _differences(stored: Tensor) -> int:
    return int((stored != relative_index(_side(stored), stored.device)).sum())


def _rows_by_offset(key: str, stored: Tensor) -> Tensor:
    """The table row that a stored index (R², R²) gives to each of the (2R-1)² offsets, shape ((2R-1)²,)."""
    side = _side(stored)
    offsets, size = relative_index(side, stored.device), (2 * side - 1) ** 2
    if int(stored.min()) < 0 or int(stored.max()) >= size:
        raise SupernetFileError(f"{key} points outside its table of {size} rows; import with --index recomputed")
    rows = torch.zeros(size, dtype=torch.long)
    rows[offsets.flatten()] = stored.flatten()
    wrong = (rows[offsets] != stored).nonzero()
    if len(wrong):
        query, token = wrong[0].tolist()
        offset = int(offsets[query, token])
        both = f"offset {offset} to {int(stored[query, token])} and {int(rows[offset])}"
        raise SupernetFileError(f"{key} maps one offset to two rows: {both}; import with --index recomputed")
    return rows


def _side(index: Tensor) -> int:
    return isqrt(len(index))


def _numbers(of: tuple[Entry, ...]) -> int:
    return sum(prod(entry.shape) for entry in of if entry.kind is not Kind.INDEX)


def _few(names: list[str], max_count: int = 3) -> str:
    return ", ".join(names[:max_count]) + (", …" if len(names) > max_count else "")
