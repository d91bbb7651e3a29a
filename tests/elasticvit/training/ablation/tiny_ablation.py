"""An ablation that takes seconds, and results that nobody had to train."""

from dataclasses import replace

from elasticvit.training.ablation.plan import CONFIGS, Config, Plan
from elasticvit.training.ablation.records import (
    Conditions,
    FloorsFound,
    Level,
    Milestone,
    Pairs,
    Point,
    Results,
    Scratch,
    Similarity,
    SupernetRun,
)
from tests.elasticvit.training.tiny_training import tiny_space


def tiny_plan(**changes: object) -> Plan:
    plan = Plan(
        data="digits",
        space=tiny_space(),
        steps=2,
        batch=16,
        levels=(0.2, 0.4),
        band=0.1,
        smallest_to=0.2,
        floors=((0.4, 0.2),),
        searched=2,
        candidates=1,
        similar=(0.2,),
        good=2,
        spread=2,
        gradient_batch=8,
        scratch=(0.4,),
        scratch_factors=(1,),
    )
    return replace(plan, **changes)  # type: ignore[arg-type]


def tiny_fair_plan(**changes: object) -> Plan:
    """20 steps with a teacher and a measurement on the way; checkpoints fall between."""
    settings = {"name": "fair", "teacher": True, "curve": (10, 20), "meta_divisor": 4, "save_every": 3, "steps": 20}
    return tiny_plan(**settings | changes)


def made_up(plan: Plan) -> Results:
    """Results of two seeds with round numbers."""
    results = Results(Conditions(plan.identity(), "2026-01-02", "CPU", 1, "2"), FloorsFound(((0.2, (0,)),), 1.0))
    for number, config in enumerate(CONFIGS):
        results.supernet_runs += [made_up_run(plan, config, seed, 0.1 * number) for seed in (0, 1)]
    results.scratch += [Scratch(seed, target, 2, 0.2, 0.5, 1.0) for seed in (0, 1) for target in plan.scratch]
    return results


def with_curves(plan: Plan, results: Results) -> Results:
    """The same with measurements after 1 and 2 steps: 10 points less on the way, at 1 and 4 times 10^12 MACs; adjacent
    step at half of that."""
    extended = Results(results.conditions, results.floors, [], results.scratch)
    for supernet_run in results.supernet_runs:
        scale = 1 if supernet_run.config == "sandwich" else 0.5
        curve = tuple(
            Milestone(
                steps,
                round(scale * tera * 10**12),
                1.0,
                1.0,
                1.0,
                tuple(Point(level.target, level.search, round(level.val - less, 3)) for level in supernet_run.levels),
                0.1,
                0.2,
            )
            for steps, tera, less in ((1, 1.0, 0.1), (plan.steps, 4.0, 0.0))
        )
        extended.supernet_runs.append(replace(supernet_run, curve=curve))
    return extended


def made_up_run(plan: Plan, config: Config, seed: int, plus: float) -> SupernetRun:
    levels = tuple(
        Level(target, ((0,), (1,)), (0.2, 0.4), 1, round(0.3 + plus + 0.1 * seed, 3)) for target in plan.levels
    )
    similar = tuple(Similarity(target, round(0.2 + plus, 3), round(0.4 + plus, 3)) for target in plan.similar)
    pairs = Pairs((1.0, 2.0, 4.0), (0.6, 0.1, 0.3))
    return SupernetRun(config, seed, levels, 0.1, 0.2, similar, pairs, 1.0)
