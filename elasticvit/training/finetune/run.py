"""The command `elasticvit finetune`: adapts a supernet, or one network of it, to the classes of other images."""

import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from elasticvit.accuracy.evaluate import RECALIBRATION_IMAGES, recalibrate, recalibrated
from elasticvit.accuracy.tabulate import EVALUATED, check_evaluated, tabulate
from elasticvit.accuracy.value import Accuracy
from elasticvit.archs.arch import Arch
from elasticvit.archs.space import Space
from elasticvit.atomic import check_out
from elasticvit.data.image_set import ImageSet, built_in, load_named, shadowed_folder
from elasticvit.data.paths import is_folder
from elasticvit.data.readers.left_out import printable
from elasticvit.errors import DataError
from elasticvit.hashing import file_sha256
from elasticvit.nn.supernet_file import Card, LoadedSuperNet, load_supernet, replace_supernet
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
    """The options of the command."""

    name: str | None = None
    """Of the new supernet; by default the file's name without its ending."""
    steps: int | None = None
    """By default chosen by the number of images (`transfer_recipe`)."""
    lr: float = LR
    seed: int = 0
    flip: bool = True
    """Whether to mirror images at random."""
    evaluated: int = EVALUATED
    """Number of sub-networks to evaluate for the accuracy table that search needs; 0 for no table."""
    carry_images: bool = True
    """Whether the supernet file contains training images for recalibration, so that it can be used without the data
    set."""
    scratch: bool = False
    """Begin with random weights, to compare with those of the base."""


@dataclass(frozen=True)
class Finetuned:
    """The file that was written, its data, and reports of its smallest and largest, or only, network."""

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

    A supernet goes to `out`, with its accuracy table beside it, ready to be served. One network, `arch`,
    goes to `out` as a model with its manifest (`.tflite`) or as weights for torch (`.safetensors`).

    SIGINT and SIGTERM end it after the current step; the same call continues from the checkpoint beside `out`.

    Raises:
        DataError: there are no images, too few, all alike or of one class, or the loss is not finite.
        SupernetFileError: no supernet at `supernet`, or a file cannot be written.
        SpaceError: `arch` is outside the supernet's space.
        UnusableCheckpointError: the checkpoint beside `out` is damaged, or of another command, classes or images.
        StoppedError: stopped by a signal; the checkpoint is kept.
        CheckpointError, PredictorError, ExportError: a file cannot be written.
    """
    check_arguments(supernet, out, arch, options)
    keep_freed_memory()
    base = load_supernet(supernet)
    if doubt := shadowed_folder(images):
        sys.stderr.write(f"elasticvit: {doubt}\n")
    with stop_on_signals() as stop, bars() as report:
        loaded = load_named(image_name(images, base.space.resolutions[-1]), report)
        # The copied layers expect images scaled as those they were trained on.
        data = replace(loaded, mean=base.card.mean, std=base.card.std)
        check_images(data)
        run = Run(base, file_sha256(supernet), data, out, options, report, stop)
        done = run.whole() if arch is None else run.single(arch)
    doubts = [f"{network}: {doubt}" for network, measured in done.networks.items() for doubt in measured.doubts()]
    for warning in [*few_held(data), *doubts]:
        sys.stderr.write(f"elasticvit: {warning}\n")
    return done


def check_arguments(supernet: Path, out: Path, arch: Arch | None, options: Options) -> None:
    """Raises `DataError` for arguments that would fail, or destroy a file, after the training."""
    for text in (str(out.name), options.name or ""):
        if text != (shown := printable(text)):
            raise DataError(f"the name '{shown}' is not UTF-8, and files that are made of it have to be; give another")
    if out.resolve() == supernet.resolve():
        raise DataError(f"--out {out} is the supernet to start from; give another file")
    check_out(out, error=DataError, parents=True)
    if arch is None:
        check_evaluated(options.evaluated)
    endings = (WEIGHTS,) if arch is None else (MODEL, WEIGHTS)
    if out.suffix not in endings:
        raise DataError(f"--out {out} must end with {' or '.join(endings)}")


def image_name(images: str, side: int) -> str:
    """The name of these images in a card, valid in any working directory: a set's name as it is, else the absolute path
    of a folder with the side in pixels that its images are cut to, by default `side`."""
    if built_in(images) is not None:
        return images
    if is_folder(Path(images)):
        return f"{Path(images).resolve()}@{side}"
    before, _, given = images.rpartition("@")
    return f"{Path(before).resolve()}@{given}" if before and is_folder(Path(before)) else images


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
        """Fine-tune the supernet, and evaluate its accuracy table."""
        start = supernet_with_classes(self.base, len(self.data.class_names))
        ends = {"smallest": start.space.smallest(), "largest": start.space.largest()}
        recipe, checkpoint = self._recipe(start.space), self._checkpoint
        probes = self._probes(ends)
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
        replace_supernet(self.out, tuned, self._card(recipe), calibration=carried)
        # Evaluate the file as it will be loaded.
        saved = load_supernet(self.out)
        if self.options.evaluated:
            tabulate(saved, self.data, self.out, self.options.evaluated, self.report, self.stop)
        nets = {name: recalibrated(saved, arch, self.data) for name, arch in ends.items()}
        measured = {name: report_on(net, self.data, probes[name]) for name, net in nets.items()}
        checkpoint.unlink(missing_ok=True)
        return self._finetuned(recipe, measured)

    def single(self, arch: Arch) -> Finetuned:
        """Fine-tune one network, written as a model or as weights."""
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
            reported = Accuracy.measured(measured.val, len(self.data.val), independent=True)
            write_export(export_net(net, card, accuracy=reported), self.out)
        else:
            write_net(net, card, self.out)
        self._checkpoint.unlink(missing_ok=True)
        return self._finetuned(recipe, {net.arch.id: measured})

    @property
    def _checkpoint(self) -> Path:
        return self.out.with_name(f".{self.out.name}.checkpoint")

    @property
    def _origin(self) -> str:
        """The initial weights; a part of the recipe's name, so that checkpoints of others are refused."""
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
        """Accuracies of linear probes on features of networks of the base."""
        accuracies = {}
        for i, (name, arch) in enumerate(archs.items(), start=1):
            accuracies[name] = linear_probe(recalibrate(self.base.extract(arch), self._calibration()), self.data)
            self.report(Step("probe", i, len(archs)))
        return accuracies

    def _finetuned(self, recipe: Recipe, networks: dict[str, NetworkReport]) -> Finetuned:
        data = self.data
        sizes = len(data.class_names), len(data.train), len(data.search), len(data.val)
        return Finetuned(self.out, *sizes, data.skipped, recipe.steps, networks)
