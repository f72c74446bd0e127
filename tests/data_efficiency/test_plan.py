from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_efficiency import TokenSuperposition
from data_efficiency.accounting import ModelShape
from data_efficiency.config import Curriculum, DataEfficiencyConfig, RandomLTD, load_config
from data_efficiency.difficulty_index import DifficultyIndex
from data_efficiency.json_section import ConfigError
from data_efficiency.plan import plan_run, planned_totals
from data_efficiency.sampling.sampler import CurriculumSampler
from tests import json_sections
from tests.json_sections import metric, random_ltd, sorting_metric

MODEL = ModelShape(
    num_layers=4,
    hidden_size=8,
    query_size=8,
    key_value_size=8,
    ffn_size=32,
    num_ffn_matrices=2,
    vocab_size=100,
)
LENGTH = 32


def length_metric(**changes):
    return json_sections.length_metric(6, LENGTH, steps=10, step_size=3, **changes)


def config(metrics=None, dropping=None, **sampling):
    section = {"enabled": bool(metrics), "curriculum_metrics": metrics or {}}
    return {
        "train_batch_size": 16,
        "train_micro_batch_size_per_gpu": 4,
        "data_efficiency": {
            "data_sampling": {"curriculum_learning": section, **sampling},
            "data_routing": {"random_ltd": dropping or {}},
        },
    }


def plan(content, num_steps=20, num_samples=950, **arguments):
    return plan_run(
        content,
        model=MODEL,
        sequence_length=LENGTH,
        num_steps=num_steps,
        num_samples=num_samples,
        **arguments,
    )


def steps_of(made):
    return range(1, made.num_steps + 1)


def lengths_of(made):
    return [made.stretch_at(step).shape.sequence_length for step in steps_of(made)]


def kept_lengths_of(made):
    return [made.stretch_at(step).shape.kept_length for step in steps_of(made)]


def pools_of(made):
    return [made.pool_size(step) for step in steps_of(made)]


def test_without_techniques_the_plan_is_the_baseline():
    made = plan(config())
    assert made.counters(20) == made.baseline
    assert made.baseline.corpus_tokens == made.baseline.loss_tokens == 20 * 16 * LENGTH
    assert made.baseline.layer_tokens == 4 * made.baseline.corpus_tokens
    assert made.baseline.consumed_samples == 20 * 16
    assert pools_of(made) == [950] * 20
    assert made.difficulties(7) == {}
    assert len(made.stretches) == 1


@pytest.mark.parametrize("data_parallel_size", [1, 2])
def test_reshaped_micro_batches_have_whole_rows(data_parallel_size):
    made = plan(config({"seqlen_reshape": length_metric()}), data_parallel_size=data_parallel_size)
    for stretch in made.stretches:
        length, added = stretch.shape.sequence_length, stretch.counts
        rows = 16 // 4 * -(-4 * LENGTH // length)
        assert added.corpus_tokens == rows * length
        assert added.loss_tokens == 16 * LENGTH
        assert added.consumed_samples == 16
    assert lengths_of(made)[:2] == [6, 9]
    assert lengths_of(made)[-1] == LENGTH


def test_totals_are_the_sums_of_the_steps():
    made = plan(config({"voc": metric(), "seqlen_truncate": length_metric()}, random_ltd()))
    for step in (0, 1, 7, 20):
        totals = asdict(made.counters(step))
        added = [asdict(made.stretch_at(s).counts) for s in range(1, step + 1)]
        assert totals == {name: sum(one[name] for one in added) for name in totals}
    assert made.counters(20).loss_tokens == made.counters(20).corpus_tokens
    assert made.counters(20).layer_tokens < 4 * made.counters(20).corpus_tokens
    # Token dropping counts finished steps: the first step keeps what step 0 of its schedule says.
    assert kept_lengths_of(made)[:4] == [4, 4, 4, 8]


def test_pools_by_percentile_need_only_the_number_of_samples(tmp_path):
    values = np.random.default_rng(0).integers(0, 50, 950)
    DifficultyIndex.write(tmp_path / "voc", values, metric="voc", dataset_identity={"name": "x"})
    by_index = plan(config({"voc": metric(index_path=str(tmp_path / "voc"))}), num_samples=None)
    assert by_index.num_samples == 950
    assert pools_of(by_index) == pools_of(plan(config({"voc": metric()})))
    assert len(set(pools_of(by_index))) > 5


