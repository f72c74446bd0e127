import json

import pytest
import torch

from data_efficiency.adapters.host_settings import HostSettings
from data_efficiency.adapters.hosted_training import HostedTraining
from data_efficiency.adapters.stateful_sampler import refuse_more_than_samples
from data_efficiency.config import (
    Curriculum,
    DataEfficiencyConfig,
    LayerDropout,
    RandomLTD,
    TokenSuperposition,
)
from data_efficiency.engine.ranks import Ranks
from data_efficiency.json_section import ConfigError
from tests.data_efficiency.adapters.small_run import (
    LENGTH,
    NUM_LAYERS,
    NUM_SAMPLES,
    Rows,
    configuration,
    make_model,
)


def hosted(config=None, *, rank=0, world=1, model=None, **settings):
    """A training of 2 micro-batches of 2 rows a step on each process."""
    training = HostedTraining(
        configuration() if config is None else config,
        Rows(),
        HostSettings(
            host="the host",
            train_micro_batch_size_per_gpu=2,
            gradient_accumulation_steps=2,
            **settings,
        ),
        ranks=Ranks(world=world, data_parallel_rank=rank, data_parallel_size=world),
    )
    training.convert(make_model() if model is None else model)
    return training


def train(training, model, num_micro_batches, *, read_ahead=0):
    """The samples of so many micro-batches, of which some were read before the first is done."""
    seen, pending = [], []
    for batch in training:
        pending.append(batch)
        if len(pending) <= read_ahead:
            continue
        batch = pending.pop(0)
        model(**batch)
        seen.append(batch["input_ids"][:, 0].tolist())
        training.finish_micro_batch()
        if len(seen) == num_micro_batches:
            break
    return seen


def test_lines_of_python_are_the_file_and_the_model_says_the_rest():
    lines = DataEfficiencyConfig.of(
        Curriculum("seqlen", start=8, steps=4),
        RandomLTD(start=4, steps=6, step_size=4),
        num_epochs=3,
    )
    by_lines, by_file = (hosted(config, model=make_model()) for config in (lines, None))
    assert by_lines.router.settings == by_file.router.settings
    assert by_lines.sampler.config.length_plans == by_file.sampler.config.length_plans
    trained = []
    for training in (by_lines, by_file):
        model = make_model()
        training.convert(model)
        trained.append((train(training, model, 4), training.figures()))
    assert trained[0] == trained[1]
    converted = make_model()
    hosted(model=converted)
    with pytest.raises(ConfigError, match="was converted with other random_ltd settings"):
        hosted(DataEfficiencyConfig.of(RandomLTD(start=8, steps=6)), model=converted)


def test_a_pass_has_as_many_samples_as_the_dataset_filled_up_to_a_whole_step():
    training = hosted()
    assert len(training) == 2 * 6
    assert len(list(training)) == 2 * 6
    assert len(hosted(dataloader_drop_last=True)) == 2 * 5
    assert len(hosted(rank=1, world=2)) == 2 * 3


def test_passes_follow_each_other_and_are_as_many_as_the_file_allows():
    model = make_model()
    training = hosted(model=model)
    passes = [train(training, model, 99) for _ in range(3)]
    drawn = [sample for one in passes for batch in one for sample in batch]
    assert len(drawn) == 3 * 24
    assert set(drawn) == set(range(NUM_SAMPLES))
    assert training.counters.consumed_samples == 3 * 24
    with pytest.raises(ConfigError, match="passes 4 times .* num_epochs .* is 3"):
        next(iter(training))


def test_what_was_read_ahead_is_not_lost():
    whole_model, model = make_model(), make_model()
    whole = train(hosted(model=whole_model), whole_model, 12)
    training = hosted(model=model)
    first = train(training, model, 5, read_ahead=4)
    assert first == whole[:5]
    state = json.loads(json.dumps(training.state_dict()))
    assert state["counters"]["steps"] == 2
    resumed = hosted(model=(other := make_model()))
    resumed.load_state_dict(state, 2)
    assert train(resumed, other, 8) == whole[4:]
    # The same training goes on from its last finished step as well.
    assert train(training, model, 8) == whole[4:]


