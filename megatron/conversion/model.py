"""Models between our checkpoints and Hugging Face folders; a result is kept only if logits agree.

Reads our checkpoints, Hugging Face folders (`config.json`, safetensors) and Megatron-DeepSpeed
checkpoints. Weights keep the dtype they are stored in; logits are compared in float32 on the CPU.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from data_efficiency.engine.whole_tensor import whole_tensors
from data_efficiency.files import result_folder
from megatron.checkpoint.files import read_average, read_state, read_weights
from megatron.checkpoint.model import checkpoint_in, identity_of_checkpoint
from megatron.checkpoint.saving import save_checkpoint
from megatron.config import ModelConfig
from megatron.conversion import hugging_face_folder
from megatron.conversion.bert import (
    BERT_FAMILIES,
    bert_from_hugging_face,
    bert_rules,
    bert_to_hugging_face,
    is_bert,
)
from megatron.conversion.deepspeed import model_states_file, read_megatron_deepspeed, step_of
from megatron.conversion.gpt import gpt_from_hugging_face, gpt_rules, gpt_to_hugging_face
from megatron.conversion.hugging_face_folder import token_ids
from megatron.conversion.model_card import CARD_FILE
from megatron.conversion.source_files import (
    CONFIG_COPY,
    copy_files,
    has_tokenizer,
    source_config,
    source_of,
)
from megatron.conversion.vocabulary import known_to, with_padding, without_padding, write_padding
from megatron.conversion.weights import Rule, to_ours, to_theirs
from megatron.evaluation.checkpoint_tokenizer import TOKENIZER_FILE
from megatron.model.bert_model import BertModel
from megatron.model.gpt_model import GPTModel
from megatron.tokenizer import Tokenizer

TOLERANCE = 1e-4
"""Largest difference of two logits in float32, relative to the largest logit where that is above 1."""
_NUM_PROBES, _PROBE_LENGTH = 2, 64


class Model(NamedTuple):
    """A model of ours, wherever it was read."""

    config: ModelConfig
    weights: dict[str, torch.Tensor]
    source: Path | None = None
    """Folder with the files of the Hugging Face folder it was made of."""
    step: int = 0
    """Of the checkpoint it was read from."""

    @property
    def pipeline(self) -> str:
        """The hub's name of what it is for."""
        return "fill-mask" if is_bert(self.weights) else "text-generation"

    @property
    def rules(self) -> list[Rule]:
        """Its weights and those of its Hugging Face counterpart."""
        return (bert_rules if is_bert(self.weights) else gpt_rules)(self.config)


class Converted(NamedTuple):
    """What a conversion did."""

    num_parameters: int
    largest_difference: float | None
    """Of the logits, in float32; None where there was nothing to compare with."""


def read_any(folder: Path, *, vocab_size: int | None = None, average: bool = False) -> Model:
    """The model in a folder: a checkpoint of ours, of Hugging Face or of Megatron-DeepSpeed.

    Args:
        folder: a run, a step's folder, or a Hugging Face folder.
        vocab_size: entries of the tokenizer's vocabulary, for checkpoints that do not say it.
        average: take the running average of the weights that a run of ours kept.

    Raises:
        FileNotFoundError: if the folder holds none of them, or no average.
        ValueError: if a file was changed, or our model has no setting for what is in it.
    """
    if average:
        return _read_average(folder)
    if (folder / "config.json").is_file():
        fields = hugging_face_folder.read_config(folder)
        bert = fields["model_type"] in BERT_FAMILIES
        config = (bert_from_hugging_face if bert else gpt_from_hugging_face)(fields)
        theirs = hugging_face_folder.weights_of(hugging_face_folder.read_model(folder))
        weights = to_ours(theirs, (bert_rules if bert else gpt_rules)(config))
        return Model(*with_padding(folder, config, weights), source=folder)
    foreign = model_states_file(folder)
    if foreign is not None:
        return Model(*read_megatron_deepspeed(foreign, vocab_size), step=step_of(foreign))
    checkpoint = checkpoint_in(folder)
    if checkpoint is None:
        raise FileNotFoundError(
            f"{folder} holds no model: give a run or a checkpoint of ours, a Hugging Face folder"
            " (config.json) or a Megatron-DeepSpeed checkpoint (mp_rank_00_model_states.pt)"
        )
    config = ModelConfig(**read_state(checkpoint)["model"])
    return Model(config, read_weights(checkpoint), source_of(folder))


def _read_average(folder: Path) -> Model:
    checkpoint = checkpoint_in(folder)
    weights = None
    if checkpoint is not None:
        config = ModelConfig(**read_state(checkpoint)["model"])
        weights = read_average(checkpoint)
    if checkpoint is None or weights is None:
        raise FileNotFoundError(
            f"{checkpoint or folder} holds no average of the weights: train with --ema-decay, or average its "
            "checkpoints with tools/merge_checkpoints.py"
        )
    step = identity_of_checkpoint(checkpoint)["step"]
    return Model(config, weights, source_of(folder), step)