def test_what_only_the_dataset_can_say_changes_no_pool(tmp_path):
    values = np.random.default_rng(0).integers(0, 50, 950)
    DifficultyIndex.write(tmp_path / "voc", values, metric="voc", dataset_identity={"name": "x"})
    voc = metric(index_path=str(tmp_path / "voc"), difficulty_type="value")
    pools = pools_of(plan(config({"voc": voc}), num_samples=None))
    kept_end = length_metric(keep_end_token="auto")
    mixed, bucketed = (config({"voc": voc}) for _ in range(2))
    sampling = mixed["data_efficiency"]["data_sampling"]
    sampling["mix"] = {"weights": [[1, 1], [0, 1]], "at_samples": [0, 9]}
    sampling = bucketed["data_efficiency"]["data_sampling"]
    sampling["length_buckets"] = {"lengths": [16, LENGTH], "sizes": [500, 450]}
    for content in (config({"voc": voc, "seqlen_truncate": kept_end}), mixed, bucketed):
        assert pools_of(plan(content, num_samples=None)) == pools


def test_a_model_or_rows_of_nothing_are_refused():
    of_nothing = {"model": replace(MODEL, num_layers=0)}, {"sequence_length": 0}
    given_else = {"model": MODEL, "sequence_length": LENGTH, "num_steps": 2, "num_samples": 9}
    for name, shape in zip(("num_layers", "sequence_length"), of_nothing, strict=True):
        with pytest.raises(ValueError, match=f"{name} is 0: must be at least 1"):
            plan_run(config(), **(given_else | shape))


def test_pools_of_several_metrics_are_those_of_the_sampler(tmp_path):
    generator = np.random.default_rng(1)
    metrics = {}
    for name in ("a", "b"):
        values = generator.integers(0, 50, 950)
        DifficultyIndex.write(tmp_path / name, values, metric=name, dataset_identity={"n": 1})
        metrics[name] = metric(index_path=str(tmp_path / name))
    made = plan(config(metrics), num_samples=None)

    class Samples:
        identity = {"n": 1}

        def __len__(self):
            return 950

    sampler = CurriculumSampler(Samples(), made.config.data_efficiency, micro_batch_size=16)
    assert pools_of(made) == [sampler.next_global_batch().pool_size for _ in range(20)]


def sorted_config(index="nowhere", order=(), **metric_keys):
    content = config({"voc": sorting_metric(index, **metric_keys)})
    learning = content["data_efficiency"]["data_sampling"]["curriculum_learning"]
    learning["order"] = dict(order)
    return content


@pytest.mark.parametrize("bands", [{}, {"num_bands": 5}])
def test_an_order_is_planned_as_it_is_played(tmp_path, bands):
    values = np.random.default_rng(0).integers(0, 50, 950)
    DifficultyIndex.write(tmp_path / "voc", values, metric="voc", dataset_identity={"n": 1})
    kind = {"kind": "descending", "pass_samples": 320}
    made = plan(sorted_config(tmp_path / "voc", kind, **bands), num_samples=None)

    class Samples:
        identity = {"n": 1}

        def __len__(self):
            return 950

    sampler = CurriculumSampler(Samples(), made.config.data_efficiency, micro_batch_size=16)
    batches = [sampler.next_global_batch() for _ in range(20)]
    assert [made.difficulties(step) for step in steps_of(made)] == [b.difficulties for b in batches]
    assert pools_of(made) == [950] * 20
    without = plan(sorted_config(order=kind, **bands))
    assert [without.difficulties(s) for s in steps_of(made)] == [b.difficulties for b in batches]
    assert batches[0].difficulties["voc"] > batches[-1].difficulties["voc"] + 70


