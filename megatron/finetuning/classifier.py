"""A pretrained BERT with an output layer of its own for a finetuning task."""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from megatron.conversion.bert import is_bert
from megatron.conversion.model import Model, read_any
from megatron.evaluation.checkpoint_tokenizer import tokenizer_for
from megatron.model.bert_model import BertModel
from megatron.tokenizer import Tokenizer, build_tokenizer


class BertClassifier(nn.Module):
    """Scores from the pooled first token.

    Args:
        model: settings and weights of a BERT; the weights are copied.
        num_outputs: classes, or 1 for regression.
        dropout: before the output layer; inside the encoder it is as in the model's settings.
        seed: of the output layer's weights.

    Source: BERT (Devlin et al., 2019), section 4.1.
    """

    def __init__(self, model: Model, num_outputs: int, *, dropout: float, seed: int) -> None:
        super().__init__()
        self.dropout = dropout
        self.bert = BertModel(model.config)
        self.bert.load_state_dict(model.weights)
        for head in (self.bert.masked_lm_head, self.bert.sentence_head):
            head.requires_grad_(False)
        self.output_layer = nn.Linear(model.config.hidden_size, num_outputs)
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(
            self.output_layer.weight, std=model.config.init_method_std, generator=generator
        )
        nn.init.zeros_(self.output_layer.bias)

    def forward(
        self, tokens: torch.Tensor, *, token_types: torch.Tensor, padding_mask: torch.Tensor
    ) -> torch.Tensor:
        """Scores, float32 [batch, outputs]; arguments as in `BertModel.encode`."""
        hidden_states = self.bert.encode(tokens, token_types=token_types, padding_mask=padding_mask)
        pooled = functional.dropout(self.bert.pooled(hidden_states), self.dropout, self.training)
        scores: torch.Tensor = self.output_layer(pooled)
        return scores.float()


def read_bert(folder: Path, tokenizer_file: Path | None = None) -> tuple[Model, Tokenizer]:
    """The BERT of a run or checkpoint of ours or of a Hugging Face folder, and its tokenizer.

    Raises:
        FileNotFoundError: if there is no model or no tokenizer.
        ValueError: if it is no BERT, or the tokenizer is of another model.
    """
    model = read_any(folder)
    if not is_bert(model.weights):
        raise ValueError(f"{folder} is a checkpoint of another architecture: a BERT is needed here")
    named = None if tokenizer_file is None else build_tokenizer(tokenizer_file=tokenizer_file)
    tokenizer = tokenizer_for(folder, model.config.vocab_size, named)
    return model, tokenizer
