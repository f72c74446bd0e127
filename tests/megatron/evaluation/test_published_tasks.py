import pytest

from megatron.evaluation.gpt3_results import FEW_SHOT, SIZES, ZERO_SHOT
from megatron.evaluation.local_tasks import LOCAL_TASKS
from megatron.evaluation.published_tasks import COLUMNS, ROWS, expand, metric_of, published_name


def test_published_sets_have_the_19_tasks():
    for name in ("published_zero_shot", "published_few_shot"):
        tasks = expand([name])
        assert len(tasks) == len(set(tasks))
        assert set(tasks) - {"wikitext"} == set(COLUMNS)
    assert len(COLUMNS) == 19
    assert "wikitext" in expand(["published_zero_shot"])
    assert "wikitext" not in expand(["published_few_shot"])


def test_local_set_has_every_local_task():
    assert set(expand(["local"])) == set(LOCAL_TASKS)
    assert set(expand(["local"])) - set(expand(["local_few_shot"])) == {"local_wikitext"}


def test_expanding_keeps_order_and_drops_repeats():
    assert expand(["copa", "local_few_shot", "copa", "local_piqa"])[:3] == [
        "copa",
        "local_lambada_openai",
        "local_piqa",
    ]
    assert len(ROWS["published_zero_shot"]) == 16


@pytest.mark.parametrize(
    ("task", "metric"),
    [("local_arc_easy", "acc_norm"), ("record", "f1"), ("wikitext", "word_perplexity")],
)
def test_metrics(task, metric):
    assert metric_of(task) == metric
    assert published_name(task) in (*COLUMNS, "wikitext")
    assert ZERO_SHOT.keys() == FEW_SHOT.keys() == set(COLUMNS)
    assert {len(row) for row in (*ZERO_SHOT.values(), *FEW_SHOT.values())} == {len(SIZES)}


def test_unknown_local_task_is_named():
    with pytest.raises(ValueError, match="'local_piqqa': no such local task; near it are local_pi"):
        expand(["piqa", "local_piqqa"])
    assert expand(["local_few_shot"])[0] == "local_lambada_openai"
