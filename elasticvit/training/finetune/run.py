"""What `elasticvit finetune` does: a supernet, or one network of it, for a user's own classes."""

import hashlib
import re
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from elasticvit.accuracy.evaluate import RECALIBRATION_IMAGES, calibrated, recalibrate
from elasticvit.accuracy.table import table_path
from elasticvit.accuracy.tabulate import EVALUATED, check_evaluated, tabulate
from elasticvit.accuracy.value import Accuracy
from elasticvit.archs.arch import Arch
from elasticvit.archs.space import Space
from elasticvit.data.image_set import KNOWN, ImageSet, load_named
from elasticvit.data.readers.left_out import printable
from elasticvit.errors import DataError
from elasticvit.nn.supernet_file import Card, LoadedSuperNet, load_supernet, save_supernet
from elasticvit.progress import Report, Step, Stop, bars
from elasticvit.training.allocator import keep_freed_memory
from elasticvit.training.finetune.report import NetworkReport, linear_probe, report_on
from elasticvit.training.finetune.transfer import (
    LR,
    check_images,
    few_held,
    fresh_net,
    supernet_with_classes,
    transfer_card,
    transfer_recipe,
    with_classes,
)
from elasticvit.training.logs import Log, logs_to
from elasticvit.training.loop import train, train_plain
from elasticvit.training.recipes import Recipe
from elasticvit.training.run import stop_on_signals

