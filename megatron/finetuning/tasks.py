"""The eight GLUE tasks of the published BERT results: their files, columns, labels and metrics.

Source: GLUE (Wang et al., 2018), table 1 and the columns of its TSV files. WNLI is left out, as the BERT
paper does (appendix B.1).
"""

from dataclasses import dataclass

TRAIN, DEV = "train", "dev"
MAX_SCORE = 5.0
"""Of STS-B, the one task with real values; the least is 0."""


@dataclass(frozen=True, kw_only=True)
class GlueTask:
    """What one task asks for."""

    name: str
    texts: tuple[str, ...] = ()
    """Columns of the one or two texts. Empty: recognized in the data."""
    label: str = "label"
    """Column of the label."""
    labels: tuple[str, ...] | None = None
    """Classes in the order of the model's outputs, named as in JSON lines. None with `is_regression`:
    real values; None without it: what is found in the training data, sorted."""
    codes: tuple[str, ...] | None = None
    """Classes as the TSV files write them, where not by name."""
    is_regression: bool = False
    metrics: tuple[str, ...] = ("accuracy",)
    """The first one is the task's column in the table."""
    dev_sets: tuple[str, ...] = (DEV,)
    columns: tuple[str, ...] | None = None
    """Names of the columns of TSV files without a header."""


_ENTAILMENT = ("entailment", "not_entailment")
_TASKS = (
    GlueTask(name="RTE", texts=("sentence1", "sentence2"), labels=_ENTAILMENT),
    GlueTask(
        name="MRPC",
        texts=("#1 String", "#2 String"),
        label="Quality",
        labels=("not_equivalent", "equivalent"),
        codes=("0", "1"),
        metrics=("accuracy", "f1"),
    ),
    GlueTask(
        name="STS-B",
        texts=("sentence1", "sentence2"),
        label="score",
        is_regression=True,
        metrics=("spearman", "pearson"),
    ),
    GlueTask(
        name="CoLA",
        texts=("sentence",),
        labels=("unacceptable", "acceptable"),
        codes=("0", "1"),
        metrics=("matthews", "accuracy"),
        columns=("source", "label", "mark", "sentence"),
    ),
    GlueTask(name="SST-2", texts=("sentence",), labels=("negative", "positive"), codes=("0", "1")),
    GlueTask(name="QNLI", texts=("question", "sentence"), labels=_ENTAILMENT),
    GlueTask(
        name="QQP",
        texts=("question1", "question2"),
        label="is_duplicate",
        labels=("not_duplicate", "duplicate"),
        codes=("0", "1"),
        metrics=("accuracy", "f1"),
    ),
    GlueTask(
        name="MNLI",
        texts=("sentence1", "sentence2"),
        label="gold_label",
        labels=("entailment", "neutral", "contradiction"),
        dev_sets=("dev_matched", "dev_mismatched"),
    ),
)
GLUE = {task.name: task for task in _TASKS}
"""Name, as the official folders have it, -> task, in the order of the published table."""


def task_named(name: str) -> GlueTask:
    """A GLUE task, in any case and with or without the hyphen; else a classification of your own."""
    plain = _plain(name)
    found = next((task for task in _TASKS if _plain(task.name) == plain), None)
    return found or GlueTask(name=name)


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
