"""Commands that train: supernets, snapshots of runs, fine-tuning, ablations."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from elasticvit.cli.arguments import find_arch
from elasticvit.cli.console import OutOption, errors, say

app = typer.Typer(no_args_is_help=True, add_completion=False)


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
    from elasticvit.errors import StoppedError
    from elasticvit.training import run

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
    from elasticvit.errors import StoppedError
    from elasticvit.nn.supernet_file import read_card
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


@app.command()
def ablate(
    train: Annotated[bool, typer.Option("--run", help="Train what is missing first; stopped, it goes on.")] = False,
    out: Annotated[Path, typer.Option("--out", help="The folder of results and plots.")] = Path("docs/ablation"),
    steps: Annotated[int | None, typer.Option("--steps", min=2, help="Of every supernet.")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="How many runs of each configuration.")] = 3,
    classes: Annotated[int | None, typer.Option("--classes", min=2, max=200, help="Of Tiny-ImageNet.")] = None,
    plan: Annotated[
        Literal["short", "fair"], typer.Option("--plan", help="fair: with an external teacher, 8,000 steps; 15 hours.")
    ] = "short",
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes that train side by side; default: 1 on a CPU.")
    ] = None,
) -> None:
    """The paper's ablations in miniature: print tables and draw plots from results, which --run makes."""
    from elasticvit.errors import StoppedError
    from elasticvit.training.ablation import show

    with errors():
        try:
            typer.echo(
                show.ablate(out, train=train, steps=steps, seeds=seeds, classes=classes, name=plan, workers=workers)
            )
        except StoppedError as stopped:
            typer.echo(f"elasticvit: {stopped}", err=True)
