"""What several runs cost and reached, each beside a baseline.

`compare_runs` gives the numbers as one JSON-able report, `format_comparison` the same for the
terminal. Each run is judged at its last evaluation, with its counters of that moment.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from megatron.reporting.progress_line import format_count
from megatron.reporting.run_log import RunLog

Report = dict[str, Any]

# Quantity -> its two-line heading in the table. All are also given as a ratio to the baseline.
QUANTITIES = {
    "validation_loss": ("valid", "loss"),
    "validation_perplexity": ("perplex-", "ity"),
    "corpus_tokens": ("corpus", "tokens"),
    "effective_tokens": ("effective", "tokens"),
    "flops": ("model", "FLOPs"),
    "seconds": ("training", "seconds"),
    "steps": ("", "steps"),
}
CLOCKS = ("effective_tokens", "seconds")

TABLE_WIDTH = 100
NAME_WIDTH = 24
NUMBER_WIDTH = 10


def compare_runs(runs: Mapping[str, RunLog], baseline: str = "baseline") -> Report:
    """Final figures of each run, absolute and relative to the baseline.

    Returns:
        A report that JSON can hold: `baseline`, `note`, `loss` (the name of the one that is compared),
        and for each run under `runs` its `num_parameters`, `training_tokens_in_data`, `end_reason`
        (None: still running or killed), `final` quantities, `other_final_losses` by name,
        `relative_to_baseline` ratios, and `to_reach_baseline_loss`: effective tokens and training
        seconds at which the run's validation loss first was as low as the baseline's last one, with
        their ratios to the baseline's own first time. None: not reached.

    Raises:
        ValueError: The baseline is not among the runs, a run has other losses than the baseline, or no
            evaluation yet.
    """
    if baseline not in runs:
        raise ValueError(f"the baseline {baseline!r} is not among the runs: {', '.join(runs)}")
    losses = runs[baseline].losses
    for name, log in runs.items():
        if log.losses != losses:
            raise ValueError(
                f"run {name!r} has the losses {', '.join(log.losses)}, the baseline "
                f"{', '.join(losses)}: they cannot be compared"
            )
    finals = {name: final_quantities(name, log) for name, log in runs.items()}
    target = finals[baseline]["validation_loss"]
    reached = {
        name: {clock: first_crossing(log.compared, clock, target) for clock in CLOCKS}
        for name, log in runs.items()
    }
    report: Report = {"baseline": baseline, "note": "", "loss": losses[0], "runs": {}}
    for name, log in runs.items():
        report["runs"][name] = {
            "num_parameters": log.start["num_parameters"],
            "training_tokens_in_data": log.start["train_samples_in_dataset"]
            * log.start["sequence_length"],
            "sequence_length": log.start["sequence_length"],
            "end_reason": None if log.end is None else log.end["reason"],
            "final": finals[name],
            "other_final_losses": {other: log.valid[-1][f"{other}_loss"] for other in losses[1:]},
            "relative_to_baseline": ratios(finals[name], finals[baseline]),
            "to_reach_baseline_loss": {
                **reached[name],
                "relative_to_baseline": ratios(reached[name], reached[baseline]),
            },
        }
    report["note"] = note_on_evidence(report["runs"][baseline])
    return report


def final_quantities(name: str, log: RunLog) -> dict[str, float | None]:
    """The quantities of the table at a run's last evaluation."""
    if not log.valid:
        raise ValueError(
            f"run {name!r} has no evaluation in its log: let it run on, or give it a smaller "
            "--eval-interval, or a --split with documents for validation"
        )
    names = {"validation_loss": "loss", "validation_perplexity": "perplexity", "steps": "step"}
    last = log.compared[-1]
    return {quantity: last[names.get(quantity, quantity)] for quantity in QUANTITIES}


def first_crossing(
    points: Sequence[Mapping[str, Any]], clock: str, target: float | None
) -> float | None:
    """Where the loss first is at or below the target, on the line through its two neighbours.

    >>> points = [{"loss": 6.0, "seconds": 10}, {"loss": 4.0, "seconds": 20}]
    >>> first_crossing(points, "seconds", 4.5), first_crossing(points, "seconds", 3.9)
    (17.5, None)
    """
    if target is None:
        return None
    before = None
    for point in points:
        if point["loss"] is None:
            before = None
            continue
        if point["loss"] <= target:
            if before is None or point["loss"] == target:
                return point[clock]
            part = (before["loss"] - target) / (before["loss"] - point["loss"])
            return before[clock] + part * (point[clock] - before[clock])
        before = point
    return None


def ratios(
    values: Mapping[str, float | None], reference: Mapping[str, float | None]
) -> dict[str, float | None]:
    """Each value divided by the reference's; None where one is missing or the reference is 0."""
    divided: dict[str, float | None] = {}
    for key, value in values.items():
        base = reference[key]
        divided[key] = None if value is None or not base else value / base
    return divided


