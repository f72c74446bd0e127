"""What shows a run outside its log: TensorBoard, Weights & Biases, Trackio and MLflow.

A tracker is given the lines of log.jsonl, each once, whatever happened in between: `trackers.json` beside
the log says what a tracker calls the run, so a resumed run goes on there. TensorBoard's events are
written anew from the log; the others keep what they were given, and get the steps that follow. Only
process 0 opens trackers. The three services are spoken to through accelerate.
"""

import importlib
import json
import math
import os
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from data_efficiency import files

RUN_FILE = "run.toml"
"""In a run's folder: what ran, and repeats it."""

Record = Mapping[str, Any]

TRACKERS_FILE = "trackers.json"
EVENTS_FOLDER = "tensorboard"
PACKAGES = {
    "tensorboard": ("torch.utils.tensorboard", "report"),
    "wandb": ("wandb", "wandb"),
    "trackio": ("trackio", "trackio"),
    "mlflow": ("mlflow", "mlflow"),
}
"""Tracker -> what must be importable, and the extra that brings it."""
# What is shown of each kind of line, and the counters it is shown against.
SCALARS = {
    "train": (
        "loss",
        "learning_rate",
        "grad_norm",
        "sequence_length",
        "kept_length",
        "actual_seq_length",
        "pool_size",
        "stage",
        "step_samples",
        "tokens_per_second",
        "flops_per_second",
    ),
    "valid": ("loss", "perplexity", "bits_per_byte"),
}
CLOCKS = ("step", "corpus_tokens", "effective_tokens")


class Tracker(Protocol):
    """One of them, open on a run."""

    id: str
    """What it calls the run."""

    def describe(self, settings: Mapping[str, Any], run_file: Path) -> None:
        """Show what the run is, after each start anew."""

    def log(self, values: Mapping[str, float], texts: Mapping[str, str], record: Record) -> None:
        """Show numbers and texts of a line of the log."""

    def finish(self) -> None:
        """Write out what is left."""


class TensorBoard:
    """One TensorBoard run a run, with each number against each clock."""

    id = EVENTS_FOLDER

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  an optional extra

        for events in (folder / EVENTS_FOLDER).glob("events.out.tfevents.*"):
            events.unlink()
        # A TensorBoard that looks on forgets what it has read of the files before.
        self._writer = SummaryWriter(str(folder / EVENTS_FOLDER), purge_step=0)

    def describe(self, settings: Mapping[str, Any], run_file: Path) -> None:
        """As `Tracker.describe`; the run file has all settings."""
        if run_file.is_file():
            self._writer.add_text(run_file.name, _block(run_file.read_text(encoding="utf-8")))

    def log(self, values: Mapping[str, float], texts: Mapping[str, str], record: Record) -> None:
        """As `Tracker.log`."""
        for clock in CLOCKS:
            for name, value in values.items():
                tag = f"{name} by {clock.replace('_', ' ')}"
                self._writer.add_scalar(tag, value, int(record[clock]))
        for name, text in texts.items():
            self._writer.add_text(name, _block(text), record["step"])
        self._writer.flush()

    def finish(self) -> None:
        """As `Tracker.finish`."""
        self._writer.close()


class Service:
    """Weights & Biases, Trackio or MLflow.

    Args:
        known_as: what the tracker called the run before; None for a new one.
    """

    def __init__(self, name: str, folder: Path, project: str, known_as: str | None) -> None:
        tracking = _accelerate_tracking()
        self.id = known_as or secrets.token_hex(8)
        title = f"{'/'.join(folder.resolve().parts[-2:])}-{self.id}"
        if name == "wandb":
            self._tracker = tracking.WandBTracker(
                project, id=self.id, name=title, dir=str(folder), resume="allow"
            )
        elif name == "trackio":
            self._tracker = tracking.TrackioTracker(project, name=title, resume="allow")
        else:
            self._tracker = tracking.MLflowTracker(project, run_id=known_as, run_name=title)
        self._tracker.start()
        self._is_mlflow, self._is_new = name == "mlflow", known_as is None
        if self._is_mlflow:
            self.id = self._tracker.tracker.info.run_id

    def describe(self, settings: Mapping[str, Any], run_file: Path) -> None:
        """As `Tracker.describe`."""
        found = dict(_flat(settings, ""))
        if not self._is_mlflow:
            run_file_text = run_file.read_text(encoding="utf-8") if run_file.is_file() else ""
            found[run_file.name] = run_file_text
        elif run_file.is_file():
            self._tracker.log_artifact(str(run_file))
        if self._is_new or not self._is_mlflow:
            # Parameters of MLflow's never change.
            self._tracker.store_init_configuration(found)

    def log(self, values: Mapping[str, float], texts: Mapping[str, str], record: Record) -> None:
        """As `Tracker.log`; the other clocks are numbers of their own."""
        step = record["step"]
        clocks = {clock: record[clock] for clock in CLOCKS[1:] if values}
        if self._is_mlflow:
            import mlflow  # noqa: PLC0415  an optional extra

            for name, text in texts.items():
                mlflow.log_text(text, f"{name}/step_{step:09}.txt")
        else:
            values = {**values, **texts}  # type: ignore[dict-item]
        if values:
            self._tracker.log({**values, **clocks}, step=step)

    def finish(self) -> None:
        """As `Tracker.finish`."""
        self._tracker.finish()


