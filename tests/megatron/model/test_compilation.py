from functools import partial
from itertools import product

import pytest
import torch
from torch._dynamo.utils import clear_compilation_metrics, get_compilation_metrics

from data_efficiency import LayerDropout, RandomLTD, convert_to_random_ltd
from data_efficiency.config import DataEfficiencyConfig
from megatron.model import compilation
from megatron.model.compilation import compile_model
from megatron.model.gpt_model import GPTModel
from megatron.model.transformer import TransformerLayer
from tests.json_sections import dropping_config
from tests.megatron.small_models import MODERN, tiny

# The compiler itself looks at the gradients of tensors that have none, and imports old parts of torch.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    # It makes an object of a function's class to trace it.
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    # A GPU's compiler advises to compute less exactly.
    pytest.mark.filterwarnings("ignore:TensorFloat32:UserWarning"),
]

LONGEST = 48
GROUPED = MODERN | {"num_key_value_heads": 1}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()
    clear_compilation_metrics()
    with torch._dynamo.config.patch(recompile_limit=8, fail_on_recompile_limit_hit=False):
        yield
    torch.compiler.reset()


make_model = partial(
    tiny, GPTModel, num_layers=4, num_attention_heads=2, max_position_embeddings=LONGEST
)


def attach(model):
    config = dropping_config(least=8, most=LONGEST, steps=10)
    convert_to_random_ltd(model, TransformerLayer, config)