def test_an_order_and_a_mix_go_by_the_samples_drawn_also_of_superposed_rows():
    config = DataEfficiencyConfig.of(
        Curriculum("voc", index="nowhere", order="ascending"),
        TokenSuperposition(bag_size=3, steps=4),
        mix={"weights": [[1, 0], [0, 1]], "at_samples": [0, 1000], "between": "linear"},
    )
    made = plan({"train_batch_size": 10, "data_efficiency": config}, num_samples=1000)
    ranks = [made.difficulties(step)["voc"] for step in (1, 2, 5, 6)]
    assert ranks == pytest.approx([0, 3, 12, 13], abs=1)
    assert [made.part_shares(step)[1] for step in (1, 2, 5, 6)] == pytest.approx(
        [0, 0.03, 0.12, 0.13]
    )


def test_a_pool_that_retires_is_planned_by_its_index(tmp_path):
    values = np.random.default_rng(0).integers(0, 50, 950)
    DifficultyIndex.write(tmp_path / "voc", values, metric="voc", dataset_identity={"name": "x"})
    content = config({"voc": metric(index_path=str(tmp_path / "voc"), window_size=20)})
    made = plan(content, num_samples=None)
    assert max(pools_of(made)) == 950 - 80 * 9
    with pytest.raises(ValueError, match="leave num_samples out"):
        plan(content)


def test_a_schedule_that_goes_down_keeps_its_pool():
    falling = {"difficulty": [50, 20, 60], "max_step": [2, 4]}
    made = plan(config({"voc": metric(schedule_type="fixed_discrete", schedule_config=falling)}), 6)
    assert [made.difficulties(step)["voc"] for step in steps_of(made)] == [50, 50, 20, 20, 60, 60]
    assert pools_of(made) == [450, 450, 450, 450, 540, 540]


def test_what_cannot_be_planned():
    with pytest.raises(ValueError, match="give num_samples"):
        plan(config(), num_samples=None)
    with pytest.raises(ValueError, match="is known from their indexes"):
        plan(config({"voc": metric(difficulty_type="value")}))
    with pytest.raises(ValueError, match="which samples a, b select"):
        plan(config({"a": metric(), "b": metric()}))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        plan(config({"voc": metric()}), num_samples=None)
    with pytest.raises(ConfigError, match="total_layer_num is 5, but the model has 4 layers"):
        plan(config(dropping=random_ltd(total_layer_num=5)))


