"""The commands that need no server. `app` is mounted by the `elasticvit` script.

Exit status: see `elasticvit.cli.console`.
"""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from elasticvit.cli import describe, recipes
from elasticvit.cli import export as exporting
from elasticvit.cli.arguments import find_arch, find_space
from elasticvit.cli.console import ArchOption, OutOption, errors, say
from elasticvit.costs.blocks import blocks
from elasticvit.costs.flops import macs, paper_mflops, params
from elasticvit.moonlit.names import Index, Weights

app = typer.Typer(no_args_is_help=True, add_completion=False)
for others in (exporting.app, describe.app, recipes.app):
    app.registered_commands += others.registered_commands


class Origin(StrEnum):
    MOONLIT = "moonlit"


@app.command()
def space(
    preset: Annotated[str, typer.Argument(help="paper or small; or a supernet file.")] = "paper",
    sample: Annotated[int, typer.Option("--sample", min=0, help="Print this many random members instead.")] = 0,
    seed: Annotated[int, typer.Option("--seed")] = 0,
) -> None:
    """Print a space as JSON: its dimensions, how many members it has and why, its smallest and largest."""
    from elasticvit.archs.counting import paper_count, reachable_count

    with errors():
        chosen = find_space(preset)
        if sample:
            for code in chosen.sample(np.random.default_rng(seed), sample):
                typer.echo(chosen.decode(code).to_json())
            return
        ends = {"smallest": chosen.smallest(), "largest": chosen.largest()}
        say(
            {"name": chosen.name, "members": chosen.count(), "dimensions": dict(chosen.dimensions)}
            | {"paper_count": paper_count(chosen).to_dict(), "reachable": reachable_count(chosen).to_dict()}
            | {name: {"arch_id": arch.id, "macs": macs(arch), "params": params(arch)} for name, arch in ends.items()}
        )


@app.command()
def flops(
    arch: ArchOption,
    by_block: Annotated[bool, typer.Option("--blocks", help="Also every block's share.")] = False,
) -> None:
    """Print an architecture's exact MACs and parameters, and the paper's formula, as JSON."""
    with errors():
        found = find_arch(arch)
        answer: dict[str, object] = {"arch_id": found.id, "macs": macs(found), "params": params(found)}
        answer["paper_mflops"] = paper_mflops(found)
        if by_block:
            answer["blocks"] = [{"key": b.key, "macs": macs(b), "params": params(b)} for b in blocks(found)]
        say(answer)


@app.command()
def extract(
    arch: ArchOption,
    supernet: Annotated[Path, typer.Option("--supernet", help="The supernet file with the weights.")],
    out: OutOption,
) -> None:
    """Cut one network's weights out of a supernet, as they are, into a safetensors file."""
    with errors():
        from elasticvit.nn.net_file import write_net
        from elasticvit.nn.supernet_file import load_supernet

        loaded = load_supernet(supernet)
        net = loaded.extract(find_arch(arch, loaded.space))
        write_net(net, loaded.card, out)
        say({"arch_id": net.arch.id, "macs": macs(net.arch), "params": params(net.arch), "file": str(out)})


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="The name of a recipe: digits, cpu_minutes, cifar10_cpu, ...")],
    out: OutOption,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Instead of the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Instead of the recipe's.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="A data set or folder instead of the recipe's.")] = None,
    evaluated: Annotated[
        int, typer.Option("--evaluated", min=0, help="For the table beside it: 8 or more; 0: none.")
    ] = 40,
    logs: Annotated[Path | None, typer.Option("--logs", help="JSON lines; default: beside the output.")] = None,
    tensorboard: Annotated[Path | None, typer.Option("--tensorboard", help="A folder for TensorBoard.")] = None,
    teacher: Annotated[list[Path] | None, typer.Option("--teacher", help="A network that teaches.")] = None,
    tables: Annotated[Path | None, typer.Option("--tables", help="A folder of sub-networks by level.")] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds to wait for other processes.")] = 1800,
) -> None:
    """Train a supernet, evaluate some of its sub-networks beside it; stopped, it goes on from there.

    Several processes: torchrun --nproc-per-node N -m elasticvit.training RECIPE --out FILE
    """
    from elasticvit.training import run
    from elasticvit.training.checkpoints import StoppedError

    with errors():
        try:
            file = run.train(
                recipe,
                out,
                steps=steps,
                seed=seed,
                data=data,
                evaluated=evaluated,
                logs=logs,
                tensorboard=tensorboard,
                teachers=teacher or (),
                tables=tables,
                timeout_s=timeout,
            )
        except StoppedError as stopped:
            # Whoever stops a run this way wants it to have ended well.
            typer.echo(f"elasticvit: {stopped}; the same command goes on from there", err=True)
            return
        if file is not None:
            say({"supernet": str(file)})


