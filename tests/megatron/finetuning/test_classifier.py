import pytest
import torch

from megatron.config import ModelConfig
from megatron.finetuning.classifier import BertClassifier, read_bert
from megatron.model.gpt_model import GPTModel
from tests.megatron.finetuning.bert_task_data import save_bert_run
from tests.megatron.small_models import make_model, save_run


@pytest.fixture
def run(tmp_path):
    return save_bert_run(tmp_path / "run")


def classifier(model, seed=1, num_outputs=3):
    return BertClassifier(model, num_outputs, dropout=0.0, seed=seed).eval()


def inputs():
    tokens = torch.tensor([[2, 5, 7, 3, 0, 0], [2, 6, 8, 9, 10, 3]])
    return tokens, {"token_types": torch.zeros_like(tokens), "padding_mask": tokens != 0}


def test_scores_do_not_depend_on_padding(run):
    model, tokenizer = read_bert(run)
    assert tokenizer.vocab_size == model.config.vocab_size
    tokens, others = inputs()
    module = classifier(model)
    scores = module(tokens, **others)
    assert scores.shape == (2, 3)
    alone = module(tokens[:1, :4], **{name: value[:1, :4] for name, value in others.items()})
    torch.testing.assert_close(scores[:1], alone)


def test_the_seed_makes_the_output_layer_and_the_encoder_is_the_given_one(run):
    model, _ = read_bert(run)
    one, same, other = classifier(model), classifier(model), classifier(model, seed=2)
    assert torch.equal(one.output_layer.weight, same.output_layer.weight)
    assert not torch.equal(one.output_layer.weight, other.output_layer.weight)
    for name, tensor in other.bert.state_dict().items():
        assert torch.equal(tensor, model.weights[name]), name


def test_pretraining_heads_are_not_trained(run):
    model, _ = read_bert(run)
    module = classifier(model).train()
    tokens, others = inputs()
    module(tokens, **others).sum().backward()
    without = {name for name, each in module.named_parameters() if each.grad is None}
    assert without
    assert all(name.startswith(("bert.masked_lm_head", "bert.sentence_head")) for name in without)


def test_another_architecture_is_refused(tmp_path):
    config = ModelConfig(num_layers=2, hidden_size=16, num_attention_heads=2, vocab_size=40)
    save_run(tmp_path / "gpt", make_model(GPTModel, config))
    with pytest.raises(ValueError, match="another architecture: a BERT is needed"):
        read_bert(tmp_path / "gpt")