def test_kept_lengths_in_percent_follow_the_length_of_the_step():
    schedule = random_ltd()["random_ltd_schedule"] | {
        "min_value": 25,
        "max_value": 100,
        "unit": "percent",
    }
    dropping = random_ltd(random_ltd_schedule=schedule)
    made = plan(config({"seqlen_truncate": length_metric()}, dropping))
    assert (lengths_of(made)[3], kept_lengths_of(made)[3]) == (15, 36 * 15 // 100)
    assert kept_lengths_of(made)[-1] == LENGTH


DISCRETE = {
    "schedule_type": "fixed_discrete",
    "schedule_config": {"difficulty": [8, 16, 12, LENGTH], "max_step": [3, 7, 20]},
}
METRICS = {
    "none": {},
    "rarity": {"vocab_rarity": metric()},
    "truncate": {"vocab_rarity": metric(), "seqlen_truncate": length_metric()},
    "reshape": {"seqlen_reshape": length_metric()},
    "discrete": {"seqlen_truncate": length_metric(**DISCRETE)},
}
PERCENT = {
    "min_value": 25,
    "max_value": 100,
    "unit": "percent",
    "schedule_type": "fixed_linear",
    "schedule_config": {"require_steps": 9, "seq_per_step": 5},
}
DROPPING = {
    "none": None,
    "tokens": random_ltd(),
    "percent": random_ltd(random_ltd_schedule=PERCENT),
}


def totals(content, **arguments):
    return planned_totals(content, model=MODEL, sequence_length=LENGTH, **arguments)


@given(
    metrics=st.sampled_from(sorted(METRICS)),
    dropping=st.sampled_from(sorted(DROPPING)),
    num_steps=st.integers(1, 60),
    processes=st.sampled_from([1, 2]),
)
@settings(max_examples=60, deadline=None)
def test_totals_end_where_the_plan_does(metrics, dropping, num_steps, processes):
    content = config(METRICS[metrics], DROPPING[dropping])
    made = plan(content, num_steps=60, data_parallel_size=processes)
    expected = made.counters(num_steps)
    found = totals(content, num_steps=num_steps, data_parallel_size=processes)
    assert found == expected
    # A budget ends with the step that fills it: not one step earlier, not one later.
    budget = expected.layer_tokens // MODEL.num_layers
    until = totals(content, effective_tokens=budget, data_parallel_size=processes)
    assert until.layer_tokens >= budget * MODEL.num_layers
    assert made.counters(until.steps - 1).layer_tokens < budget * MODEL.num_layers
    assert until == made.counters(until.steps)


def test_a_run_of_a_billion_steps_is_planned_at_once():
    long = {"total_curriculum_step": 10**8, "difficulty_step": 3}
    content = config({"voc": metric(), "seqlen_truncate": length_metric(schedule_config=long)})
    made = plan(content, num_steps=10**9)
    assert len(made.stretches) == len(set(lengths_of(plan(content, num_steps=20)))) + 9
    assert totals(content, num_steps=10**9) == made.counters(10**9)


def test_exactly_one_end():
    with pytest.raises(ValueError, match="one of them"):
        totals(config())
    with pytest.raises(ValueError, match="one of them"):
        totals(config(), num_steps=3, effective_tokens=4)


@pytest.mark.parametrize("name", ["num_steps", "num_samples"])
def test_no_step_or_sample(name):
    with pytest.raises(ValueError, match=f"{name} is 0: must be at least 1"):
        plan(config(), **{"num_steps": 4, name: 0})


def test_a_function_of_the_user_is_asked_step_by_step():
    own = length_metric(schedule_type="custom", schedule_config={})
    content = load_config(config({"seqlen_truncate": own}))
    with pytest.raises(ValueError, match="no function was set"):
        totals(content, num_steps=3)
    section = content.data_efficiency.with_custom_schedules(
        {"seqlen_truncate": lambda s: 4 + s % 2}
    )
    content = replace(content, data_efficiency=section)
    assert lengths_of(plan(content, num_steps=4)) == [5, 4, 5, 4]
    assert totals(content, num_steps=4).corpus_tokens == 2 * 16 * 9
    assert totals(content, effective_tokens=16 * 9 + 1).steps == 3


def test_model_and_length_of_a_plan_close_what_is_open():
    parts = Curriculum("seqlen", start=8, steps=12), RandomLTD(start=8, steps=16, step_size=8)
    content = config() | {"data_efficiency": DataEfficiencyConfig.of(*parts)}
    made = plan(content)
    section = made.config.data_efficiency
    assert section.random_ltd.total_layer_num == MODEL.num_layers
    assert lengths_of(made)[-1] == LENGTH
    layers = {"total_layer_num": MODEL.num_layers, "model_mask_name": None}
    chosen = list(range(1, MODEL.num_layers - 1))
    layers |= {"random_ltd_layer_id": chosen, "random_ltd_layer_num": len(chosen)}
    dropping = random_ltd(4, 8, LENGTH, 16, 8) | layers
    written = plan(
        config({"seqlen_truncate": json_sections.length_metric(8, LENGTH, steps=12)}, dropping)
    )
    assert made.stretches == written.stretches


def shared(number, metrics=None, dropping=None, **more):
    return config(metrics, dropping, **more) | {"tensor_parallel": {"autotp_size": number}}


@given(st.sampled_from([2, 4]), st.integers(1, 31), st.integers(1, 7))
def test_rows_that_processes_share_keep_a_multiple_of_them(number, least, step_size):
    """The next one, and never more than the row has."""
    dropping = random_ltd(least=least, most=32, step_size=step_size)
    alone, cut = plan(config(dropping=dropping)), plan(shared(number, dropping=dropping))
    for step in range(1, 21):
        one, other = (made.stretch_at(step).shape.dropped_sequence_length for made in (alone, cut))
        assert other % number == 0
        assert one <= other < one + number
        assert other <= 32


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (
            {"seqlen_truncate": length_metric()},
            'gives rows of 9 tokens at step .*, which 2 processes cannot share evenly .*length_multiple": 2',
        ),
        (
            {"voc": metric(sequence_length="trim_padding")},
            "lengths of metric 'voc' follow from the rows, .*give the metric \"length_multiple\": 2",
        ),
    ],
)
def test_lengths_that_processes_cannot_share_are_refused(metrics, message):
    with pytest.raises(ConfigError, match=message):
        plan(shared(2, metrics))
    assert plan(config(metrics)).num_steps == 20


