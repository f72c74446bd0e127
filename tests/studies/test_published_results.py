"""Every published page follows from the results beside it and from its study's file."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch

import pretrain_bert
import pretrain_gpt
from megatron.study import jobs_of, read_study, write_study_report
from megatron.study.results import read_results
from megatron.study.statistics import estimate

FOLDER = Path(__file__).parents[2] / "studies"
STUDIES = [path for path in sorted(FOLDER.glob("*/*.toml")) if "[study]" in path.read_text()]
PUBLISHED = [
    (path, case)
    for path in STUDIES
    for case in read_study(path).cases
    if (read_study(path).results_folder / case / "report.json").is_file()
]
"""Study file and value of its `[each]`, which is empty where it has none."""
REPORTS = {
    path.parent: json.loads(path.read_text())
    for path in sorted(FOLDER.glob("*/*results/**/report.json"))
}

MODELS = {"gpt": pretrain_gpt.make_model, "bert": pretrain_bert.make_model}
"""What pretraining makes of a run's settings, or refuses."""


def tables_of(path):
    """The rows of a page's tables."""
    return [line for line in path.read_text().splitlines() if line.startswith("|")]


def rounded(content):
    """The same with numbers of 9 digits: logarithms differ in their last bits from processor to processor."""
    if isinstance(content, float):
        return float(f"{content:.9g}")
    if isinstance(content, dict):
        return {key: rounded(value) for key, value in content.items()}
    return [rounded(value) for value in content] if isinstance(content, list) else content


