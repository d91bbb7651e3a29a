"""The external teacher of all methods: the largest network of the space, trained alone from labels."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from elasticvit.costs.flops import paper_mflops
from elasticvit.data.image_set import ImageSet
from elasticvit.nn.device import best_device
from elasticvit.nn.net import Net
from elasticvit.nn.net_file import write_net
from elasticvit.progress import Report, Stop
from elasticvit.training.ablation.files import RunFiles
from elasticvit.training.ablation.plan import Plan
from elasticvit.training.ablation.records import TeacherTrained
from elasticvit.training.ablation.supernet_run import Evaluator
from elasticvit.training.ablation.work import Work, spent
from elasticvit.training.loop import train_plain
from elasticvit.training.losses import Loss, Teacher
from elasticvit.training.recipes import card
from elasticvit.training.teachers import load_teacher

TEACHER_SEED = 2000
TEACHER_FILE = "teacher.safetensors"


def train_teacher(plan: Plan, data: ImageSet, out: Path, files: RunFiles, report: Report, stop: Stop) -> TeacherTrained:
    """Train the teacher into a file in the folder `out`, with batch-norm statistics recalibrated. Raises what
    `train_plain` does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(TEACHER_SEED)
        net = Net(plan.space.largest())
    # `train_plain` reads nothing of how sub-networks are chosen.
    recipe = replace(plan.recipe("adjacent", (), TEACHER_SEED, len(data.train)), name="ablation-teacher", loss=Loss())
    work = Work(files.work, lambda: 0)
    train_plain(net, recipe, data, checkpoint=files.checkpoint, report=report, stop=stop, logs=work)
    began, evaluator = time.perf_counter(), Evaluator.of(data)
    net = evaluator.ready(net)
    search, val = evaluator.top1(net, data.search), evaluator.top1(net, data.val)
    write_net(net.cpu(), card(recipe, data), out / TEACHER_FILE)
    seconds = spent(files.work).seconds + time.perf_counter() - began
    return TeacherTrained(paper_mflops(net.arch), plan.steps, search, val, seconds)


def teachers_of(plan: Plan, data: ImageSet, out: Path) -> Sequence[Teacher]:
    """The teachers of the plan's methods: one on the best device, or none.

    Raises:
        DataError: the file of the teacher is missing or another's.
    """
    return [load_teacher(out / TEACHER_FILE, data, best_device())] if plan.teacher else []