def train_and_evaluate(model, num_steps):
    """Losses and gradient norms of a schedule: the length grows every second step, the kept length
    every step up to no dropping; every fifth step evaluates, at the end with fewer rows."""
    found = []
    for step in range(num_steps):
        length = min(LONGEST, 16 + 8 * (step // 2))
        generator = torch.Generator().manual_seed(step)
        ids = torch.randint(0, 60, (2, 5, length), generator=generator)
        tokens, labels = ids.to(next(model.parameters()).device)
        model.random_ltd_scheduler.set_position(step, 0)
        loss = model(tokens.clone(), labels=labels.clone()) / labels.numel()
        model.zero_grad()
        loss.backward()
        gradients = [parameter.grad.norm() for parameter in model.parameters()]
        found += [loss.item(), torch.stack(gradients).norm().item()]
        if step % 5 == 4:
            rows = tokens[: 5 - step // 9]
            with torch.no_grad():
                found.append(model.eval()(rows.clone(), labels=rows.clone()).item())
            model.train()
    return found


def recompilations():
    """Function -> compilations after its first one."""
    found: dict[str, int] = {}
    for metrics in get_compilation_metrics():
        again = int(metrics.compile_id.split("/")[1])
        name = f"{metrics.co_filename}:{metrics.co_name}"
        found[name] = max(again, found.get(name, 0))
    return found


@pytest.mark.parametrize(
    ("mode", "architecture"), [("model", {}), ("layers", {}), ("layers", GROUPED)]
)
def test_two_recompilations_at_most_in_a_whole_schedule(mode, architecture):
    """The first sequence is as long as a head is wide: the compiler must not take them for one."""
    plain, compiled = make_model(**architecture), make_model(**architecture)
    compile_model(compiled, mode, backend="eager")
    for model in (plain, compiled):
        attach(model)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    expected = train_and_evaluate(plain, 12)
    assert not get_compilation_metrics()
    torch.testing.assert_close(train_and_evaluate(compiled, 12), expected)
    counts = recompilations()
    assert counts
    assert max(counts.values()) <= 2, counts


@pytest.mark.full
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("architecture", [{}, GROUPED], ids=["gpt2", "modern"])
@pytest.mark.parametrize("mode", ["model", "layers"])
def test_compiled_code_computes_the_same(mode, architecture, recompute):
    plain, compiled = (make_model(**architecture, recompute_activations=recompute) for _ in "ab")
    for model in (plain, compiled):
        attach(model)
    compile_model(compiled, mode)
    expected = train_and_evaluate(plain, 12)
    torch.testing.assert_close(train_and_evaluate(compiled, 12), expected, rtol=1e-4, atol=1e-5)
    assert max(recompilations().values()) <= 2


@pytest.mark.parametrize("mode", ["model", "layers"])
def test_static_lengths_are_compiled_one_by_one_and_kept_lengths_together(mode):
    """Three lengths, two numbers of rows in evaluation, a kept length of its own each step."""
    plain, compiled = make_model(), make_model()
    compile_model(compiled, mode, "static", backend="eager")
    for model in (plain, compiled):
        attach(model)
    expected = train_and_evaluate(plain, 6)
    torch.testing.assert_close(train_and_evaluate(compiled, 6), expected)
    before = recompilations()
    assert max(before.values()) >= 2
    torch.testing.assert_close(train_and_evaluate(compiled, 6), train_and_evaluate(plain, 6))
    assert recompilations() == before


def test_more_lengths_than_can_be_compiled_are_an_error(monkeypatch):
    monkeypatch.setattr(compilation, "MOST_COMPILATIONS", 8)
    model = make_model()
    compile_model(model, "layers", "static", backend="eager")
    batches = (torch.zeros((1, length), dtype=torch.int64) for length in range(2, LONGEST))
    with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
        all(model(tokens, labels=tokens) > 0 for tokens in batches)


def test_the_loss_is_compiled_with_the_model():
    model = make_model()
    compile_model(model, "none")
    assert not model.compiles_loss
    compile_model(model, "layers", backend="eager")
    assert model.compiles_loss


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize(("mode", "lengths"), [("layers", "dynamic"), ("model", "static")])
def test_compiled_code_computes_the_same_on_a_gpu(mode, lengths):
    """In float32, dropping and not, beside the model that is not compiled."""
    plain, compiled = make_model().cuda(), make_model().cuda()
    compile_model(compiled, mode, lengths)
    for model in (plain, compiled):
        attach(model)
    expected = train_and_evaluate(plain, 5)
    torch.testing.assert_close(train_and_evaluate(compiled, 5), expected, rtol=1e-3, atol=1e-4)


def test_none_compiles_nothing():
    model = make_model()
    compile_model(model, "none", backend="no such backend")
    attach(model)
    train_and_evaluate(model, 1)
    assert not get_compilation_metrics()


@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("kind", ["attention_window", "sliding_window"])
def test_a_few_pieces_of_code_serve_all_windows(kind, drops):
    """Rows of whole blocks, with a rest, and of one block and a rest. Kept tokens have the room they may need."""
    if drops and kind == "sliding_window":
        return
    plain, compiled = make_model(), make_model()
    compile_model(compiled, "layers", backend="eager")
    for model in (plain, compiled) if drops else ():
        attach(model)
    before, losses = compilation.num_compilations(), []
    tokens = torch.arange(LONGEST).repeat(2, 1)
    for step, size in enumerate((16, 20, 24, 28, 32)):
        for model in (plain, compiled):
            if drops:
                model.random_ltd_scheduler.set_position(step, 0)
            losses.append(model(tokens, labels=tokens, **{kind: size}).item())
    assert losses[::2] == pytest.approx(losses[1::2])
    assert compilation.num_compilations() - before <= 5


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("mode", ["model", "layers"])
def test_documents_are_cut_outside_compiled_code(mode, drops, recompute):
    """However many there are, and however long: the same loss, and no more code."""
    plain, compiled = (make_model(recompute_activations=recompute) for _ in "ab")
    compile_model(compiled, mode, backend="eager")
    for model in (plain, compiled) if drops else ():
        attach(model)
    losses, pieces = [], []
    tokens = torch.arange(LONGEST).repeat(2, 1)
    for step, size in enumerate((3, 7, 16, 40)):
        ids = (tokens // size).contiguous()
        for model in (plain, compiled):
            if drops:
                model.random_ltd_scheduler.set_position(step, 0)
            loss = model(tokens, labels=tokens, document_ids=ids, position_ids=tokens % size)
            loss.backward()
            losses.append(loss.item())
        pieces.append(compilation.num_compilations())
    assert losses[::2] == pytest.approx(losses[1::2])
    assert pieces[1] == pieces[-1]


def train_on_bags(model, num_steps=6):
    """Losses and gradient norms: bags of three in the first half of the steps, plain tokens in the second."""
    found = []
    for step in range(num_steps):
        generator = torch.Generator().manual_seed(step)
        is_plain = 2 * step >= num_steps
        ids = torch.randint(0, 60, (2, 6, LONGEST, 3), generator=generator)
        tokens, labels = ids[..., 0].contiguous() if is_plain else ids
        weights = None if is_plain else torch.tensor([0.5, 0.3, 0.2])
        if router := getattr(model, "random_ltd_scheduler", None):
            router.set_position(step, 0)
        loss = model(tokens, labels=labels, label_weights=weights) / tokens.numel()
        model.zero_grad()
        loss.backward()
        gradients = [parameter.grad.norm() for parameter in model.parameters()]
        found += [loss.item(), torch.stack(gradients).norm().item()]
        if step % 3 == 2:
            with torch.no_grad():
                found.append(model.eval()(ids[0, ..., 0], labels=ids[1, ..., 0]).item())
            model.train()
    return found


ROUTES = {
    "bags": (),
    "dropping": (RandomLTD(start=8, end=LONGEST, steps=10, step_size=8, layers=[1, 2]),),
    "layers": (
        RandomLTD(start=8, end=LONGEST, steps=10, step_size=8, layers=[[1, 2]]),
        LayerDropout(start=40, steps=10, rows_per_group=6),
    ),
}
INDUCTOR = pytest.param("inductor", marks=pytest.mark.full)
QUICK = [("layers", "dynamic", "bags"), ("model", "static", "bags")]
COMPILED = [
    case if case in QUICK else pytest.param(*case, marks=pytest.mark.full)
    for case in product(("model", "layers"), ("dynamic", "static"), ROUTES)
]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("backend", ["eager", INDUCTOR])
@pytest.mark.parametrize(("mode", "lengths", "routes"), COMPILED)
def test_bags_and_then_tokens_have_a_piece_of_code_each(mode, lengths, routes, backend):
    """Evaluation has the third, and a second run of the same steps needs no other."""
    plain, compiled = make_model(**MODERN), make_model(**MODERN)
    compile_model(compiled, mode, lengths, backend=backend)
    for model in (plain, compiled) if ROUTES[routes] else ():
        section = DataEfficiencyConfig.of(*ROUTES[routes], seed=3)
        convert_to_random_ltd(model, TransformerLayer, section)
    expected, found = train_on_bags(plain), train_on_bags(compiled)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    before = recompilations()
    assert 0 < max(before.values()) <= (3 if routes == "dropping" else 2), before
    torch.testing.assert_close(train_on_bags(compiled), train_on_bags(plain), rtol=1e-4, atol=1e-5)
    assert recompilations() == before
