"""The runs of a study: what each is started with, where it lies, and how far it is.

OUTPUT/[<case>/]<arm>/seed<seed>[_budget<share>]/run.toml     what runs
                                        job.json     the queue's word on it
                                        output.txt   what it printed
OUTPUT/replaced/...                                  runs whose settings are no longer the study's
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, cast, get_args

from data_efficiency import ConfigError, files
from data_efficiency.differences import differing_leaves
from megatron.arguments import run_config_from
from megatron.config import RUN_KINDS, AnyRunConfig
from megatron.nested_keys import merged
from megatron.recipes import SHIPPED, Layer, layer_of, read_run_file, write_run_file
from megatron.reporting import RUN_FILE
from megatron.study.fairness import unlike
from megatron.study.results import RESULT_LINES, RunResult, read_result, read_results
from megatron.study.stages import how_it_is_made, what_runs_share
from megatron.study.study_file import Arm, Settings, Study, filled, read_study, scaled_by

JOB_FILE = "job.json"
OUTPUT_FILE = "output.txt"
REPLACED = "replaced"
State = Literal["waiting", "running", "stopped", "failed", "finished"]
_WITHOUT = "delete this file, and the run goes on from its last checkpoint"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a study."""

    arm: Arm
    seed: int
    budget: float
    folder: Path
    config: AnyRunConfig
    case: str = ""
    """Value of the setting of the study's `[each]`."""
    case_settings: Settings = field(default_factory=dict)
    """That setting."""
    measure: str | None = None
    """Name of what it is judged by."""
    shared: str = ""
    """What stands for the corpus and the rest that stages made for all runs."""
    made_by: str = ""
    """What stands for the commands of those stages."""
    kept: RunResult | None = None
    """Its result in the study's `results`, from a run of these settings."""

    @property
    def name(self) -> str:
        """For people."""
        budget = "" if self.budget == 1 else f", budget {self.budget:g}"
        return f"{self.label}, seed {self.seed}{budget}"

    @property
    def label(self) -> str:
        """Case and arm, for people."""
        return f"{self.case}: {self.arm.name}" if self.case else self.arm.name

    @property
    def key(self) -> tuple[str, int, float]:
        """Arm, seed and budget: one of its case."""
        return self.arm.name, self.seed, self.budget

    @property
    def settings(self) -> dict[str, Any]:
        """All settings, by groups."""
        return asdict(self.config)

    @property
    def defaults(self) -> dict[str, Any]:
        """What settings are that nobody gives, by groups, and what else a run has by itself."""
        found = _defaults_of(self.config)
        groups = {name: getattr(self.config, name) for name in vars(self.config)}
        return found | {
            name: _defaults_of(group) for name, group in groups.items() if is_dataclass(group)
        }

    @cached_property
    def run_file(self) -> str:
        """The text of its run file."""
        return write_run_file(self.config, self.name)

    @property
    def checksum(self) -> str:
        """Of the settings that were given, whatever their order, and of what the run trains on."""
        given = [*differing_leaves(self.defaults, self.settings)]
        text = json.dumps([given, self.shared])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def record(self) -> dict[str, Any]:
        """What the queue wrote last: state, run file's checksum, attempts, seconds, exit code."""
        path = self.folder / JOB_FILE
        if not path.is_file():
            return {"state": "waiting", "run_file": self.checksum, "attempts": 0, "seconds": 0.0}
        found: dict[str, Any] = files.read_json_object(path)
        for key, kind in (("run_file", str), ("attempts", int), ("seconds", (int, float))):
            if not isinstance(found.get(key), kind):
                raise ValueError(f"{path}: {key} is {found.get(key)!r}; {_WITHOUT}")
        if found.get("state") not in get_args(State):
            raise ValueError(f"{path}: state is {found.get('state')!r}; {_WITHOUT}")
        return found

    def write(self, **changes: Any) -> None:
        """Change the queue's word on the run."""
        record = {**self.record(), "run_file": self.checksum, **changes}
        files.write_file(self.folder / JOB_FILE, json.dumps(record) + "\n")

    @property
    def is_outdated(self) -> bool:
        """Whether the folder holds a run of other settings or of another corpus."""
        return self.folder.exists() and self.record()["run_file"] != self.checksum

    @property
    def state_here(self) -> State:
        """How far the run in the folder is; one of other settings does not count."""
        return "waiting" if self.is_outdated else cast(State, self.record()["state"])

    @property
    def state(self) -> State:
        """How far the run is; where its result is kept it is finished."""
        return self.state_here if self.kept is None else "finished"

    def result(self) -> RunResult:
        """What a finished run says.

        Raises:
            ValueError: if its last loss is no finite number.
        """
        if self.kept is not None and self.state_here != "finished":
            return self.kept
        found = read_result(
            self.folder,
            arm=self.arm.name,
            budget=self.budget,
            scoring_flops=self.arm.scoring_flops,
            measure=self.measure,
        )
        return replace(found, made_by=self.made_by)

    def name_in(self, output: Path) -> str:
        """One for files: the parts of its folder below the study's."""
        return "_".join(self.folder.relative_to(output).parts)

    def set_up(self, output: Path) -> Path | None:
        """Make the folder ready, with its run file; a run of other settings is put aside.

        Args:
            output: folder of the study.

        Returns:
            Where an outdated run went; None if there was none.
        """
        aside = None
        if self.is_outdated:
            aside = _free_name(output / REPLACED / self.name_in(output))
            aside.parent.mkdir(parents=True, exist_ok=True)
            os.rename(self.folder, aside)
        self.folder.mkdir(parents=True, exist_ok=True)
        files.write_file(self.folder / RUN_FILE, self.run_file)
        return aside


