"""Studies whose truth is known: results drawn from a loss law, without training."""

from pathlib import Path

import numpy as np

from megatron.study.fairness import hidden_differences
from megatron.study.report import Comparison, make_report
from megatron.study.results import AXES, RunResult
from megatron.study.study_file import Arm, Study

FRACTIONS = (0.1, 0.4, 0.7, 1.0)


def a_study(arms, **more):
    """A study of arms by name -> settings, with three seeds."""
    return Study(
        path=Path("toy.toml"),
        base="base.toml",
        output=Path("runs/toy"),
        title="Toy",
        arms={name: Arm(name=name, settings=settings) for name, settings in arms.items()},
        **{"seeds": (1, 2, 3), **more},
    )


def a_result(arm, seed, loss, *, budget=1.0, settings=None, waited=0.0, **facts):
    """A run that ends with this loss."""
    costs = dict.fromkeys(AXES, budget * 1000000.0)
    curve = tuple(
        {"value": loss + 1 - part, **{axis: part * cost for axis, cost in costs.items()}}
        for part in FRACTIONS
    )
    own = {"training": {"seed": seed}, **(settings or {})}
    return RunResult(
        arm=arm,
        seed=seed,
        budget=budget,
        value=loss,
        costs=costs,
        curve=curve,
        facts={"settings": own, "environment": {"device": "toy"}, "weights": seed, **facts},
        waited=waited,
    )


def drawn(study, rng, effects, *, noise=0.01, shared=0.05):
    """A result for each arm and seed: its effect, what the seed does to all, and the run's own noise."""
    results = []
    for seed in study.seeds:
        common = rng.normal(0, shared)
        for arm, effect in effects.items():
            results.append(
                a_result(
                    arm,
                    seed,
                    4 + effect + common + rng.normal(0, noise),
                    settings=study.arms[arm].settings,
                )
            )
    return results


def report_of(study, results, runs=None, may_differ=()):
    """As tools/study.py makes it; any arm may differ in these facts."""
    expected = {
        (one.arm, one.seed, one.budget): {
            "training": {"seed": one.seed},
            **study.arms[one.arm].settings,
        }
        for one in results
    }
    comparison = Comparison(
        title=study.title,
        arms=list(study.arms),
        baseline=study.baseline,
        beside=study.beside,
        refused=hidden_differences(
            results, expected, study.baseline, dict.fromkeys(study.arms, may_differ)
        ),
    )
    return make_report(comparison, results, listed(results) if runs is None else runs)


def listed(results):
    """The runs of results, all finished."""
    return [
        {"arm": one.arm, "seed": one.seed, "budget": one.budget, "state": "finished"}
        for one in results
    ]


def rng_of(number):
    """A generator of its own."""
    return np.random.default_rng(number)