def save_as_hugging_face(
    model: Model, output: Path, tokenizer: Tokenizer | None, card: str | None = None
) -> Converted:
    """What was written to a new folder for `from_pretrained`, after its logits were compared.

    The model there has the vocabulary that the tokenizer knows; the rows that pad ours lie beside it.
    What a Hugging Face folder said from which the model once came is said again.

    Args:
        card: text of the folder's `README.md`, None for none.

    Raises:
        FileExistsError: if the folder is taken.
        ValueError: if there is no such Hugging Face model, the tokenizer has more entries than the
            model, or the logits differ; nothing is left behind then.
    """
    _check_tokenizer(model.config, tokenizer)
    model = model._replace(config=known_to(tokenizer, model.config))
    fields = _config_fields(model, tokenizer)
    own_tokenizer = has_tokenizer(model.source, tokenizer)
    with result_folder.new_folder(output) as folder:
        weights, padding = without_padding(model.config, model.weights)
        hugging_face_folder.write_model(folder, fields, to_theirs(weights, model.rules))
        write_padding(folder, padding)
        if tokenizer is not None and not own_tokenizer:
            hugging_face_folder.write_tokenizer(
                folder, tokenizer, model.config.max_position_embeddings
            )
        if model.source is not None and (own_tokenizer or tokenizer is None):
            copy_files(model.source, folder)
        if card is not None:
            (folder / CARD_FILE).write_text(card, encoding="utf-8")
        difference = _largest_difference(model, folder)
    return Converted(_count(model), difference)


def save_as_ours(
    model: Model,
    output: Path,
    tokenizer: Tokenizer | None,
    compare_with: Path | None = None,
    *,
    merged: Sequence[Mapping[str, Any]] = (),
) -> Converted:
    """What was written to a new run of ours with one checkpoint, of the model's step.

    Args:
        output: folder of the run; `tokenizer.json` is put beside the checkpoint.
        tokenizer: the model's, None to leave it out.
        compare_with: Hugging Face folder that must give the same logits.
        merged: what the checkpoint's state says of those it is the average of.

    Raises:
        FileExistsError: if the folder is taken.
        ValueError: as `save_as_hugging_face`.
    """
    _check_tokenizer(model.config, tokenizer)
    model = model._replace(config=known_to(tokenizer, model.config))
    with result_folder.new_folder(output) as run:
        state: dict[str, Any] = {"model": asdict(model.config)}
        if merged:
            state["merged"] = list(merged)
        weights = whole_tensors(model.weights)
        save_checkpoint(
            run, model.step, weights=weights, optimizer_state=[], state=state, keep_last=0
        )
        if tokenizer is not None:
            tokenizer.save(run / TOKENIZER_FILE)
        if model.source is not None and (
            tokenizer is None or has_tokenizer(model.source, tokenizer)
        ):
            copy_files(model.source, run, config_name=CONFIG_COPY)
        written = read_any(run)
        difference = _largest_difference(written, compare_with) if compare_with else None
    return Converted(_count(model), difference)


def _config_fields(model: Model, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """The fields of `config.json`: the source's, but for what has changed since, or else ours."""
    bert = is_bert(model.weights)
    describe, read = (
        (bert_to_hugging_face, bert_from_hugging_face)
        if bert
        else (gpt_to_hugging_face, gpt_from_hugging_face)
    )
    own = describe(model.config)
    given = source_config(model.source)
    ids = token_ids(tokenizer, with_ends=not bert)
    if given.get("model_type") != own["model_type"]:
        # BERT's embedding needs some row of padding: its own default where no token is known.
        return own | {name: value for name, value in ids.items() if not bert or value is not None}
    known = describe(read(hugging_face_folder.todays_names(given)))
    changed = {name: value for name, value in own.items() if known.get(name) != value}
    if "rope_parameters" in changed:
        given = {name: value for name, value in given.items() if not name.startswith("rope_")}
    kept = tokenizer is None or has_tokenizer(model.source, tokenizer)
    return given | changed | ({} if kept else ids)


def _largest_difference(ours: Model, folder: Path) -> float:
    """Of the logits of our model and the one in a Hugging Face folder, on random ids.

    BERT's are those of both heads, with two segments and padding.
    """
    config = ours.config
    length = min(_PROBE_LENGTH, config.max_position_embeddings)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (_NUM_PROBES, length), generator=generator)
    theirs = hugging_face_folder.read_model(folder).float()
    with torch.inference_mode():
        if is_bert(ours.weights):
            places = torch.arange(length).expand_as(ids)
            second = (places >= length // 4).long() * (config.num_token_types > 1)
            real = places < torch.tensor([[length], [length // 2]])
            output = theirs(ids, token_type_ids=second, attention_mask=real.long())
            pairs = zip(
                (output.prediction_logits, output.seq_relationship_logits),
                build(ours)(ids, token_types=second, padding_mask=real),
                strict=True,
            )
        else:
            pairs = zip([theirs(ids).logits], [build(ours)(ids)], strict=True)
    # Either side may have rows that pad the vocabulary.
    shared = [(a[..., : b.shape[-1]], b[..., : a.shape[-1]]) for a, b in pairs]
    expected, found = (
        torch.cat([one.flatten() for one in side]) for side in zip(*shared, strict=True)
    )
    difference = float((expected - found).abs().max())
    allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
    if not difference <= allowed:
        raise ValueError(
            f"the logits differ by {difference:.2e}, more than {allowed:.2e}: the two models do not"
            " compute the same, nothing was kept"
        )
    return difference


def build(model: Model) -> GPTModel | BertModel:
    """The model in evaluation, float32 on the CPU."""
    built = (BertModel if is_bert(model.weights) else GPTModel)(model.config)
    built.load_state_dict(model.weights)
    return built.eval()


def _check_tokenizer(config: ModelConfig, tokenizer: Tokenizer | None) -> None:
    if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} entries, the model {config.vocab_size}: they"
            " do not belong together"
        )


def _count(model: Model) -> int:
    return sum(weight.numel() for weight in model.weights.values())
