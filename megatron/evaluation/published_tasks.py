"""The task sets of the published GPT evaluations: which tasks, in which jobs, by which metric.

Source: DeepSpeed Data Efficiency (Li et al., 2022), section 4.1: 19 tasks zero-shot and with 10
examples, WikiText-2 zero-shot beside them. Differs: names and prompts are those of today's lm-eval, not
of its version 0.2, so numbers of the two don't compare exactly.
"""

import difflib
from collections.abc import Sequence

from megatron.evaluation import gpt3_results

_ONE_JOB_EACH = (
    "record triviaqa hellaswag arc_challenge arc_easy race multirc openbookqa lambada_openai webqs "
    "winogrande piqa"
)
ZERO_SHOT_ROWS: tuple[tuple[str, ...], ...] = (
    *((task,) for task in _ONE_JOB_EACH.split()),
    ("anli_r1", "anli_r2", "anli_r3"),
    ("boolq", "copa"),
    ("rte", "wsc"),
    ("wikitext",),
)
"""The tasks of one job each: about equally long."""
FEW_SHOT_ROWS: tuple[tuple[str, ...], ...] = (
    *ZERO_SHOT_ROWS[:12],
    ("anli_r1", "anli_r2"),
    ("anli_r3",),
    *ZERO_SHOT_ROWS[13:15],
)
LOCAL_ROWS: tuple[tuple[str, ...], ...] = (
    ("local_lambada_openai",),
    ("local_piqa",),
    ("local_boolq", "local_copa"),
    ("local_arc_easy",),
    ("local_arc_challenge", "local_openbookqa"),
    ("local_wsc273",),
    ("local_wikitext",),
)
"""Those of `local_tasks.py`."""
ROWS = {
    "published_zero_shot": ZERO_SHOT_ROWS,
    "published_few_shot": FEW_SHOT_ROWS,
    "local": LOCAL_ROWS,
    "local_few_shot": LOCAL_ROWS[:-1],
}
"""Set -> its rows; a perplexity takes no examples."""

COLUMNS = tuple(gpt3_results.ZERO_SHOT)
"""The 19 tasks of the average, in the published order."""
NEEDS_HARNESS = "evaluation needs lm-eval: pip install 'data-efficiency[eval]'"
_METRICS = {
    **dict.fromkeys(("hellaswag", "piqa", "arc_challenge", "arc_easy", "openbookqa"), "acc_norm"),
    **dict.fromkeys(("triviaqa", "webqs"), "exact_match"),
    "record": "f1",
    "wikitext": "word_perplexity",
}


def published_name(task: str) -> str:
    """A task's name without the mark of local data."""
    return task.removeprefix("local_")


def metric_of(task: str) -> str:
    """The metric that the published tables show for a task.

    Example:
        >>> metric_of("local_piqa"), metric_of("copa")
        ('acc_norm', 'acc')
    """
    return _METRICS.get(published_name(task), "acc")


def expand(names: Sequence[str]) -> list[str]:
    """Tasks, with the name of a set replaced by its tasks; each once, in order.

    Raises:
        ValueError: if a name is that of a local task that there is not.

    Example:
        >>> expand(["piqa", "local"])[:2]
        ['piqa', 'local_lambada_openai']
    """
    tasks: dict[str, None] = {}
    local = [task for row in LOCAL_ROWS for task in row]
    for name in names:
        rows = ROWS.get(name, ((name,),))
        if name.startswith("local_") and name not in (*local, *ROWS):
            near = difflib.get_close_matches(name, local, n=2) or local
            raise ValueError(
                f"--tasks names {name!r}: no such local task; near it are {', '.join(near)}"
            )
        tasks.update(dict.fromkeys(task for row in rows for task in row))
    return list(tasks)