@app.command()
def snapshot(
    run: Annotated[Path, typer.Argument(help="The file that the run was told to write, there yet or not.")],
    out: OutOption,
) -> None:
    """Make a supernet file of a training run's checkpoint; the run may be under way, and goes on as it would have."""
    from elasticvit.training.snapshot import snapshot

    with errors():
        say({"supernet": str(out), "step": snapshot(run, out)})


@app.command()
def finetune(
    images: Annotated[str, typer.Argument(help="A folder of images, also as FOLDER@SIDE, or a data set's name.")],
    supernet: Annotated[Path, typer.Option("--supernet", help="The supernet file to start from.")],
    out: OutOption,
    arch: Annotated[
        str | None, typer.Option("--arch", help="Only this network, like that of `export`; --out may be a .tflite.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Default: that of the output.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Default: by the number of images.")] = None,
    lr: Annotated[float, typer.Option("--lr", min=1e-7, max=1.0, help="Peak learning rate.")] = 1e-3,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    flip: Annotated[bool, typer.Option("--flip/--no-flip", help="Mirror images; not for text or signs.")] = True,
    evaluated: Annotated[
        int, typer.Option("--evaluated", min=0, help="For the table beside it: 8 or more; 0: none.")
    ] = 40,
    carry: Annotated[bool, typer.Option("--carry-images/--no-carry-images", help="Training images in OUT.")] = True,
    scratch: Annotated[bool, typer.Option("--scratch", help="Random weights instead, to compare.")] = False,
) -> None:
    """Adapt a supernet, or one network of it, to your own classes; stopped, it goes on from there."""
    from elasticvit.nn.supernet_file import read_card
    from elasticvit.training.checkpoints import StoppedError
    from elasticvit.training.finetune import run as tuning

    options = tuning.Options(
        name=name,
        steps=steps,
        lr=lr,
        seed=seed,
        flip=flip,
        evaluated=evaluated,
        carry_images=carry,
        scratch=scratch,
    )
    with errors():
        chosen = None if arch is None else find_arch(arch, read_card(supernet)[0])
        try:
            done = tuning.finetune(images, supernet, out, arch=chosen, options=options)
        except StoppedError as stopped:
            typer.echo(f"elasticvit: {stopped}; the same command goes on from there", err=True)
            return
        say(asdict(done) | {"file": str(done.file)})


@app.command("import-checkpoint")
def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="What their training wrote, or a state dict, also as safetensors.")],
    origin: Annotated[Origin, typer.Option("--from", help="Whose checkpoint it is.")],
    out: OutOption,
    weights: Annotated[Weights | None, typer.Option("--weights", help="Default: ema where there is one.")] = None,
    index: Annotated[Index, typer.Option("--index", help="stored: as their evaluation runs.")] = Index.RECOMPUTED,
) -> None:
    """Make a supernet file of the paper's authors' checkpoint, all of it accounted for; nothing in it is run."""
    from elasticvit.moonlit import importer

    with errors():
        assert origin is Origin.MOONLIT
        report = importer.import_checkpoint(file, out, weights, index)
        typer.echo(f"elasticvit: took the {report.weights.upper()} weights ({report.choice})", err=True)
        say(asdict(report) | {"supernet": str(out)})


@app.command()
def evaluate(
    archs: Annotated[list[str], typer.Option("--arch", help="Like that of `export`; may be given several times.")],
    supernet: Annotated[Path, typer.Option("--supernet", help="The supernet file with the weights.")],
) -> None:
    """Measure the accuracy of sub-networks on the held-out images that the supernet's card names."""
    from elasticvit.nn.supernet_file import read_card
    from elasticvit.training import run

    with errors():
        chosen = [find_arch(arch, read_card(supernet)[0]) for arch in archs]
        measured = run.evaluate(supernet, chosen)
        say([{"arch_id": a.id, "top1": m.top1, "images": m.n} for a, m in zip(chosen, measured, strict=True)])