def _free_name(path: Path) -> Path:
    """The path with the first number behind it that is not taken."""
    number = 1
    while path.with_name(f"{path.name}_{number}").exists():
        number += 1
    return path.with_name(f"{path.name}_{number}")


def jobs_of(study: Study) -> list[Job]:
    """All runs, seed by seed, so that a study that is stopped early has whole comparisons.

    Raises:
        ConfigError: for a base or an arm that is no run, by the place of the fault.
    """
    study = _as_its_pilot_says(study)
    base, kept = base_of(study), _kept_results(study)
    shared, made_by = what_runs_share(study), how_it_is_made(study)
    seeds = dict.fromkeys(
        [*study.seeds, *(s for arm in study.arms.values() for s in study.seeds_of(arm))]
    )
    jobs = [
        replace(_job(study, base, arm, seed, budget, case), shared=shared, made_by=made_by)
        for seed in seeds
        for case in study.cases
        for arm in study.arms.values()
        if seed in study.seeds_of(arm)
        for budget in arm.budgets
    ]
    return [replace(job, kept=_kept_of(job, kept)) for job in jobs]


def pilot_of(study: Study) -> list[Job]:
    """The runs of a study's pilot, which reads the same text and is made with the same values; none without one.

    Raises:
        ConfigError: if the pilot has no `[each]`, or a pilot of its own.
        FileNotFoundError: if there is no such file.
    """
    if not study.pilot:
        return []
    path = study.path.parent / study.pilot
    own = read_study(path).values.keys() - {"output"}
    shared = {name: text for name, text in study.values.items() if name in own}
    pilot = read_study(path, values=shared)
    place = f"{study.path.name}: [study] pilot is {study.pilot!r}"
    if "" in pilot.cases:
        raise ConfigError(f"{place}: it needs an [each], the values to choose from")
    if pilot.pilot:
        raise ConfigError(f"{place}: it has a pilot itself")
    return jobs_of(pilot)


def _as_its_pilot_says(study: Study) -> Study:
    """The study with the best value of its pilot in each arm that has all its runs there.

    An arm that is not in the pilot has the value of the last one that it is like.
    """
    best = _best_settings(pilot_of(study))
    arms = dict(study.arms)
    for name, arm in arms.items():
        found = next((best[one] for one in (name, *reversed(arm.like)) if one in best), {})
        arms[name] = replace(arm, settings=merged(arm.settings, found))
    return replace(study, arms=arms)


