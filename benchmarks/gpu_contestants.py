"""Who trains on a GPU: our model in every variant worth a try, and what a user would take instead.

All train the same shape on the same random tokens with mean cross entropy and AdamW; nobody clips unless
its variant says so.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpt_models import Shape, our_model, peer_model
from benchmarks.plain_gpt import PlainGPT
from megatron.config import CompileLengths, CompileMode
from megatron.model import output_loss
from megatron.model.compilation import compile_model
from megatron.model.optional_kernels import make_adamw

SHAPES = {
    "tiny": Shape(
        num_layers=4, hidden_size=32, num_heads=2, vocab_size=300, sequence_length=32, num_rows=4
    ),
    "gpt2": Shape(
        num_layers=12,
        hidden_size=768,
        num_heads=12,
        vocab_size=50257,
        sequence_length=1024,
        num_rows=64,
    ),
    "gpt2-medium": Shape(
        num_layers=24,
        hidden_size=1024,
        num_heads=16,
        vocab_size=50257,
        sequence_length=1024,
        num_rows=32,
    ),
    "gpt-1.3b": Shape(
        num_layers=24,
        hidden_size=2048,
        num_heads=16,
        vocab_size=50257,
        sequence_length=2048,
        num_rows=8,
    ),
}
_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to take our step; each field is one idea of what makes it fast."""

    compile: CompileMode = "none"
    lengths: CompileLengths = "static"
    loss: Literal["chunks", "compiled", "whole"] = "chunks"
    """Operator by operator, compiled between the matrix products (both in chunks), or over the logits of
    all tokens at once, as plain scripts do: in one graph with the model if that is compiled as a whole."""
    chunk_logits: int | None = None
    """Logits in memory at once; None: as the model comes."""
    weights: Literal["fp32", "bf16"] = "fp32"
    """What the model computes with: float32 weights under autocast, or bfloat16 ones, which the optimizer
    keeps a float32 master copy of."""
    residual: Literal["fp32", "bf16"] = "fp32"
    """What the layers add to, under autocast."""
    attention: Literal["auto", "flash", "cudnn", "efficient"] = "auto"
    """PyTorch's choice among its kernels, or one of them."""
    optimizer: Literal["fused", "foreach"] = "fused"
    clip: Literal["none", "waiting", "on device"] = "none"
    """Clip gradients to norm 1: `waiting` also brings the norm to the host, as a log needs it."""
    collect_garbage: bool = True
    """Python's collector may run during steps."""


class Contestant(Protocol):
    """What is timed."""

    def step(self) -> None:
        """One optimizer step."""


class OurSteps:
    """Our model, optimizer and batch, as a variant says."""

    def __init__(self, shape: Shape, variant: Variant, device: torch.device) -> None:
        torch.manual_seed(0)
        self.variant = variant
        self.device = device
        self.model = our_model(shape).to(device)
        self.masters: list[torch.Tensor] | None = None
        weights = list(self.model.parameters())
        if variant.weights == "bf16":
            self.masters = [weight.detach().clone() for weight in weights]
            self.model.to(torch.bfloat16)
        elif variant.residual == "bf16":
            _round_embeddings(self.model)
        self.optimizer = make_adamw(
            [{"params": self.masters or weights, "weight_decay": 0.1}], variant.optimizer, lr=1e-4
        )
        self.whole_loss = self._whole_loss
        if variant.loss == "whole" and variant.compile == "model":
            self.whole_loss = torch.compile(self._whole_loss, dynamic=False)
        else:
            compile_model(self.model, variant.compile, variant.lengths)
        self.model.compiles_loss = variant.loss == "compiled"
        self.tokens, self.labels = random_batch(shape, device)

    def step(self) -> None:
        """One optimizer step."""
        self._loss().backward()
        weights = [weight for weight in self.model.parameters() if weight.grad is not None]
        if self.variant.clip != "none":
            norm = nn.utils.clip_grad_norm_(weights, 1.0)
            if self.variant.clip == "waiting":
                float(norm)
        if self.masters is not None:
            self._update_by_masters(self.masters, weights)
        else:
            self.optimizer.step()
        for weight in weights:
            weight.grad = None

    def _loss(self) -> torch.Tensor:
        is_autocast = self.variant.weights == "fp32"
        with (
            _attention_by(self.variant.attention),
            _chunks_of(self.variant.chunk_logits),
            torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=is_autocast),
        ):
            if self.variant.loss == "whole":
                return self.whole_loss(self.tokens, self.labels)
            return self.model(self.tokens, labels=self.labels) / self.labels.numel()

    def _whole_loss(self, tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(self.model(tokens).flatten(0, 1), labels.flatten())

    def _update_by_masters(self, masters: list[torch.Tensor], weights: list[nn.Parameter]) -> None:
        for master, weight in zip(masters, weights, strict=True):
            assert weight.grad is not None
            master.grad = weight.grad.float()
        self.optimizer.step()
        torch._foreach_copy_([weight.data for weight in weights], masters)
        self.optimizer.zero_grad(set_to_none=True)


class PeerSteps:
    """A model whose call is its mean loss, under autocast, with PyTorch's fused AdamW."""

    def __init__(
        self, loss: Callable[..., Any], model: nn.Module, shape: Shape, device: torch.device
    ) -> None:
        self.loss = loss
        self.device = device
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        self.tokens, self.labels = random_batch(shape, device)

    def step(self) -> None:
        """One optimizer step."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            loss = self.loss(self.tokens, self.labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def make_plain(shape: Shape, device: torch.device) -> PeerSteps:
    """A short script's model, compiled, its vocabulary padded as its users know to do."""
    torch.manual_seed(0)
    model = PlainGPT(
        num_layers=shape.num_layers,
        width=shape.hidden_size,
        num_heads=shape.num_heads,
        vocab_size=-(-shape.vocab_size // 128) * 128,
        length=shape.sequence_length,
    ).to(device)
    return PeerSteps(torch.compile(model, dynamic=False), model, shape, device)


def make_huggingface(shape: Shape, device: torch.device, *, compiled: bool) -> PeerSteps:
    """`GPT2LMHeadModel` with PyTorch's attention, as a user starts it or compiled."""
    torch.manual_seed(0)
    model = peer_model(shape, "huggingface").to(device)
    called = torch.compile(model, dynamic=False) if compiled else model

    def loss(tokens: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = called(input_ids=tokens, shift_labels=labels, labels=labels).loss
        return found

    return PeerSteps(loss, model, shape, device)


def random_batch(shape: Shape, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and labels, int64 [rows, sequence]."""
    size = (shape.num_rows, shape.sequence_length + 1)
    ids = torch.randint(0, shape.vocab_size, size).to(device)
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def _round_embeddings(model: Any) -> None:
    """Make what the first layer gets bfloat16: then all layers add in it."""

    def rounded(_: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        return output.to(torch.bfloat16)

    language_model = model.language_model
    for embedding in (language_model.word_embeddings, language_model.position_embeddings):
        embedding.register_forward_hook(rounded)


@contextlib.contextmanager
def _attention_by(name: str) -> Iterator[None]:
    with sdpa_kernel(_BACKENDS[name]) if name in _BACKENDS else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _chunks_of(num_logits: int | None) -> Iterator[None]:
    usual = output_loss.ACCELERATOR_CHUNK_LOGITS
    output_loss.ACCELERATOR_CHUNK_LOGITS = num_logits or usual
    try:
        yield
    finally:
        output_loss.ACCELERATOR_CHUNK_LOGITS = usual