@app.command()
def tables(
    out: Annotated[Path, typer.Option("--out", help="A folder; levels that are in it and whole are kept.")],
    preset: Annotated[str, typer.Option("--space", help="Like that of `space`.")] = "paper",
    per_level: Annotated[int, typer.Option("--per-level", min=1, help="Distinct networks of each level.")] = 150_000,
    level: Annotated[list[float] | None, typer.Option("--level", help="MFLOPs; instead of the paper's eight.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
) -> None:
    """Build the tables of networks by level of cost that training may draw from; stopped, it goes on from there."""
    from elasticvit.costs.level_tables import build_tables
    from elasticvit.costs.levels import PAPER_LEVELS, floors_of
    from elasticvit.progress import Step, bars

    with errors(), bars() as report:
        chosen = find_space(preset)
        built = build_tables(
            chosen,
            out,
            level or PAPER_LEVELS,
            floors=floors_of(chosen),
            per_level=per_level,
            seed=seed,
            report=lambda at, done, total: report(Step(f"{at:g} MFLOPs", done, total)),
        )
    say(built.summary())


@app.command()
def ablate(
    train: Annotated[bool, typer.Option("--run", help="Train what is missing first; stopped, it goes on.")] = False,
    out: Annotated[Path, typer.Option("--out", help="The folder of results and plots.")] = Path("docs/ablation"),
    steps: Annotated[int | None, typer.Option("--steps", min=2, help="Of every supernet.")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many runs of each configuration.")] = 3,
    classes: Annotated[int | None, typer.Option("--classes", min=2, max=200, help="Of Tiny-ImageNet.")] = None,
) -> None:
    """The paper's ablations in miniature: print tables and draw plots from results, which --run makes."""
    from elasticvit.training.ablation import show
    from elasticvit.training.checkpoints import StoppedError

    with errors():
        try:
            typer.echo(show.ablate(out, train=train, steps=steps, seeds=seeds, classes=classes))
        except StoppedError as stopped:
            typer.echo(f"elasticvit: {stopped}", err=True)


@app.command()
def tabulate(
    supernet: Annotated[Path, typer.Argument(help="The supernet file.")],
    n: Annotated[int, typer.Option("--n", min=8, help="How many sub-networks, of all sizes.")] = 600,
    best: Annotated[int, typer.Option("--best", min=0, help="And so many that are predicted best from these.")] = 60,
    processes: Annotated[int, typer.Option("--processes", min=1, help="One thread each.")] = 1,
) -> None:
    """Evaluate sub-networks into the table beside a supernet file, which search needs; stopped, it goes on."""
    from elasticvit.accuracy.table import AccuracyTable
    from elasticvit.accuracy.tabulate import tabulate_file
    from elasticvit.progress import bars
    from elasticvit.training.checkpoints import StoppedError
    from elasticvit.training.run import stop_on_signals

    with errors(), stop_on_signals() as stop, bars() as report:
        try:
            table = tabulate_file(supernet, n, processes, report, stop, best)
            say({"table": str(table), "evaluated": len(AccuracyTable.load(table).top1)})
        except StoppedError as stopped:
            typer.echo(f"elasticvit: {stopped}; the same command goes on from there", err=True)


@app.command()
def pack(
    supernet: Annotated[Path, typer.Argument(help="The supernet file, where its training images are at hand.")],
    out: OutOption,
    images: Annotated[int, typer.Option("--images", min=2, help="Calibration images to carry.")] = 128,
    steps: Annotated[int, typer.Option("--steps", min=0, help="To fit them by; 0: crops of photographs.")] = 1000,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
) -> None:
    """Make a file to pass on: half precision, with made-up calibration images and the terms of the training images."""
    from elasticvit.pretrained import pack as packing
    from elasticvit.progress import bars

    with errors(), bars() as report:
        say(packing.pack(supernet, out, k=images, steps=steps, seed=seed, report=report))


@app.command()
def front(
    supernet: Annotated[Path, typer.Argument(help="The supernet file, its table beside it.")],
    points: Annotated[int, typer.Option("--points", min=2, help="Steps of size to look at.")] = 12,
    candidates: Annotated[int, typer.Option("--candidates", min=1, help="To evaluate for each point.")] = 6,
    processes: Annotated[int, typer.Option("--processes", min=1, help="One thread each.")] = 1,
) -> None:
    """Print the best sub-networks of every size, found on held-out training images and measured on the test images."""
    from elasticvit.accuracy import front as fronts
    from elasticvit.progress import bars

    with errors(), bars() as report:
        say(fronts.front(supernet, points, candidates, processes, report=report).to_dict())
