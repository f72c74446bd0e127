"""Our model beside lm-eval's own Hugging Face model on the same weights, request by request."""

import json
import shutil
from dataclasses import replace

import pytest
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from megatron.conversion.model import read_any, save_as_hugging_face, save_as_ours
from megatron.evaluation.checkpoint_tokenizer import tokenizer_of
from megatron.evaluation.eval_harness import HarnessModel, evaluate_tasks
from megatron.evaluation.generation import continue_texts
from megatron.evaluation.local_tasks import write_task_files
from tests.megatron.evaluation.task_data import write_task_data
from tests.megatron.small_models import LLAMA, TEXTS, make_gpt, save_run
from tests.megatron.tokenizer_kinds import KINDS


# lm-eval's own model cannot encode without a token that ends texts.
@pytest.fixture(scope="module", params=[kind for kind in KINDS if kind != "wordpiece"])
def folders(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tokenizer = KINDS[request.param]()
    config = replace(LLAMA, vocab_size=tokenizer.vocab_size)
    run = save_run(folder / "run", make_gpt(config), tokenizer)
    save_as_hugging_face(read_any(run), folder / "theirs", tokenizer)
    return run, folder / "theirs"


@pytest.fixture(scope="module")
def models(folders):
    ours = HarnessModel(folders[0], batch_size=3, device="cpu")
    theirs = HFLM(
        pretrained=str(folders[1]), device="cpu", dtype="float32", batch_size=3, max_length=48
    )
    return ours, theirs


def beginning_of(model):
    """What a text begins with that has its first token already."""
    return model.text.special_tokens.get("bos_token", model.text.special_tokens["eos_token"])


def requests(kind, *arguments):
    return [
        Instance(request_type=kind, doc={}, arguments=pair, idx=number)
        for number, pair in enumerate(arguments)
    ]


def test_log_likelihoods(models):
    pairs = [
        ("the cat sat on", " the mat"),
        ("the cat sat on", " a dog"),
        ("a", "!"),
        ("a dog ran after the cat ", "what"),
        ("", "the mat is flat"),
        (" ".join(TEXTS), " the cat"),
        ("the ☃", " sat"),
        (beginning_of(models[0]) + "the cat", " sat"),
    ]
    ours, theirs = (
        model.loglikelihood(requests("loglikelihood", *pairs), disable_tqdm=True)
        for model in models
    )
    assert [score for score, _ in ours] == pytest.approx([s for s, _ in theirs], abs=1e-3)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


def test_rolling_log_likelihoods(models):
    texts = [("a mat is flat",), (" ".join(TEXTS[:9]),), ("x",), (beginning_of(models[0]) + "a",)]
    ours, theirs = (
        model.loglikelihood_rolling(requests("loglikelihood_rolling", *texts), disable_tqdm=True)
        for model in models
    )
    assert ours == pytest.approx(theirs, abs=5e-3)


def test_generation(models):
    stop = {"until": ["\n", "t"], "max_gen_toks": 12, "do_sample": False}
    more = {"until": [], "max_gen_toks": 20, "do_sample": False}
    asked = [
        ("the cat", stop),
        ("what is", more),
        ("a dog ran", stop),
        (" ".join(TEXTS), more),
        ("flat", more),
    ]
    if "bos_token" in models[0].text.special_tokens and models[1].tokenizer("")["input_ids"]:
        # Without a token of a template theirs cannot begin.
        asked.append(("", more))
    ours, theirs = (
        model.generate_until(requests("generate_until", *asked), disable_tqdm=True)
        for model in models
    )
    assert ours == theirs
    assert any(ours)


def test_an_empty_prompt_begins_a_document(models):
    more = {"until": [], "max_gen_toks": 5, "do_sample": False}
    asked = requests("generate_until", ("", more))
    first = models[0].tok_encode("") or [models[0].text.beginning]
    assert len(first) == 1
    expected = continue_texts(models[0].gpt, models[0].text, [first], 5)
    assert models[0].generate_until(asked, disable_tqdm=True) == expected


def test_registered_under_its_name(folders):
    model_class = get_model("data_efficiency")
    assert model_class is HarnessModel
    made = model_class.create_from_arg_string(
        f"checkpoint={folders[0]},max_length=16", {"batch_size": 2, "device": "cpu"}
    )
    assert (made.max_length, made.rank, made.world_size) == (16, 0, 1)


@pytest.mark.parametrize(("name", "text"), [("copa", "query"), ("lambada_openai", "context")])
def test_a_question_is_not_among_its_own_examples(name, text, tmp_path):
    """Drawn from all questions, the answer stood before one in ten of COPA's hundred."""
    task = f"local_{name}"
    write_task_files(write_task_data(tmp_path / "data"), tmp_path / "tasks", [task])
    manager = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    found = manager.load(task)["tasks"][task]
    found.set_fewshot_seed(1234)
    questions = [*found.test_docs()]
    for question in questions:
        context = found.fewshot_context(question, len(questions) - 1)
        assert all(context.count(one[text].strip()) == 1 for one in questions)


def test_unknown_task(models, tmp_path):
    write_task_files(write_task_data(tmp_path), tmp_path / "tasks")
    with pytest.raises(ValueError, match=r"names 'local_piqqa', .* did you mean local_piqa"):
        evaluate_tasks(
            models[0],
            ["local_piqqa"],
            num_fewshot=None,
            task_folder=tmp_path / "tasks",
            only_task_folder=True,
        )


@pytest.mark.full
def test_unknown_task_among_those_of_lm_eval(models):
    with pytest.raises(ValueError, match=r"names 'helaswag', .* did you mean .*hellaswag"):
        evaluate_tasks(models[0], ["helaswag"], num_fewshot=None)


def test_bad_input(models, folders):
    with pytest.raises(ValueError, match="batch_size is 'auto': must be a whole number above 0"):
        HarnessModel(folders[0], batch_size="auto", device="cpu")
    long = requests("generate_until", ("a", {"max_gen_toks": 48}))
    with pytest.raises(ValueError, match="asks for 48 new tokens: the model has 48 positions"):
        models[0].generate_until(long, disable_tqdm=True)


@pytest.mark.parametrize(
    ("asked", "refused"),
    [
        ({"repetition_penalty": 1.2}, "repetition_penalty is 1.2"),
        ({"suppress_tokens": [3]}, r"suppress_tokens is \[3\]"),
        ({"repetition_penalty": 1.0, "temperature": 0.5, "do_sample": True, "top_p": 0.9}, None),
    ],
)
def test_a_generation_configuration_is_followed_or_refused(folders, tmp_path, asked, refused):
    shutil.copytree(folders[1], tmp_path / "source")
    path = tmp_path / "source" / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | asked))
    tokenizer = tokenizer_of(tmp_path / "source")
    save_as_ours(read_any(tmp_path / "source"), tmp_path / "ours", tokenizer, None)
    ours = HarnessModel(tmp_path / "ours", device="cpu")
    questions = requests("generate_until", ("the cat", {"max_gen_toks": 5, "do_sample": False}))
    if refused is not None:
        with pytest.raises(ValueError, match=f"{refused} in the model's generation_config.json"):
            ours.generate_until(questions, disable_tqdm=True)
        return
    theirs = HFLM(pretrained=str(tmp_path / "source"), device="cpu", dtype="float32")
    found = [model.generate_until(questions, disable_tqdm=True) for model in (ours, theirs)]
    assert found[0] == found[1]
