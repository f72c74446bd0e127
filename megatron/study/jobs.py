"""The runs of a study: what each is started with, where it lies, and how far it is.

OUTPUT/<arm>/seed<seed>[_budget<share>]/run.toml     what runs
                                        job.json     the queue's word on it
                                        output.txt   what it printed
OUTPUT/replaced/...                                  runs whose settings are no longer the study's
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

from data_efficiency import files
from megatron.arguments import run_config_from
from megatron.config import RunConfig
from megatron.recipes import SHIPPED, Layer, layer_of, read_run_file, write_run_file
from megatron.reporting import RUN_FILE
from megatron.study.results import RunResult, read_result
from megatron.study.stages import what_runs_share
from megatron.study.study_file import Arm, Study, filled, scaled_by

JOB_FILE = "job.json"
OUTPUT_FILE = "output.txt"
State = Literal["waiting", "running", "stopped", "failed", "finished"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a study."""

    arm: Arm
    seed: int
    budget: float
    folder: Path
    config: RunConfig
    shared: str = ""
    """What stands for the corpus and the rest that stages made for all runs."""

    @property
    def name(self) -> str:
        """For people."""
        budget = "" if self.budget == 1 else f", budget {self.budget:g}"
        return f"{self.arm.name}, seed {self.seed}{budget}"

    @property
    def key(self) -> tuple[str, int, float]:
        """Arm, seed and budget."""
        return self.arm.name, self.seed, self.budget

    @property
    def settings(self) -> dict[str, Any]:
        """All settings, by groups."""
        return asdict(self.config)

    @cached_property
    def run_file(self) -> str:
        """The text of its run file."""
        return write_run_file(self.config, self.name)

    @property
    def checksum(self) -> str:
        """Of the run file, and of what it trains on."""
        return hashlib.sha256(f"{self.run_file}{self.shared}".encode()).hexdigest()[:16]

    def record(self) -> dict[str, Any]:
        """What the queue wrote last: state, run file's checksum, attempts, seconds, exit code."""
        path = self.folder / JOB_FILE
        if not path.is_file():
            return {"state": "waiting", "run_file": self.checksum, "attempts": 0, "seconds": 0.0}
        found: dict[str, Any] = files.read_json_object(path)
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
    def state(self) -> State:
        """How far the run is; one of other settings does not count."""
        return "waiting" if self.is_outdated else cast(State, self.record()["state"])

    def result(self) -> RunResult:
        """What a finished run says.

        Raises:
            ValueError: if its last loss is no finite number.
        """
        return read_result(
            self.folder,
            arm=self.arm.name,
            budget=self.budget,
            scoring_flops=self.arm.scoring_flops,
        )

    def set_up(self, output: Path) -> Path | None:
        """Make the folder ready, with its run file; a run of other settings is put aside.

        Args:
            output: folder of the study.

        Returns:
            Where an outdated run went; None if there was none.
        """
        aside = None
        if self.is_outdated:
            aside = _free_name(output / "replaced" / f"{self.arm.name}_{self.folder.name}")
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
    base, shared = base_of(study), what_runs_share(study)
    seeds = dict.fromkeys(
        [*study.seeds, *(s for arm in study.arms.values() for s in study.seeds_of(arm))]
    )
    return [
        replace(_job(study, base, arm, seed, budget), shared=shared)
        for seed in seeds
        for arm in study.arms.values()
        if seed in study.seeds_of(arm)
        for budget in arm.budgets
    ]


def base_of(study: Study) -> Layer:
    """The run file that every arm starts from."""
    beside = study.path.parent / study.base
    return read_run_file(SHIPPED, str(beside) if beside.is_file() else study.base)


def _job(study: Study, base: Layer, arm: Arm, seed: int, budget: float) -> Job:
    share = "" if budget == 1 else f"_budget{budget:g}"
    folder = study.output / arm.name / f"seed{seed}{share}"
    place = f"{study.path.name}: [arms.{arm.name}]"
    both = base.under(layer_of(arm.settings, place))
    both = Layer(
        architecture=both.architecture,
        settings=scaled_by(filled(both.settings, study.values), budget, study.scaled),
        sections=scaled_by(filled(both.sections, study.values), budget, study.scaled),
    )
    own = {
        "seed": seed,
        "save": str(folder),
        "load": str(folder),
        "allow_missing_checkpoint": True,
    }
    whole = both.under(Layer(settings=own))
    config = run_config_from(whole.settings, whole)
    return Job(arm=arm, seed=seed, budget=budget, folder=folder, config=config)