def test_counts_are_those_of_the_layers():
    model = make_model()
    training = hosted(model=model)
    train(training, model, 2)
    # Rows of 8 tokens, of which the two middle layers keep 4.
    figures = training.figures()
    assert figures["corpus_tokens"] == 4 * 8
    assert figures["layer_tokens"] == 4 * (2 * 8 + 2 * 4)
    assert figures["effective_tokens"] == 4 * (2 * 8 + 2 * 4) / NUM_LAYERS
    assert (figures["sequence_length"], figures["kept_length"]) == (8, 4)
    assert figures["difficulty/seqlen_truncate"] == 8
    assert figures["pool_size"] == NUM_SAMPLES


def test_no_figures_before_the_first_step_and_none_of_dropping_without_it():
    model = make_model()
    training = hosted(configuration(dropping=False), model=model)
    assert training.figures() == {}
    train(training, model, 2)
    figures = training.figures()
    assert "kept_length" not in figures
    assert figures["layer_tokens"] == 4 * 8 * NUM_LAYERS


def test_a_second_forward_of_a_micro_batch_is_the_same_and_counted_once():
    model = make_model()
    training = hosted(model=model)
    batches = iter(training)
    batch = next(batches)
    losses = [model(**batch).loss.item() for _ in range(2)]
    assert losses[0] == losses[1]
    training.finish_micro_batch()
    model(**next(batches))
    training.finish_micro_batch()
    assert training.counters.corpus_tokens == 4 * 8


def test_of_images_no_tokens_are_told_that_nobody_counted():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 4))
    training = hosted(configuration(length=False, dropping=False), model=model)
    for _ in training:
        model(torch.zeros(2, 3, 8, 8))
        if training.finish_micro_batch():
            break
    assert training.figures() == {"consumed_samples": 4, "pool_size": NUM_SAMPLES}


def test_evaluation_passes_by():
    model = make_model().eval()
    hosted(model=model)
    model(input_ids=torch.zeros(3, LENGTH, dtype=torch.long))


def test_a_batch_from_elsewhere_is_refused():
    model = make_model()
    training = hosted(model=model)
    with pytest.raises(ConfigError, match="did not read from the adapter's loader"):
        model(input_ids=torch.zeros(3, LENGTH, dtype=torch.long))
    next(iter(training))
    with pytest.raises(ConfigError, match="did not call the model for a micro-batch of step 1"):
        training.finish_micro_batch()


def test_batches_that_a_host_would_count_wrong():
    ramp = Curriculum("seqlen", start=2, end=LENGTH, steps=4, step_size=2, constant_tokens=True)
    with pytest.raises(
        ConfigError, match="constant_tokens changes the rows of a batch, which the host"
    ):
        hosted({"data_efficiency": DataEfficiencyConfig.of(ramp)})
    with pytest.raises(
        ConfigError, match="length_buckets changes the rows of a batch, which the host"
    ):
        hosted({"data_efficiency": {"data_sampling": {"length_buckets": {}}}})


def test_batches_that_grow_are_for_our_step():
    batches = {
        "min_value": 3,
        "max_value": 6,
        "schedule_type": "fixed_discrete",
        "schedule_config": {"difficulty": [3, 6], "max_step": [9]},
    }
    with pytest.raises(ConfigError, match="samples of a step, which the host counts as always"):
        hosted({"data_efficiency": {"data_sampling": {"batch_size": batches}}})
    with pytest.raises(ConfigError, match="does not see where steps end"):
        refuse_more_than_samples(DataEfficiencyConfig.of(batch_size=batches))
    with pytest.raises(ConfigError, match="length_buckets changes the samples of a step"):
        refuse_more_than_samples(DataEfficiencyConfig.of(length_buckets={}))


def test_losses_that_a_host_does_not_tell():
    feedback = {"policy": "high_loss", "kept_share": 0.5, "refresh_steps": 8, "delay_steps": 2}
    with pytest.raises(ConfigError, match="losses of rows, which the host does not tell"):
        hosted({"data_efficiency": {"data_sampling": {"feedback": feedback}}})
    with pytest.raises(ConfigError, match="losses of rows, which a sampler is not told"):
        refuse_more_than_samples(DataEfficiencyConfig.of(feedback=feedback))


