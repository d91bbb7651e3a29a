"""One supernet, trained with stops on the way at which it is measured.

Stopping does not change the result: the run resumes from its checkpoint bit for bit (`elasticvit.training.loop`).
The learning rate is that of the whole run, so a supernet that is measured on the way has not been annealed; a run that
was planned for as few steps would end higher.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict

from elasticvit.costs.flops import macs
from elasticvit.data.image_set import ImageSet
from elasticvit.errors import DataError, StoppedError
from elasticvit.nn.device import best_device
from elasticvit.nn.supernet import SuperNet
from elasticvit.progress import Report, Stop
from elasticvit.training.ablation.files import RunFiles
from elasticvit.training.ablation.records import Milestone, append_line, read_lines, read_milestone
from elasticvit.training.ablation.work import CountingSampler, Spent, Work, spent
from elasticvit.training.checkpoints import read_checkpoint
from elasticvit.training.distributed import World
from elasticvit.training.loop import fresh_supernet, run
from elasticvit.training.losses import Teacher
from elasticvit.training.recipes import Recipe
from elasticvit.training.sampling import Sampler


class StopAfter:
    """A `Stop` that stops after some calls, or when another one requests it, which sets `stop_requested`."""

    def __init__(self, calls: int, stop: Stop) -> None:
        self._left, self._stop = calls, stop
        self.stop_requested = False

    def __call__(self) -> bool:
        self._left -= 1
        self.stop_requested = self.stop_requested or self._stop()
        return self.stop_requested or self._left <= 0


def train_to(
    steps: int, recipe: Recipe, data: ImageSet, teachers: Sequence[Teacher], files: RunFiles, report: Report, stop: Stop
) -> SuperNet:
    """The supernet after `steps` steps of the training recipe, in eval mode; training resumes from its checkpoint.

    Raises:
        DataError: the checkpoint is past that; and what `elasticvit.training.loop.train` does.
    """
    content = read_checkpoint(files.checkpoint, recipe, len(teachers))
    done = 0 if content is None else int(content["step"])
    if done < steps:
        supernet = fresh_supernet(recipe)
        sampler = CountingSampler(
            Sampler(recipe.space, recipe.sampling), recipe.batch, len(teachers) * macs(recipe.space.largest())
        )
        until = StopAfter(steps - done, stop)
        work, world = Work(files.work, sampler.take), World(device=best_device())
        try:
            run(supernet, sampler, recipe, data, files.checkpoint, report, until, work, teachers, world)
        except StoppedError:
            if until.stop_requested:
                raise
        content = read_checkpoint(files.checkpoint, recipe, len(teachers))
    if content is None or content["step"] != steps:
        raise DataError(f"{files.checkpoint} is not at step {steps}; delete it and the files beside it of this run")
    supernet = fresh_supernet(recipe)
    supernet.load_state_dict(content["model"])
    return supernet.eval()


def way_points(
    steps: Sequence[int],
    recipe: Recipe,
    data: ImageSet,
    teachers: Sequence[Teacher],
    files: RunFiles,
    report: Report,
    stop: Stop,
    measure: Callable[[SuperNet, Spent], Milestone],
) -> tuple[Milestone, ...]:
    """Train to each of these steps, measure, and keep what was measured, so that it is not done twice. Raises what
    `train_to` does."""
    reached = {row.steps: row for row in map(read_milestone, read_lines(files.curve))}
    for step in steps:
        if step not in reached:
            supernet = train_to(step, recipe, data, teachers, files, report, stop)
            reached[step] = measure(supernet, spent(files.work))
            append_line(files.curve, asdict(reached[step]))
    return tuple(reached[step] for step in steps)
