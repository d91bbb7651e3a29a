"""Commands on spaces and architectures: sizes, costs, level tables."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from elasticvit.cli.arguments import find_arch, find_space
from elasticvit.cli.console import ArchOption, errors, say
from elasticvit.costs.blocks import blocks
from elasticvit.costs.flops import block_macs, block_params, macs, paper_mflops, params

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def space(
    preset: Annotated[str, typer.Argument(help="The space: paper, small, or that of a supernet file.")] = "paper",
    sample: Annotated[
        int, typer.Option("--sample", min=0, help="Print this number of random architectures instead.")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
) -> None:
    """Print a space as JSON: its dimensions, how its members are counted, its smallest and largest architecture."""
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
    by_block: Annotated[
        bool, typer.Option("--blocks", help="Also print the MACs and parameters of every block.")
    ] = False,
) -> None:
    """Print an architecture's exact MACs and parameters, and the paper's formula, as JSON."""
    with errors():
        chosen = find_arch(arch)
        answer: dict[str, object] = {"arch_id": chosen.id, "macs": macs(chosen), "params": params(chosen)}
        answer["paper_mflops"] = paper_mflops(chosen)
        if by_block:
            rows = [{"key": b.key, "macs": block_macs(b), "params": block_params(b)} for b in blocks(chosen)]
            answer["blocks"] = rows
        say(answer)


@app.command()
def tables(
    out: Annotated[Path, typer.Option("--out", help="The output folder; complete levels in it are kept.")],
    preset: Annotated[
        str, typer.Option("--space", help="The space: paper, small, or that of a supernet file.")
    ] = "paper",
    per_level: Annotated[
        int, typer.Option("--per-level", min=1, help="Number of distinct networks of each level.")
    ] = 150_000,
    level: Annotated[
        list[float] | None,
        typer.Option("--level", help="A level in MFLOPs; may be repeated. Default: the paper's eight levels."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
) -> None:
    """Sample networks by cost into level tables for training. After Ctrl-C run the same command to resume."""
    from elasticvit.costs.level_tables import build_level_tables
    from elasticvit.costs.levels import PAPER_LEVELS, floors_of
    from elasticvit.progress import bars

    with errors(), bars() as report:
        chosen = find_space(preset)
        built = build_level_tables(
            chosen,
            out,
            level or PAPER_LEVELS,
            floors=floors_of(chosen),
            per_level=per_level,
            seed=seed,
            report=report,
        )
    say(built.summary())
