"""A little data for each local task, in the format of the real files."""

import json

WIKITEXT = """ \n = First Page = \n \n The cat sat . \n = = A part = = \n It sat , again . \n \n = B2 = \n \n A dog . \n"""
_CHOICES = [
    {"query": f"Question: what is a {thing}?\n", "choices": ["a cat", "the flat mat"], "gold": gold}
    for gold, thing in ((1, "mat"), (0, "cat"), (1, "rug"), (0, "dog"))
]
FILES = {
    "lambada_openai.jsonl": [
        {"context": "the cat sat on the", "continuation": "mat"},
        {"context": "a dog ran after the", "continuation": "cat"},
        {"context": "a mat is", "continuation": "flat."},
    ],
    "piqa.jsonl": _CHOICES,
    "arc_easy.jsonl": _CHOICES,
    "arc_challenge.jsonl": _CHOICES,
    "openbook_qa.jsonl": _CHOICES,
    "boolq.jsonl": [
        {"query": "Passage: a cat.\nQuestion: is it?", "choices": ["no", "yes"], "gold": gold}
        for gold in (0, 1, 1)
    ],
    "copa.jsonl": _CHOICES,
    "winograd_wsc.jsonl": [
        {
            "context_options": ["the cat ran because the cat", "the cat ran because the dog"],
            "continuation": "ran.",
            "gold": gold,
        }
        for gold in (0, 1)
    ],
}


def write_task_data(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name, items in FILES.items():
        (folder / name).write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / "wikitext-2.test.txt").write_text(WIKITEXT)
    return folder