def runs_left(jobs: Sequence[Job]) -> list[Job]:
    """The runs that have neither finished nor failed."""
    return [job for job in jobs if job.state not in ("finished", "failed")]


def _best_settings(jobs: Sequence[Job]) -> dict[str, Settings]:
    """Arm -> the setting of the case with the best mean, for the arms all of whose runs are over.

    A case with a run that failed, or whose last loss is no finite number, is not chosen.
    """
    runs: dict[str, dict[str, list[Job]]] = {}
    for job in jobs:
        runs.setdefault(job.arm.name, {}).setdefault(job.case, []).append(job)
    found = {}
    for arm, cases in runs.items():
        if any(runs_left(same) for same in cases.values()):
            continue
        means = {case: _mean_loss(same) for case, same in cases.items()}
        best = min(means, key=means.__getitem__)
        if means[best] < math.inf:
            found[arm] = cases[best][0].case_settings
    return found


def _mean_loss(jobs: Sequence[Job]) -> float:
    """The mean of what runs are judged by, less is better; infinite where one has no result."""
    try:
        results = [job.result() for job in jobs if job.state == "finished"]
    except ValueError:
        return math.inf
    if len(results) < len(jobs):
        return math.inf
    return fmean(-one.value if one.measure.higher_is_better else one.value for one in results)


def _defaults_of(settings: Any) -> dict[str, Any]:
    return {one.name: one.default for one in fields(settings) if one.default is not MISSING}


def _kept_results(study: Study) -> dict[Any, RunResult]:
    """Case and key of a job -> its result in the study's `results`."""
    found: dict[Any, RunResult] = {}
    folder = study.results_folder
    for case in study.cases:
        if folder is None:
            return {}
        path = folder / case / RESULT_LINES
        for one in read_results(path) if path.is_file() else ():
            found[case, one.arm, one.seed, one.budget] = one
    return found


def _kept_of(job: Job, kept: Mapping[Any, RunResult]) -> RunResult | None:
    """The kept result of a job, if it is of a run with these settings, on this corpus, by this measure."""
    found = kept.get((job.case, *job.key))
    if found is None or job.measure not in (None, found.measure.name):
        return None
    if found.made_by != job.made_by:
        return None
    return None if unlike(job.settings, found, job.defaults) else found


def base_of(study: Study) -> Layer:
    """The run file that every arm starts from."""
    name = filled(study.base, study.values)
    beside = study.path.parent / name
    return read_run_file(SHIPPED, str(beside) if beside.is_file() else name)


def _job(study: Study, base: Layer, arm: Arm, seed: int, budget: float, case: str) -> Job:
    share = "" if budget == 1 else f"_budget{budget:g}"
    folder = study.output / case / arm.name / f"seed{seed}{share}"
    place = f"{study.path.name}: [arms.{arm.name}]"
    kind = RUN_KINDS[base.architecture or "gpt"]
    both = base.under(layer_of(study.cases[case], f"{study.path.name}: [each]", kind))
    both = both.under(layer_of(arm.settings, place, kind))
    values = {**study.values, "seed": str(seed)}
    both = Layer(
        architecture=both.architecture,
        settings=scaled_by(filled(both.settings, values), budget, study.scaled),
        sections=scaled_by(filled(both.sections, values), budget, study.scaled),
    )
    own = {
        "seed": seed,
        "save": str(folder),
        "load": str(folder),
        "allow_missing_checkpoint": True,
    }
    own = {name: value for name, value in own.items() if name in kind.table_of}
    whole = both.under(Layer(settings=own))
    config = run_config_from(whole.settings, whole)
    return Job(
        arm=arm,
        seed=seed,
        budget=budget,
        folder=folder,
        config=config,
        case=case,
        case_settings=study.cases[case],
        measure=study.measure or None,
    )