CARRIED = 256
MODEL, WEIGHTS = ".tflite", ".safetensors"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a user may choose."""

    name: str | None = None
    """Of what is made; by default that of the file."""
    steps: int | None = None
    """By default as many as the number of images asks for."""
    lr: float = LR
    seed: int = 0
    flip: bool = True
    """Whether mirror images are as good as the images."""
    evaluated: int = EVALUATED
    """Sub-networks to evaluate for the table that search needs; 0 for none."""
    carry_images: bool = True
    """Whether the supernet file carries training images to recalibrate by, so that whoever has the file needs no
    others."""
    scratch: bool = False
    """Begin with random weights, to see what those of the base are worth."""


@dataclass(frozen=True)
class Finetuned:
    """What was written, and how good its smallest and largest, or its only, network is."""

    file: Path
    classes: int
    train_images: int
    search_images: int
    val_images: int
    skipped: str | None
    steps: int
    networks: dict[str, NetworkReport]


def finetune(
    images: str, supernet: Path, out: Path, *, arch: Arch | None = None, options: Options = Options()
) -> Finetuned:
    """Adapt a supernet file, or one network of it, to the classes of a folder or of a named set of images.

    A supernet goes to `out`, with a table of evaluated sub-networks beside it, ready to be served. One network, `arch`,
    goes to `out` as a model with its manifest (`.tflite`) or as weights for torch (`.safetensors`).

    SIGINT and SIGTERM end it after the step; the checkpoint beside `out` lets the same command go on from there.

    Raises:
        DataError: the images are none, too few or of one class, or the loss is no longer a number.
        SupernetFileError: no supernet at `supernet`, or the disk refuses.
        SpaceError: `arch` is outside the supernet's space.
        UnusableCheckpointError: the checkpoint beside `out` is damaged or of another command.
        StoppedError: told to stop; what is done is kept.
        CheckpointError, PredictorError, ExportError: the disk refuses.
    """
    check_arguments(supernet, out, arch, options)
    keep_freed_memory()
    base = load_supernet(supernet)
    with stop_on_signals() as stop, bars() as report:
        loaded = load_named(image_name(images, base.space.resolutions[-1]), report)
        # The body expects images scaled as those it was trained on.
        data = replace(loaded, mean=base.card.mean, std=base.card.std)
        check_images(data)
        run = Run(base, hashlib.sha256(supernet.read_bytes()).hexdigest(), data, out, options, report, stop)
        done = run.whole() if arch is None else run.single(arch)
    doubts = [f"{network}: {words}" for network, measured in done.networks.items() for words in measured.doubts()]
    for words in filter(None, [few_held(data), *doubts]):
        sys.stderr.write(f"elasticvit: {words}\n")
    return done


def check_arguments(supernet: Path, out: Path, arch: Arch | None, options: Options) -> None:
    """Raises `DataError` for arguments that would fail, or destroy a file, after the training."""
    for text in (str(out.name), options.name or ""):
        if text != (shown := printable(text)):
            raise DataError(f"the name '{shown}' is not UTF-8, and files that are made of it have to be; give another")
    if out.resolve() == supernet.resolve():
        raise DataError(f"--out {out} is the supernet to start from; give another file")
    if arch is None:
        check_evaluated(options.evaluated)
    endings = (WEIGHTS,) if arch is None else (MODEL, WEIGHTS)
    if out.suffix not in endings:
        raise DataError(f"--out {out} must end with {' or '.join(endings)}")


def image_name(images: str, side: int) -> str:
    """What a card calls these images, so that they are found again from any folder: a set's name as it is, else the
    absolute path of a folder with the side that its images are cut to, by default `side`."""
    if re.split("[@:]", images)[0] in KNOWN:
        return images
    if Path(images).is_dir():
        return f"{Path(images).resolve()}@{side}"
    folder, _, given = images.rpartition("@")
    return f"{Path(folder).resolve()}@{given}" if Path(folder).is_dir() and folder else images


@dataclass(frozen=True)
class Run:
    """One call of `finetune`; `data` is scaled as the base's."""

    base: LoadedSuperNet
    base_sha256: str
    data: ImageSet
    out: Path
    options: Options
    report: Report
    stop: Stop

    def whole(self) -> Finetuned:
        """The supernet, and its table of accuracies."""
        start = supernet_with_classes(self.base, len(self.data.class_names))
        ends = {"smallest": start.space.smallest(), "largest": start.space.largest()}
        recipe, table, checkpoint = self._recipe(start.space), table_path(self.out), self._checkpoint
        probes = self._probes(ends)
        if not checkpoint.exists():
            # What an earlier command left half evaluated was another supernet's.
            table.with_name(f".{table.name}").unlink(missing_ok=True)
        with self._log() as log:
            tuned = train(
                recipe,
                self.data,
                checkpoint=checkpoint,
                report=self.report,
                stop=self.stop,
                logs=log,
                start=None if self.options.scratch else start,
                card=self._card(recipe),
            )
        carried = self.data.train.images[:CARRIED] if self.options.carry_images else None
        table.unlink(missing_ok=True)
        save_supernet(self.out, tuned, self._card(recipe), calibration=carried)
        # NetworkReport is what others will load.
        saved = load_supernet(self.out)
        if self.options.evaluated:
            tabulate(saved, self.data, table, self.options.evaluated, self.report, self.stop)
        nets = {name: calibrated(saved, arch, self.data) for name, arch in ends.items()}
        measured = {name: report_on(net, self.data, probes[name]) for name, net in nets.items()}
        checkpoint.unlink(missing_ok=True)
        return self._finetuned(recipe, measured)

    def single(self, arch: Arch) -> Finetuned:
        """One network as a model, or as weights."""
        from elasticvit.export import export_net, write_export
        from elasticvit.nn.net_file import write_net

        net = with_classes(self.base.extract(arch), len(self.data.class_names))
        probe = self._probes({net.arch.id: arch})[net.arch.id]
        recipe = replace(self._recipe(self.base.space), name=f"{net.arch.id} {self._origin}")
        if self.options.scratch:
            net = fresh_net(net.arch, recipe.seed)
        with self._log() as log:
            train_plain(
                net, recipe, self.data, checkpoint=self._checkpoint, report=self.report, stop=self.stop, logs=log
            )
        card, measured = self._card(recipe), report_on(recalibrate(net, self._calibration()), self.data, probe)
        if self.out.suffix == MODEL:
            write_export(
                export_net(net, card, accuracy=Accuracy(measured.search, images=len(self.data.search))), self.out
            )
        else:
            write_net(net, card, self.out)
        self._checkpoint.unlink(missing_ok=True)
        return self._finetuned(recipe, {net.arch.id: measured})

    @property
    def _checkpoint(self) -> Path:
        return self.out.with_name(f".{self.out.name}.checkpoint")

    @property
    def _origin(self) -> str:
        """A part of the recipe's name, so that a checkpoint is only continued from the same weights."""
        base = "scratch" if self.options.scratch else f"{self.base.card.name} {self.base_sha256[:12]}"
        return f"{self._name} from {base}"

    @property
    def _name(self) -> str:
        return self.options.name or self.out.stem

    def _log(self) -> AbstractContextManager[Log]:
        return logs_to(self.out.with_suffix(".train.jsonl"))

    def _recipe(self, space: Space) -> Recipe:
        options = self.options
        return transfer_recipe(
            self._origin, space, self.data, steps=options.steps, lr=options.lr, seed=options.seed, flip=options.flip
        )

    def _card(self, recipe: Recipe) -> Card:
        return transfer_card(self._name, self.base.card, self.base_sha256, recipe, self.data)

    def _calibration(self) -> Tensor:
        return self.data.scaled(self.data.train.images[:RECALIBRATION_IMAGES])

    def _probes(self, archs: dict[str, Arch]) -> dict[str, float]:
        """Accuracies of linear classifiers on what networks of the base see in the images."""
        found = {}
        for i, (name, arch) in enumerate(archs.items(), start=1):
            found[name] = linear_probe(recalibrate(self.base.extract(arch), self._calibration()), self.data)
            self.report(Step("probe", i, len(archs)))
        return found

    def _finetuned(self, recipe: Recipe, networks: dict[str, NetworkReport]) -> Finetuned:
        data = self.data
        sizes = len(data.class_names), len(data.train), len(data.search), len(data.val)
        return Finetuned(self.out, *sizes, data.skipped, recipe.steps, networks)
