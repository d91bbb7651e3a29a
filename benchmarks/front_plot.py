"""Draw the front of the default supernet, and what a latency budget buys, as `docs/front.svg`.

    python -m benchmarks.front_plot
    elasticvit demo --sweep > sweep.txt && python -m benchmarks.front_plot --sweep sweep.txt --machine "one thread of …"

Everything drawn is committed, so no images and no torch are needed:

- the front, from the table of the model card `elasticvit/pretrained/cifar10.md`, which `elasticvit front` prints;
- all evaluated sub-networks, from the accuracy table `elasticvit/pretrained/cifar10.accuracy.jsonl`;
- answers to searches with `verify` on one machine, from `docs/front.answers.json`, which `--sweep` replaces.
"""

import argparse
import io
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elasticvit import pretrained
from elasticvit.accuracy.table import AccuracyTable
from elasticvit.atomic import write_files
from elasticvit.costs.cost_table import CostTable
from elasticvit.nn.supernet_header import table_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "elasticvit" / "pretrained"
CARD = SHIPPED / f"{pretrained.DEFAULT}.md"
TABLE = table_path(SHIPPED / f"{pretrained.DEFAULT}.safetensors")
ANSWERS = ROOT / "docs" / "front.answers.json"
OUT = ROOT / "docs" / "front.svg"

# One row of the model card: MMACs, top-1 on the test images ± standard error, top-1 on the search split, architecture.
ROW = re.compile(r"^\| ([\d.]+) \| ([\d.]+) ± ([\d.]+) \| ([\d.]+) \| `([0-9a-f]+)` \|$", re.MULTILINE)
# One row of `elasticvit demo --sweep`: budget ms, measured ms, whether verified, top-1, MMACs, seconds.
SWEPT = re.compile(r"^ +([\d.]+) +([\d.]+) +(True|False) +([\d.]+)% +([\d.]+) +[\d.]+$", re.MULTILINE)
STYLE: Any = {
    "svg.hashsalt": "elasticvit",  # otherwise ids of shapes differ from run to run
    "svg.fonttype": "none",  # text stays text
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
}
FRONT_ID, EVALUATED_ID, ANSWERS_ID = "front", "evaluated", "answers"
MMACS_TICKS = (1.4, 3, 6, 12, 24, 45)


@dataclass(frozen=True)
class FrontPoint:
    """A network of the front: top-1 on the 10,000 test images and its standard error, both in percent."""

    mmacs: float
    top1_percent: float
    se_percent: float
    arch_id: str


@dataclass(frozen=True)
class Answer:
    """A verified answer to a search: its budget, what the file took, and the stated top-1 in percent."""

    budget_ms: float
    measured_ms: float
    mmacs: float
    top1_percent: float


@dataclass(frozen=True)
class Answers:
    """Answers of one machine, by rising budget; `machine` and `command` say where they come from."""

    machine: str
    command: str
    answers: tuple[Answer, ...]


def read_front(card: Path = CARD) -> tuple[FrontPoint, ...]:
    """The front as the model card lists it, by rising MACs. Raises ValueError if there is no such table."""
    points = tuple(
        FrontPoint(float(mmacs), float(top1), float(se), arch_id)
        for mmacs, top1, se, _, arch_id in ROW.findall(card.read_text("utf-8"))
    )
    if not points:
        raise ValueError(f"{card} has no table of the front")
    return points


def read_answers(file: Path = ANSWERS) -> Answers:
    data = json.loads(file.read_text("utf-8"))
    return Answers(data["machine"], data["command"], tuple(Answer(**answer) for answer in data["answers"]))


def answers_json(answers: Answers) -> str:
    """What `read_answers` reads."""
    return json.dumps(asdict(answers), indent=2, ensure_ascii=False) + "\n"


