"""The commands behind export: recipes of int8 weights, and probes. `app` is mounted among the others."""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from elasticvit.cli.arguments import find_space
from elasticvit.cli.console import OutOption, errors, say
from elasticvit.errors import ExportError

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def recipe(
    of: Annotated[str, typer.Argument(help="The space paper or small, with random weights, or a supernet file.")],
    out: OutOption,
    version: Annotated[int, typer.Option("--version", min=1, help="Version number to write into the recipe.")] = 1,
    rounds: Annotated[
        int, typer.Option("--rounds", min=3, help="Rounds of measuring; give more on a busy machine.")
    ] = 15,
    max_drop: Annotated[
        float, typer.Option("--max-accuracy-drop", min=0, max=1, help="Largest mean loss of top-1: 0.01 is 1 %.")
    ] = 0.01,
) -> None:
    """Find which operators gain by int8 weights on this machine, for `export --recipe`. Leave it idle meanwhile."""
    from elasticvit.atomic import check_out
    from elasticvit.export.quantize.make_recipe import make_recipe
    from elasticvit.progress import bars

    with errors(), bars() as report:
        check_out(out, [Path(of)])
        made = make_recipe(of, out, version, rounds, max_drop, report)
        drop = made.drop()
        timed = {net.arch_id: round(net.float32_ms / net.mixed_ms, 3) for net in made.timed}
        say(
            {"recipe": made.id, "file": str(out), "groups": len(made.groups), "tried": len(made.gains)}
            | {"float32_over_mixed": timed, "mean_top1_drop": drop}
        )


@app.command()
def probes(
    out: Annotated[Path, typer.Option("--out", help="A folder; files in it with the same names are replaced.")],
    space: Annotated[
        str, typer.Option("--space", help="The space: paper, small, or that of a supernet file.")
    ] = "small",
    blocks: Annotated[int, typer.Option("--blocks", min=0, help="Number of single blocks to export.")] = 100,
    subnets: Annotated[int, typer.Option("--subnets", min=0, help="Number of whole networks to export.")] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
) -> None:
    """Write blocks and networks with random weights as .tflite files to be timed, and probes.jsonl, a list of them."""
    from elasticvit.atomic import make_folder, write_atomically
    from elasticvit.costs.flops import block_macs, macs
    from elasticvit.export import export_net
    from elasticvit.export.block_probes import choose_blocks, probe_blocks
    from elasticvit.nn.random_net import random_net
    from elasticvit.progress import Step, bars

    with errors(), bars() as report:
        chosen, rng = find_space(space), np.random.default_rng(seed)
        make_folder(out)
        lines = []
        drawn = choose_blocks(chosen, blocks, rng) if blocks else ()
        for probe in probe_blocks(drawn, lambda done, total: report(Step("blocks", done, total))):
            file = f"{probe.block.key}.tflite"
            write_atomically(out / file, probe.tflite, error=ExportError)
            lines.append({"kind": "block", "key": probe.block.key, "macs": block_macs(probe.block), "file": file})
        for i, code in enumerate(chosen.sample(rng, subnets)):
            arch = chosen.decode(code)
            data = export_net(random_net(arch, seed), None).tflite
            write_atomically(out / f"{arch.id}.tflite", data, error=ExportError)
            lines.append({"kind": "subnet", "key": arch.id, "macs": macs(arch), "file": f"{arch.id}.tflite"})
            report(Step("networks", i + 1, subnets))
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_atomically(out / "probes.jsonl", text.encode(), error=ExportError)
        say({"folder": str(out), "blocks": len(drawn), "subnets": subnets})