def test_a_state_of_another_step_or_another_run_is_refused():
    model = make_model()
    training = hosted(model=model)
    train(training, model, 4)
    state = training.state_dict()
    with pytest.raises(ValueError, match="stand after step 2, and the host after step 3"):
        hosted().load_state_dict(state, 3)
    other = configuration()
    other["data_efficiency"]["seed"] = 7
    with pytest.raises(ValueError, match="of another run"):
        hosted(other).load_state_dict(state, 2)


def test_a_converted_model_must_have_the_same_settings():
    model = make_model()
    hosted(model=model)
    hosted(model=model)
    other = configuration()
    other["data_efficiency"]["data_routing"]["random_ltd"]["random_ltd_layer_id"] = [1, 3]
    with pytest.raises(ConfigError, match="converted with other random_ltd settings"):
        hosted(other, model=model)
    with pytest.raises(ConfigError, match="the configuration has no random_ltd"):
        hosted(configuration(dropping=False), model=model)


def test_a_configuration_in_python_is_closed_by_rows_and_layers():
    model = make_model()
    parts = (Curriculum("seqlen", start=8, steps=4), RandomLTD(start=4, steps=6, step_size=4))
    training = hosted(DataEfficiencyConfig.of(*parts, num_epochs=3), model=model)
    by_file_model = make_model()
    by_file = hosted(model=by_file_model)
    assert train(training, model, 12) == train(by_file, by_file_model, 12)
    assert training.figures() == by_file.figures()
    # Another training of the model is told that it is converted as this section says.
    hosted(DataEfficiencyConfig.of(*parts, num_epochs=3), model=model)
    other = DataEfficiencyConfig.of(parts[0], RandomLTD(start=8, steps=6, step_size=4))
    with pytest.raises(ConfigError, match="converted with other random_ltd settings"):
        hosted(other, model=model)


def test_processes_that_the_host_does_not_know_of_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    hosted(rank=1, world=2)
    with pytest.raises(ConfigError, match="has started 2 processes .* the host knows of 1"):
        hosted()


def test_only_the_last_training_follows_a_model():
    model = make_model()
    first = hosted(model=model)
    assert len(train(first, model, 2)) == 2
    second = hosted(model=model)
    assert len(train(second, model, 4)) == 4
    assert (first.counters.steps, second.counters.steps) == (1, 2)


def test_a_dataset_below_one_step_that_is_dropped():
    with pytest.raises(ValueError, match="22 samples are fewer than a global batch"):
        hosted(world=8, dataloader_drop_last=True)


def test_every_route_of_layers_is_taken_and_counted():
    """Spans and layer dropout, by the rows and lengths that the layers really saw."""
    model, seen = make_model(), []
    lines = DataEfficiencyConfig.of(
        RandomLTD(start=4, end=4, steps=1, step_size=4, layers=[[1, 2]]),
        LayerDropout(start=50, end=50, steps=1, rows_per_group=2, depth="uniform"),
        num_epochs=3,
    )
    training = hosted(lines, model=model)
    for layer in model.transformer.h:
        layer.ln_1.register_forward_hook(lambda *call: seen.append(call[-1].shape[:2]))
    train(training, model, 4)
    assert set(seen) == {(1, LENGTH), (1, 4)}
    assert training.counters.layer_tokens == sum(rows * length for rows, length in seen)
    assert training.figures()["kept_length"] == 4
    other = DataEfficiencyConfig.of(LayerDropout(start=60, end=60, steps=1, rows_per_group=2))
    with pytest.raises(ConfigError, match="was converted with other layer_dropout settings"):
        hosted(other, model=model)


def test_bags_are_refused_where_the_host_has_its_own_loss():
    with pytest.raises(ConfigError, match="the host computes its own loss, which knows no bags"):
        hosted(DataEfficiencyConfig.of(TokenSuperposition(bag_size=2, steps=3)))