def swept_answers(printed: str, machine: str) -> Answers:
    """The verified answers in what `elasticvit demo --sweep` printed. Raises ValueError if there is none."""
    answers = tuple(
        Answer(float(budget_ms), float(measured_ms), float(mmacs), float(top1))
        for budget_ms, measured_ms, verified, top1, mmacs in SWEPT.findall(printed)
        if verified == "True"
    )
    if not answers:
        raise ValueError("there is no verified answer in this output of `elasticvit demo --sweep`")
    return Answers(machine, "elasticvit demo --sweep", answers)


def draw(front: Sequence[FrontPoint], table: AccuracyTable, answers: Answers) -> "Figure":
    """Top-1 against MACs (logarithmic axis). The series carry the ids that the SVG's groups have."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.6, 4.8), layout="constrained", facecolor="white")
    axes = figure.subplots()
    mmacs = CostTable.of_macs(table.space).total(table.codes) / 1e6
    axes.plot(
        mmacs,
        100 * table.top1,
        ".",
        color="#9a9a9a",
        markersize=3,
        gid=EVALUATED_ID,
        label=f"{len(mmacs)} evaluated networks ({table.images:,} held-out images)",
    )
    axes.errorbar(
        [point.mmacs for point in front],
        [point.top1_percent for point in front],
        [point.se_percent for point in front],
        fmt="o-",
        color="#1f77b4",
        markersize=5,
        capsize=3,
        label="front: the best network of every size (10,000 test images, ± one standard error)",
    ).lines[0].set_gid(FRONT_ID)
    _draw_answers(axes, answers)
    axes.set_xscale("log")
    axes.set_xticks(MMACS_TICKS, [f"{tick:g}" for tick in MMACS_TICKS])
    axes.minorticks_off()
    axes.set(xlabel="million multiply-accumulates (MMACs)", ylabel="top-1 accuracy, %")
    _legend(axes)
    return figure


def _draw_answers(axes: "Axes", answers: Answers) -> None:
    axes.plot(
        [answer.mmacs for answer in answers.answers],
        [answer.top1_percent for answer in answers.answers],
        "D",
        color="#d95f02",
        markersize=7,
        gid=ANSWERS_ID,
        label=f"answers: top-1 within a latency budget (on {answers.machine}, not a phone)",
    )
    for answer in answers.answers:
        axes.annotate(
            f"{answer.budget_ms:.2f} ms: {answer.top1_percent:.1f} %",
            (answer.mmacs, answer.top1_percent),
            xytext=(12, -14),
            textcoords="offset points",
            fontsize=9,
            color="#a04000",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
        )


def _legend(axes: "Axes") -> None:
    """Above the plot, where nothing is drawn; the front first."""
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: not labels[i].startswith("front"))
    axes.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        frameon=False,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        fontsize=9,
    )


def svg(figure: "Figure") -> bytes:
    """The figure as SVG; the same bytes each time with the same version of matplotlib, since it holds no date."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def main(arguments: Sequence[str]) -> int:
    """Draw the picture; the exit status. Raises ValueError, OSError, ExportError for files that cannot be used."""
    import matplotlib as mpl

    parser = argparse.ArgumentParser(prog="python -m benchmarks.front_plot", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, help="the picture (docs/front.svg)")
    parser.add_argument("--answers", type=Path, default=ANSWERS, help="the answers that are drawn, JSON")
    parser.add_argument(
        "--sweep", type=Path, help="first replace the answers by this output of `elasticvit demo --sweep`"
    )
    parser.add_argument("--machine", default="this machine", help="where the sweep was measured")
    chosen = parser.parse_args(arguments)
    if chosen.sweep:
        answers = swept_answers(chosen.sweep.read_text("utf-8"), chosen.machine)
        write_files({chosen.answers: answers_json(answers).encode()})
    with mpl.rc_context(STYLE):
        figure = draw(read_front(), AccuracyTable.load(TABLE), read_answers(chosen.answers))
        write_files({chosen.out: svg(figure)})
    sys.stderr.write(f"wrote {chosen.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
