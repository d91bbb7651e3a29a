"""Commands on supernet files: extract, import, evaluate, tabulate, pack, print the front."""

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from elasticvit.cli.arguments import find_arch
from elasticvit.cli.console import ArchOption, OutOption, errors, say
from elasticvit.costs.flops import macs, params
from elasticvit.moonlit.names import Index, Weights

if TYPE_CHECKING:  # torch is loaded when a command runs
    from elasticvit.accuracy.value import Accuracy

app = typer.Typer(no_args_is_help=True, add_completion=False)


class Origin(StrEnum):
    MOONLIT = "moonlit"


@app.command()
def extract(
    arch: ArchOption,
    supernet: Annotated[Path, typer.Option("--supernet", help="The supernet file with the weights.")],
    out: OutOption,
) -> None:
    """Extract one network's weights from a supernet, without recalibration, into a safetensors file."""
    with errors():
        from elasticvit.atomic import check_out
        from elasticvit.nn.net_file import write_net
        from elasticvit.nn.supernet_file import load_supernet

        check_out(out, [supernet])
        loaded = load_supernet(supernet)
        net = loaded.extract(find_arch(arch, loaded.space))
        write_net(net, loaded.card, out)
        say({"arch_id": net.arch.id, "macs": macs(net.arch), "params": params(net.arch), "file": str(out)})


@app.command("import-checkpoint")
def import_checkpoint(
    file: Annotated[
        Path, typer.Argument(help="A checkpoint of the authors' training, or a state dict (PyTorch or safetensors).")
    ],
    origin: Annotated[Origin, typer.Option("--from", help="The code base that wrote the checkpoint.")],
    out: OutOption,
    weights: Annotated[
        Weights | None,
        typer.Option("--weights", help="The weights to take. Default: ema if the checkpoint has them, else model."),
    ] = None,
    index: Annotated[
        Index,
        typer.Option(
            "--index", help="Position indices: recomputed as in training, or stored as in the authors' evaluation."
        ),
    ] = Index.RECOMPUTED,
) -> None:
    """Convert a checkpoint of the paper's authors to a supernet file. Every tensor is accounted for, no code is run."""
    from elasticvit.moonlit import importer

    with errors():
        assert origin is Origin.MOONLIT
        report = importer.import_checkpoint(file, out, weights, index)
        typer.echo(f"elasticvit: took the {report.weights.upper()} weights ({report.choice})", err=True)
        say(asdict(report) | {"supernet": str(out)})


@app.command()
def evaluate(
    archs: Annotated[list[str], typer.Option("--arch", help="A network, named as for `export`; may be repeated.")],
    supernet: Annotated[Path, typer.Option("--supernet", help="The supernet file with the weights.")],
) -> None:
    """Measure the accuracy of sub-networks on held-out images that the supernet's card names and that chose nothing."""
    from elasticvit.nn.supernet_file import read_card
    from elasticvit.training import run

    with errors():
        chosen = [find_arch(arch, read_card(supernet)[0]) for arch in archs]
        measured = run.evaluate(supernet, chosen)
        say([{"arch_id": arch.id} | _printed(accuracy) for arch, accuracy in zip(chosen, measured, strict=True)])


def _printed(accuracy: "Accuracy") -> dict[str, object]:
    """`lower` and `upper` are the 95 % interval of `top1`."""
    values = {name: value for name, value in asdict(accuracy).items() if name not in ("value", "source")}
    return {"top1": accuracy.value} | values


@app.command()
def tabulate(
    supernet: Annotated[Path, typer.Argument(help="The supernet file.")],
    n: Annotated[int, typer.Option("--n", min=8, help="Number of sub-networks, of all sizes.")] = 600,
    best: Annotated[
        int, typer.Option("--best", min=0, help="Number of further ones, predicted best from the first.")
    ] = 60,
    processes: Annotated[int, typer.Option("--processes", min=1, help="Processes, with one thread each.")] = 1,
) -> None:
    """Evaluate sub-networks for the accuracy table beside a supernet file, which search needs. After Ctrl-C run the
    same command to resume."""
    from elasticvit.accuracy.table import AccuracyTable
    from elasticvit.accuracy.tabulate import tabulate_file
    from elasticvit.errors import StoppedError
    from elasticvit.progress import bars
    from elasticvit.training.run import stop_on_signals

    with errors(), stop_on_signals() as stop, bars() as report:
        try:
            table = tabulate_file(supernet, n, processes, report, stop, best, say=_warn)
            say({"table": str(table), "evaluated": len(AccuracyTable.load(table).top1)})
        except StoppedError as stopped:
            _warn(f"{stopped}; run the same command to resume")


def _warn(message: str) -> None:
    typer.echo(f"elasticvit: {message}", err=True)


@app.command()
def pack(
    supernet: Annotated[Path, typer.Argument(help="The supernet file; its training images are needed.")],
    out: OutOption,
    images: Annotated[int, typer.Option("--images", min=2, help="Calibration images to store.")] = 128,
    steps: Annotated[
        int, typer.Option("--steps", min=0, help="Optimisation steps for these images; 0: crops of photographs.")
    ] = 1000,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
) -> None:
    """Write a supernet file for distribution: in half precision, with synthetic calibration images and the terms of use
    of the training images."""
    from elasticvit.atomic import check_out
    from elasticvit.pretrained import pack as packing
    from elasticvit.progress import bars

    with errors(), bars() as report:
        check_out(out, [supernet], parents=True)
        say(packing.pack(supernet, out, k=images, steps=steps, seed=seed, report=report))


@app.command()
def front(
    supernet: Annotated[Path, typer.Argument(help="The supernet file, with its accuracy table beside it.")],
    points: Annotated[int, typer.Option("--points", min=2, help="Number of size steps.")] = 12,
    candidates: Annotated[int, typer.Option("--candidates", min=1, help="Networks to evaluate for each point.")] = 6,
    processes: Annotated[int, typer.Option("--processes", min=1, help="Processes, with one thread each.")] = 1,
) -> None:
    """Print the best sub-networks of every size, selected on held-out training images, measured on test images."""
    from elasticvit.accuracy import front as fronts
    from elasticvit.progress import bars

    with errors(), bars() as report:
        say(fronts.front(supernet, points, candidates, processes, report=report).to_dict())