def test_a_multiple_is_the_way_out_that_is_named():
    uneven = {"seqlen_truncate": length_metric(length_multiple=2)}
    windows = {"attention_window": length_metric()}
    trimmed = {"voc": metric(sequence_length="trim_padding", length_multiple=4)}
    for metrics in (uneven, trimmed, windows):
        assert {length % 2 for length in lengths_of(plan(shared(2, metrics)))} == {0}
    with pytest.raises(
        ConfigError, match="samples have 32 tokens: 3 processes cannot share them evenly"
    ):
        plan(shared(3))
    bags = {"enabled": True, "bag_size": 2, "num_steps": 3}
    content = config()
    content["data_efficiency"]["data_routing"] = {"token_superposition": bags}
    with pytest.raises(
        ConfigError, match="token_superposition is enabled, and processes share each row"
    ):
        plan(content | {"tensor_parallel": {"autotp_size": 2}})


BUCKETS = {"lengths": [8, 16, 32], "odds": "grow_p2"}


def test_buckets_are_drawn_as_the_sampler_draws_them():
    """Lengths, samples and shares of every step, over more than a pass."""
    content = config(dropping=random_ltd(), length_buckets=BUCKETS | {"num_cycles": 2})
    made = plan(content, num_steps=50, num_samples=[256, 128, 64])
    section = load_config(content).data_efficiency.with_buckets((8, 16, 32), (256, 128, 64))

    class Rows:
        part_lengths, part_sizes = (8, 16, 32), (256, 128, 64)

        def __len__(self):
            return 448

    sampler = CurriculumSampler(Rows(), section, micro_batch_size=4, gradient_accumulation_steps=4)
    counts = np.zeros(3)
    for step in steps_of(made):
        batch, shape = sampler.next_global_batch(), made.stretch_at(step).shape
        assert shape.sequence_length * len(batch.samples) == 16 * LENGTH
        assert shape.num_rows == len(batch.samples)
        assert (shape.kept_length or LENGTH) <= LENGTH
        assert made.counters(step).consumed_samples == sampler.samples_before(step + 1)
        assert made.counters(step).corpus_tokens == step * 16 * LENGTH
        counts[made.bucket_lengths.index(shape.sequence_length)] += 1
        assert sum(made.bucket_shares(step)) == pytest.approx(1)
    assert made.steps_of_buckets.tolist() == counts.tolist()
    assert made.num_samples == 448
    assert made.counters(50).flops < made.baseline.flops
    totals = planned_totals(
        replace(load_config(content), data_efficiency=section),
        model=MODEL,
        sequence_length=LENGTH,
        num_steps=50,
    )
    assert totals == made.counters(50)


def test_buckets_that_cannot_be_planned_are_told():
    with pytest.raises(
        ConfigError, match="known without the data: give its sizes .* --num-samples N N"
    ):
        plan(config(length_buckets=BUCKETS))
    with pytest.raises(
        ConfigError, match=r"num_samples is \[1, 2\]: must be one number, or one for each"
    ):
        plan(config(length_buckets=BUCKETS), num_samples=[1, 2])
    with pytest.raises(ConfigError, match=r"num_samples is \[1, 2\]: rows have one length"):
        plan(config(), num_samples=[1, 2])
    with pytest.raises(ConfigError, match="but samples have up to 32 tokens"):
        plan(config(length_buckets=BUCKETS | {"lengths": [8, 16, 64]}), num_samples=[9, 9, 9])
    known = BUCKETS | {"token_shares": [1, 1, 1], "pass_steps": 20}
    assert plan(config(length_buckets=known), num_samples=[77]).num_samples == 77
    sizes = BUCKETS | {"sizes": [256, 128, 64]}
    assert plan(config(length_buckets=sizes), num_samples=None).num_samples == 448
