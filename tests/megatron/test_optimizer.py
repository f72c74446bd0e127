from megatron.optimizer import make_optimizer
from tests.megatron.tiny_pretraining import make_run, settings, write_corpus


def test_weight_decay_is_for_matrices_only(tmp_path):
    run = make_run(settings(write_corpus(tmp_path)))
    optimizer = make_optimizer(run.engine.module, run.config.training)
    decayed, others = optimizer.param_groups
    assert all(p.ndim >= 2 for p in decayed["params"])
    assert all(p.ndim < 2 for p in others["params"])
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.01, 0.0)
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    assert count == len(list(run.engine.module.parameters()))