def name_of(path):
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", STUDIES, ids=name_of)
def test_a_study_can_be_planned(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = read_study(path)
    jobs = jobs_of(study)
    assert {job.arm.name for job in jobs} == {*study.arms}
    assert study.results_folder is not None, "its results are kept nowhere"
    for job in {job.label: job for job in jobs}.values():
        if job.config.architecture in MODELS:
            with torch.device("meta"):
                MODELS[job.config.architecture](job.config)


def test_every_page_is_of_a_study():
    assert {*REPORTS} == {read_study(path).results_folder / case for path, case in PUBLISHED}


@pytest.mark.parametrize(
    ("path", "case"),
    PUBLISHED,
    ids=[f"{name_of(path)}{case and '-'}{case}" for path, case in PUBLISHED],
)
def test_pages_follow_from_the_results(path, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no run of the study lies
    study = read_study(path)
    study = replace(study, cases={case: study.cases[case]})
    jobs = jobs_of(study)
    kept = study.results_folder / case
    published = json.loads((kept / "report.json").read_text())
    lines = (kept / "results.jsonl").read_text().splitlines()
    assert sum(job.kept is not None for job in jobs) == len(lines), "of other settings"
    write_study_report(replace(study, output=tmp_path / "again", results=None), jobs)
    made = tmp_path / "again" / case
    again = json.loads((made / "report.json").read_text())
    finished = [
        [run for run in report.pop("runs") if run["state"] == "finished"]
        for report in (published, again)
    ]
    assert rounded(finished[0]) == rounded(finished[1])
    assert rounded(again) == rounded(published)
    tables = [tables_of(folder / "report.md") for folder in (kept, made)]
    assert tables[0] == tables[1] != []
    pictures = [matplotlib.image.imread(f / "report.png") for f in (kept, made)]
    assert pictures[0].shape == pictures[1].shape
    assert np.abs(pictures[0] - pictures[1]).mean() < 0.01


MAIN_ARMS = ("baseline", "baseline_batch4", "curriculum", "random_ltd", "curriculum_random_ltd")
BERT_ARMS = ("baseline", "baseline_batch8", "curriculum", "random_ltd", "curriculum_random_ltd")
ROUTES = ("random_ltd", "random_ltd_scaled", "spans", "spans_scaled", "layer_dropout")
BAGS = ("superposition", "superposition_output")
SHAPES = ("cosine", "wsd", "constant")
ORDERS = tuple(f"{order}_{shape}" for order in ("ascending", "random_rank") for shape in SHAPES)
BATCHES = ("baseline", "baseline_batch4")
FINETUNED = ("baseline", "random_ltd", "gentle")


@pytest.mark.parametrize(
    ("heading", "page", "budget", "arms", "beside"),
    [
        (
            "At 1 of the budget",
            "gpt_cpu/results",
            1.0,
            (*MAIN_ARMS, "random_rank", "length_alone", "rarity_alone", "smaller_model"),
            BATCHES,
        ),
        (
            "At 0.5 of the budget",
            "gpt_cpu/results",
            0.5,
            [arm for arm in MAIN_ARMS if arm != "baseline_batch4"],
            BATCHES,
        ),
        ("At 0.25 of the budget", "gpt_cpu/results", 0.25, MAIN_ARMS, BATCHES),
        (
            "Routes at equal effective tokens",
            "routes/results",
            1.0,
            (*BATCHES, *ROUTES, *BAGS, "baseline_as_much_text"),
            BATCHES,
        ),
        (
            "Routes at equal corpus tokens",
            "routes/corpus_results",
            1.0,
            (*BATCHES, *ROUTES, *BAGS),
            BATCHES,
        ),
        (
            "Orders and rates",
            "orders/results",
            1.0,
            ("baseline", "uniform_wsd", "uniform_constant", *ORDERS, "window"),
            ("baseline", "uniform_wsd", "uniform_constant"),
        ),
        (
            "BERT's masked-LM loss",
            "bert_cpu/results",
            1.0,
            BERT_ARMS,
            ("baseline", "baseline_batch8"),
        ),
        *[
            (f"Finetuned in {steps} steps", "finetuning_length/results", budget, FINETUNED, BATCHES)
            for steps, budget in ((20, 0.0625), (80, 0.25), (320, 1.0))
        ],
        *[
            (f"Images, in {steps} steps", "vit_length/results", budget, FINETUNED, BATCHES)
            for steps, budget in ((50, 0.0625), (200, 0.25), (800, 1.0))
        ],
    ],
)
def test_the_page_over_all_says_what_the_reports_say(heading, page, budget, arms, beside):
    """The tables of docs/evidence.md, figure by figure."""
    report = json.loads((FOLDER / page / "report.json").read_text())
    found = figures_of(FOLDER.parent / "docs" / "evidence.md", heading)
    has_bits = page == "gpt_cpu/results"
    has_worth = page not in ("orders/results", "finetuning_length/results", "vit_length/results")
    further = ("test loss",) if page == "vit_length/results" else ()
    wanted = [figures(report, arm, budget, beside, has_bits, has_worth, further) for arm in arms]
    assert list(found.values()) == wanted


def test_the_seconds_of_the_page_over_all_are_the_reports():
    """Beside the baseline's, half and whole budget, and the FLOPs."""
    report = json.loads((FOLDER / "gpt_cpu/results/report.json").read_text())
    found = figures_of(FOLDER.parent / "docs" / "evidence.md", "Seconds")
    ratios = {
        (one["arm"], one["budget"]): one["cost_ratios"]
        for one in report["comparisons"]
        if one["beside"] == "baseline"
    }
    wanted = []
    for arm in ("curriculum", "random_ltd", "curriculum_random_ltd", "baseline_batch4"):
        seconds = [ratios.get((arm, budget), {}).get("seconds") for budget in (0.5, 1.0)]
        texts = [
            f"{one['mean']:.3f}"
            + ("" if one["high"] is None else f" ± {half_width(one):.3f}")
            + f" ({one['num_seeds']})"
            for one in seconds
            if one is not None
        ]
        wanted.append([*texts, f"{ratios[arm, 1.0]['flops']['mean']:.3f}"])
    assert list(found.values()) == wanted


def figures_of(page, heading):
    """First cell -> the other cells with figures, of the table below a heading."""
    section = page.read_text().partition(f"### {heading}")[2].partition("\n#")[0]
    found = {}
    for line in [line for line in section.splitlines() if line.startswith("|")][2:]:
        name, *cells = [cell.strip(" *").replace("*", "") for cell in line.split("|")[1:-1]]
        found[name] = [cell for cell in cells if cell not in ("", "1")]
    return found


def figures(report, arm, budget, bases, has_bits, has_worth, further):
    """What the page says of an arm: loss, bits per byte, differences, and the worth in baseline's tokens."""
    (row,) = [one for one in report["rows"] if (one["arm"], one["budget"]) == (arm, budget)]
    beside = {
        one["beside"]: one
        for one in report["comparisons"]
        if (one["arm"], one["budget"]) == (arm, budget)
    }
    value = row["value"]
    wanted = [f"{value['mean']:.3f} ± {half_width(value):.3f}"]
    if has_bits:
        wanted.append(f"{value['mean'] * 0.47674:.3f}")
    for base in bases:
        if base in beside:
            difference = beside[base]["difference"]
            width = half_width(difference)
            wanted.append(f"{difference['mean']:+.3f} ± {width:.3f}, {beside[base]['verdict']}")
            others = [beside[base]["others"][name] for name in further]
            wanted += [f"{one['mean']:+.3f} ± {half_width(one):.3f}" for one in others]
    if has_worth and arm != "baseline":
        saving = beside["baseline"]["saving_factors"]["effective_tokens"]
        wanted.append(f"{saving['factor']:.2f}x")
    return wanted


def half_width(found):
    return (found["high"] - found["low"]) / 2


@pytest.mark.parametrize(
    "page", ["README.md", "docs/evidence.md", "docs/routes.md", "docs/which_technique.md"]
)
def test_every_interval_that_is_written_stands_in_a_report(page):
    """Also in sentences; but for the README's table, which is the demo's."""
    text = (FOLDER.parent / page).read_text()
    if page == "README.md":
        text = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    written = re.findall(r"(\d+(?:\.\d+)?) ± (\d+(?:\.\d+)?)", text)
    assert written, "nothing is said"
    known = {*intervals_of(REPORTS.values()), *further_intervals()}
    unknown = [
        f"{mean} ± {width}"
        for mean, width in written
        if not any(
            f"{abs(found[0]):.{digits_of(mean)}f}" == mean
            and f"{found[1]:.{digits_of(width)}f}" == width
            for found in known
        )
    ]
    assert unknown == []


def digits_of(number):
    return len(number.partition(".")[2])


def intervals_of(content):
    """(mean, half of the interval) of every estimate, wherever it stands."""
    if isinstance(content, dict):
        if content.get("high") is not None and "mean" in content:
            yield content["mean"], half_width(content)
        content = content.values()
    elif not isinstance(content, list) and isinstance(content, (str, int, float, type(None))):
        return
    for below in content:
        yield from intervals_of(below)


def further_intervals():
    """Differences of two differences that the pages speak of: none is a report's own."""
    kept = read_results(FOLDER / "orders/results/results.jsonl")
    losses = {(one.arm, one.seed): one.value for one in kept}
    costs_of_order = [
        [losses[f"ascending_{shape}", seed] - losses[uniform, seed] for seed in range(1, 6)]
        for shape, uniform in (("constant", "uniform_constant"), ("cosine", "baseline"))
    ]
    found = estimate(np.subtract(*costs_of_order).tolist())
    yield found.mean, found.half_width


def test_another_number_is_noticed(tmp_path, monkeypatch):
    """The test above can fail: one result that is changed gives another page."""
    if not PUBLISHED:
        pytest.skip("nothing is published yet")
    published, case = PUBLISHED[0]
    folder = shutil.copytree(published.parent, tmp_path / "study")
    path = folder / published.name
    file = read_study(path).results_folder / case / "results.jsonl"
    lines = file.read_text().splitlines()
    record = json.loads(lines[0])
    record["value"] += 0.01
    file.write_text("\n".join([json.dumps(record), *lines[1:]]))
    with pytest.raises(AssertionError):
        test_pages_follow_from_the_results(path, case, tmp_path, monkeypatch)
