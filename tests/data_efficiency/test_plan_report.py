import pytest

from data_efficiency.plan_report import format_plan, plot_plan
from tests.data_efficiency.test_plan import config, length_metric, plan, sorted_config
from tests.json_sections import metric, random_ltd


def test_table_shows_the_asked_steps_and_the_saving():
    made = plan(config({"voc": metric(), "seqlen_truncate": length_metric()}, random_ltd()))
    lines = format_plan(made, num_rows=5).splitlines()
    table = [line.split() for line in lines[1:6]]
    assert [row[0] for row in table] == ["1", "6", "10", "15", "20"]
    assert table[-1][1:7] == ["100", "32", "950", "100.0", "32", "32"]
    assert len({len(line) for line in lines[:6]}) == 1
    saved = 1 - made.counters(20).flops / made.baseline.flops
    (flops,) = (line for line in lines[7:] if "FLOPs" in line)
    assert flops.split()[-1] == f"{100 * saved:.1f}%"
    assert 0.1 < saved < 0.9


def test_more_rows_than_steps_show_each_step_once():
    lines = format_plan(plan(config(), num_steps=3), num_rows=20).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["1", "2", "3"]
    assert lines[4] == ""


MIX = {"weights": [[3, 1], [1, 3]], "at_tokens": [0, 320 * 32], "between": "linear"}


def test_a_mix_has_a_column_for_each_part():
    lines = format_plan(plan(config(mix=MIX)), num_rows=3).splitlines()
    assert lines[0].split()[1:7] == ["part", "0", "%", "part", "1", "%"]
    shares = [line.split()[1:3] for line in lines[1:4]]
    assert shares == [["75.0", "25.0"], ["52.5", "47.5"], ["27.5", "72.5"]]


def test_stages_have_a_column_and_their_first_steps_a_row():
    lines = format_plan(plan(config()), num_rows=2, stage_starts=(1, 8, 13)).splitlines()
    assert [line.split()[:2] for line in lines[:5]] == [
        ["step", "stage"],
        *(["1", "1"], ["8", "2"], ["13", "3"], ["20", "3"]),
    ]


BATCHES = {
    "min_value": 8,
    "max_value": 32,
    "counter": "steps",
    "schedule_type": "fixed_linear",
    "schedule_config": {"total_curriculum_step": 20, "difficulty_step": 8},
}


def test_a_batch_that_grows_has_a_column():
    made = plan(config(batch_size=BATCHES))
    lines = format_plan(made, num_rows=3).splitlines()
    place = lines[0].replace("% of data", "share").split().index("samples")
    assert [line.split()[place] for line in lines[1:4]] == ["8", "16", "32"]
    assert made.counters(20).consumed_samples == sum(
        min(32, (8 + step * 24 // 20) // 8 * 8) for step in range(1, 21)
    )


BUCKETS = {
    "lengths": [8, 16, 32],
    "token_shares": [2, 1, 1],
    "pass_steps": 20,
    "odds": [40, 1, 1],
}


def test_each_length_of_rows_has_a_column():
    lines = format_plan(plan(config(length_buckets=BUCKETS)), num_rows=2).splitlines()
    assert lines[0].split()[1:10] == ["8", "long", "%", "16", "long", "%", "32", "long", "%"]
    first, last = (list(map(float, line.split()[1:4])) for line in lines[1:3])
    assert first[0] == 100
    assert last == [0, 50, 50]


@pytest.mark.parametrize(
    "content",
    [
        config(),
        config(length_buckets=BUCKETS),
        config(mix=MIX),
        config(batch_size=BATCHES),
        sorted_config(order={"kind": "descending"}),
        config({"voc": metric()}, random_ltd()),
    ],
)
def test_picture_is_written(content, tmp_path):
    pytest.importorskip("matplotlib")
    plot_plan(plan(content), tmp_path / "plan.png", stage_starts=(1, 7))
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