class Trackers:
    """The trackers of a run.

    Args:
        folder: of the run; its run file is shown where it is there.
        project: that the services keep the run under.
        settings: of the run as it is started now.
        log: the lines so far.
        last_step: of the log before a resume cut it; None for a run that is new in this folder.
        say: prints a line.

    Raises:
        ModuleNotFoundError: if one is not installed.
        ValueError: if one cannot be opened.
    """

    def __init__(
        self,
        names: Iterable[str],
        folder: Path,
        project: str,
        *,
        settings: Mapping[str, Any],
        log: Iterable[Record],
        last_step: int | None,
        say: Callable[[str], None],
    ) -> None:
        self._path, self._say = folder / TRACKERS_FILE, say
        is_known = last_step is not None and self._path.is_file()
        self._known: dict[str, dict[str, Any]] = (
            files.read_json_object(self._path) if is_known else {}
        )
        for entry in self._known.values():
            # The others have what the log had.
            entry.setdefault("until", last_step)
        self._open: dict[str, Tracker] = {}
        self._until = dict.fromkeys(names, -1)
        for name in self._until:
            entry = self._known.get(name, {})
            tracker = _opened(name, folder, project, entry.get("id"), settings)
            self._open[name] = tracker
            if name != "tensorboard":
                self._until[name] = entry.get("until", -1)
                self._known[name] = {"id": tracker.id}
        self._write()
        for record in log:
            self.send(record)

    def send(self, record: Record) -> None:
        """Show a line of the log to those that have not had its step.

        One that fails is left, with a warning: it is no reason to lose the run.
        """
        for name, tracker in list(self._open.items()):
            if record.get("step", 0) <= self._until[name]:
                continue
            try:
                values, texts = _shown(record)
                if values or texts:
                    tracker.log(values, texts, record)
            except Exception as error:
                self._say(f"warning: {name} gets no more of this run: {_line(error)}")
                del self._open[name]
                if name in self._known:
                    self._known[name]["until"] = record["step"] - 1
                    self._write()

    def close(self) -> None:
        """Write out what is left."""
        for name, tracker in self._open.items():
            try:
                tracker.finish()
            except Exception as error:
                self._say(f"warning: {name} may lack the end of this run: {_line(error)}")

    def _write(self) -> None:
        if not self._known:
            self._path.unlink(missing_ok=True)
        else:
            files.write_file(self._path, json.dumps(self._known, indent=1) + "\n")


def _opened(
    name: str, folder: Path, project: str, known_as: str | None, settings: Mapping[str, Any]
) -> Tracker:
    package, extra = PACKAGES[name]
    try:
        importlib.import_module(package)
        tracker: Tracker = (
            TensorBoard(folder)
            if name == "tensorboard"
            else Service(name, folder, project, known_as)
        )
        tracker.describe(settings, folder / RUN_FILE)
    except ImportError as error:
        raise ModuleNotFoundError(
            f"--trackers names {name}, which is not installed ({error}): pip install "
            f"'data-efficiency[{extra}]', or leave it out"
        ) from error
    except Exception as error:
        raise ValueError(
            f"--trackers names {name}, which cannot be opened ({_line(error)}): set it up as its own "
            "documentation says, or leave it out"
        ) from error
    return tracker


def _accelerate_tracking() -> Any:
    """The module accelerate.tracking, ready for use in process 0.

    It asks accelerate's state which process this is. Made while the launcher's variable is out of sight,
    that state is of one process, and sets up no device and no process group beside ours.
    """
    from accelerate import PartialState, tracking  # noqa: PLC0415  an optional extra

    local_rank = os.environ.pop("LOCAL_RANK", None)
    try:
        PartialState()
    finally:
        if local_rank is not None:
            os.environ["LOCAL_RANK"] = local_rank
    return tracking


def _shown(record: Record) -> tuple[dict[str, float], dict[str, str]]:
    """The finite numbers and the texts of a line that are shown, by name."""
    kind = record["kind"]
    names = (*SCALARS[kind], *(n for n in record if n.endswith("_loss"))) if kind in SCALARS else ()
    values = {f"{kind}/{name}": record[name] for name in names if record.get(name) is not None}
    texts = {
        f"{kind}/{number}": f"{text['prompt']}{text['continuation']}"
        for number, text in enumerate(record.get("texts", ()))
    }
    return {name: value for name, value in values.items() if math.isfinite(value)}, texts


def _flat(table: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
    """A table's values by their whole names, such as training.lr; lists as texts."""
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            plain = isinstance(value, (bool, int, float, str))
            yield f"{prefix}{name}", value if plain else " ".join(map(str, value))


def _block(text: str) -> str:
    """A text that Markdown shows as it is."""
    return re.sub("^", "    ", text, flags=re.MULTILINE)


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