def note_on_evidence(baseline: Mapping[str, Any]) -> str:
    """What one seed at this size shows (nothing), and what would show something."""
    return (
        f"One seed of each variant, {format_count(baseline['num_parameters'])} parameters and "
        f"{format_count(baseline['training_tokens_in_data'])} tokens of training data prove "
        "nothing: another seed alone may move the validation loss by as much as these rows differ. "
        "Evidence would be the same comparison with five or more seeds a variant (differences well "
        "above their spread), and then again with a model and a corpus of the size you care about."
    )


def format_comparison(report: Report) -> str:
    """The report as aligned text, no line longer than 100 columns."""
    baseline = report["runs"][report["baseline"]]
    lines = [
        f"{format_count(baseline['num_parameters'])} parameters, "
        f"{format_count(baseline['training_tokens_in_data'])} tokens of training data, "
        f"sequences of {baseline['sequence_length']} tokens",
        "",
        *format_final_table(report),
        "",
        *format_crossing_table(report),
        "",
        *format_other_losses(report),
    ]
    for remark in [*remarks_on_fairness(report), report["note"]]:
        lines += textwrap.wrap(remark, TABLE_WIDTH)
    return "\n".join(lines)


def remarks_on_fairness(report: Report) -> list[str]:
    """A sentence for each run that is not finished or differs from the baseline in size or data."""
    baseline = report["runs"][report["baseline"]]
    remarks = []
    for name, run in report["runs"].items():
        for field, words in (
            ("num_parameters", "parameters"),
            ("training_tokens_in_data", "tokens of training data"),
        ):
            if run[field] != baseline[field]:
                remarks.append(f"Not a fair pair: {name} has {format_count(run[field])} {words}.")
        if run["end_reason"] is None:
            remarks.append(f"Unfinished: {name} is still running or was killed.")
    return remarks


def format_final_table(report: Report) -> list[str]:
    """One row of figures a run and, below it, one of ratios to the baseline."""
    rule = "-" * (NAME_WIDTH + NUMBER_WIDTH * len(QUANTITIES))
    headings = list(QUANTITIES.values())
    lines = [
        row("", [upper for upper, _ in headings]),
        row("run", [lower for _, lower in headings]),
        rule,
    ]
    for name, run in report["runs"].items():
        figures = [format_quantity(key, run["final"][key]) for key in QUANTITIES]
        lines.append(row(name, figures))
        if name != report["baseline"]:
            relative = run["relative_to_baseline"]
            lines.append(
                row("  of the baseline", [format_ratio(relative[key]) for key in QUANTITIES])
            )
    return [*lines, rule]


def format_crossing_table(report: Report) -> list[str]:
    """What each run needed to get to the baseline's final validation loss."""
    target = report["runs"][report["baseline"]]["final"]["validation_loss"]
    lines = [
        "To reach the baseline's final validation loss "
        f"({format_quantity('validation_loss', target)}):",
        row("run", ["eff. tok.", "ratio", "seconds", "ratio"]),
    ]
    for name, run in report["runs"].items():
        reached = run["to_reach_baseline_loss"]
        if reached["effective_tokens"] is None:
            lines.append(f"{clip(name):<{NAME_WIDTH}} not reached")
            continue
        cells = []
        for clock in CLOCKS:
            cells.append(format_quantity(clock, reached[clock]))
            cells.append(format_ratio(reached["relative_to_baseline"][clock]))
        lines.append(row(name, cells))
    return lines


def format_other_losses(report: Report) -> list[str]:
    """What the other losses were at the last evaluation; nothing where there is one loss only."""
    names = list(report["runs"][report["baseline"]]["other_final_losses"])
    if not names:
        return []
    lines = [f"The validation loss above is {report['loss']}. Further losses:", row("run", names)]
    for name, run in report["runs"].items():
        values = run["other_final_losses"].values()
        lines.append(row(name, [format_quantity("validation_loss", value) for value in values]))
    return [*lines, ""]


def format_quantity(key: str, value: float | None) -> str:
    """One figure of the table."""
    if value is None:
        return "diverged" if key.startswith("validation") else "-"
    if key == "validation_loss":
        return f"{value:.4f}"
    if key == "validation_perplexity":
        return f"{value:.2f}" if value < 1e5 else f"{value:.1e}"
    if key == "seconds":
        return f"{value:.1f}"
    if key == "steps":
        return str(value)
    return format_count(value)


def format_ratio(ratio: float | None) -> str:
    """A ratio to the baseline, three digits after the point where it is not huge."""
    if ratio is None or not math.isfinite(ratio):
        return "-"
    return f"{ratio:.3f}x" if ratio < 1000 else f"{ratio:.1e}x"


def row(name: str, cells: Sequence[str]) -> str:
    """One line of a table: the name to the left, all cells to the right of their columns."""
    return f"{clip(name):<{NAME_WIDTH}}" + "".join(f"{cell:>{NUMBER_WIDTH}}" for cell in cells)


def clip(name: str) -> str:
    """A name that fits its column."""
    return name if len(name) < NAME_WIDTH else name[: NAME_WIDTH - 2] + "~"
