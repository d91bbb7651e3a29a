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
    recipe: Annotated[str, typer.Argument(help="The name of a training recipe: digits, cpu_minutes, cifar10_cpu, ...")],
    out: OutOption,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Training steps. Default: those of the training recipe.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", min=0, help="Seed of the training. Default: that of the training recipe.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="The name of a data set or a folder. Default: that of the training recipe."),
    ] = None,
    evaluated: Annotated[
        int,
        typer.Option("--evaluated", min=0, help="Sub-networks to evaluate for the accuracy table: 8 or more; 0: none."),
    ] = 40,
    logs: Annotated[
        Path | None,
        typer.Option("--logs", help="A file of JSON lines, one per step. Default: NAME.train.jsonl beside the output."),
    ] = None,
    tensorboard: Annotated[Path | None, typer.Option("--tensorboard", help="A folder for TensorBoard.")] = None,
    teacher: Annotated[
        list[Path] | None, typer.Option("--teacher", help="A network to distil from; may be repeated.")
    ] = None,
    tables: Annotated[
        Path | None, typer.Option("--tables", help="A folder of level tables, written by `elasticvit tables`.")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds to wait for other processes.")] = 1800,
) -> None:
    """Train a supernet and evaluate some of its sub-networks. After Ctrl-C or SIGTERM run the same command to resume.

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
            # A run that was stopped by a signal has ended as requested: exit status 0.
            typer.echo(f"elasticvit: {stopped}; run the same command to resume", err=True)
            return
        if file is not None:
            say({"supernet": str(file)})


@app.command()
def snapshot(
    run: Annotated[Path, typer.Argument(help="The --out of the run; the file need not exist yet.")],
    out: OutOption,
) -> None:
    """Write a supernet file from the checkpoint of a training run, which may still be running."""
    from elasticvit.training.snapshot import snapshot

    with errors():
        say({"supernet": str(out), "step": snapshot(run, out)})


@app.command()
def finetune(
    images: Annotated[str, typer.Argument(help="A folder of images, also as FOLDER@SIDE, or a data set's name.")],
    supernet: Annotated[Path, typer.Option("--supernet", help="The supernet file to start from.")],
    out: OutOption,
    arch: Annotated[
        str | None,
        typer.Option("--arch", help="Fine-tune only this network, named as for `export`; --out may then be a .tflite."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Name of the new supernet. Default: the file name of --out without its ending."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Training steps. Default: chosen by the number of images.")
    ] = None,
    lr: Annotated[float, typer.Option("--lr", min=1e-7, max=1.0, help="Peak learning rate.")] = 1e-3,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    flip: Annotated[
        bool, typer.Option("--flip/--no-flip", help="Mirror images at random; not for text or signs.")
    ] = True,
    evaluated: Annotated[
        int,
        typer.Option("--evaluated", min=0, help="Sub-networks to evaluate for the accuracy table: 8 or more; 0: none."),
    ] = 40,
    carry: Annotated[
        bool,
        typer.Option(
            "--carry-images/--no-carry-images",
            help="Store training images in OUT, for recalibration without the folder.",
        ),
    ] = True,
    scratch: Annotated[bool, typer.Option("--scratch", help="Begin with random weights, to compare.")] = False,
) -> None:
    """Adapt a supernet, or one network of it, to your own classes. After Ctrl-C run the same command to resume."""
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
            typer.echo(f"elasticvit: {stopped}; run the same command to resume", err=True)
            return
        say(asdict(done) | {"file": str(done.file)})


@app.command()
def ablate(
    train: Annotated[
        bool,
        typer.Option("--run", help="Train the missing supernets first; after Ctrl-C run the same command to resume."),
    ] = False,
    out: Annotated[Path, typer.Option("--out", help="The folder of results and plots.")] = Path("docs/ablation"),
    steps: Annotated[int | None, typer.Option("--steps", min=2, help="Training steps of every supernet.")] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Runs of each configuration.")] = 3,
    classes: Annotated[
        int | None, typer.Option("--classes", min=2, max=200, help="Number of classes of Tiny-ImageNet.")
    ] = None,
    plan: Annotated[
        Literal["short", "fair"], typer.Option("--plan", help="fair: with an external teacher, 8,000 steps; 15 hours.")
    ] = "short",
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes that train side by side; default: 1 on a CPU.")
    ] = None,
) -> None:
    """Print tables and draw plots of the paper's ablations at a small scale, from the results of --run."""
    from elasticvit.errors import StoppedError
    from elasticvit.training.ablation import show

    with errors():
        try:
            typer.echo(
                show.ablate(out, train=train, steps=steps, seeds=seeds, classes=classes, name=plan, workers=workers)
            )
        except StoppedError as stopped:
            typer.echo(f"elasticvit: {stopped}", err=True)
