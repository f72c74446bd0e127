"""The page of runs: what a real run logs and plans is what it shows, in a real browser."""

import json
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

import pretrain_gpt
from megatron.run_page import PageServer, Runs, live_assets, static_page
from megatron.tokenizer import build_tokenizer
from tests.end_to_end.engine_runs import log_lines
from tests.end_to_end.tiny_runs import ROOT, composed_flags, write_composed

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
ODD_NAME = "<img src=x onerror=document.title='broken'> & \"quoted\" <b>'s"
SWITCHES = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
)
SECONDS = 30


@pytest.fixture(scope="module")
def run_folder(workspace, tmp_path_factory):
    """A run with both techniques that wrote texts and ended by its tokens."""
    folder = tmp_path_factory.mktemp("runs") / "both"
    config = write_composed(workspace / "page.json", workspace)
    flags = composed_flags(workspace, config, save=folder, train_iters=None)
    flags += ["--train-tokens", "3000", "--lr-decay-tokens", "3000"]
    flags += ["--sample-prompts", "abcd", "<b>&", "--sample-interval", "8", "--sample-tokens", "5"]
    assert pretrain_gpt.main(flags) == 0
    return folder


def snapshot_of(folder, *data):
    found = Runs([folder], data).snapshot()
    return json.loads(json.dumps(found, allow_nan=False))


def test_the_plan_beside_a_run_is_what_the_run_logged(run_folder, workspace):
    [run] = snapshot_of(run_folder, workspace)["runs"]
    logged = [line for line in log_lines(run_folder) if line["kind"] == "train"]
    assert run["plan"]["last_step"] == logged[-1]["step"]
    assert {row["name"] for row in run["plan"]["beside"]} >= {"corpus tokens", "layer tokens"}
    assert all(row["planned"] == row["logged"] for row in run["plan"]["beside"])
    columns = run["plan"]["columns"]
    assert columns["step"] == [line["step"] for line in logged]
    for name in ("sequence_length", "kept_length", "pool_size", "corpus_tokens"):
        values = [line[name] for line in logged]
        assert columns[name] == values
        assert len(set(values)) > 2
    assert columns["effective_tokens"] == pytest.approx(
        [line["effective_tokens"] for line in logged], rel=1e-5
    )


def test_texts_by_difficulty_are_those_of_the_samples(run_folder, workspace):
    found = snapshot_of(run_folder, workspace)
    [index] = found["indexes"]
    assert (index["metric"], index["num_samples"]) == ("vocab_rarity", 606)
    assert [sample["place"] for sample in index["samples"]][::2] == ["easiest", "median", "hardest"]
    difficulties = [sample["difficulty"] for sample in index["samples"]]
    assert difficulties == sorted(difficulties)
    assert difficulties[0] < difficulties[-1]
    config = json.loads((run_folder / "log.jsonl").read_text().splitlines()[0])["settings"]["data"]
    dataset = pretrain_gpt.open_dataset(
        pretrain_gpt.GPTDataset,
        config["data_path"],
        split_name="train",
        split=config["split"],
        sequence_length=config["seq_length"],
    )
    tokenizer = build_tokenizer(tokenizer_file=config["tokenizer_file"])
    for sample in index["samples"]:
        tokens = dataset.get_batch([sample["sample"]])["tokens"][0].tolist()
        assert sample["text"].startswith(tokenizer.decode(tokens))


def test_without_the_datas_folder_only_the_texts_are_missing(run_folder):
    found = snapshot_of(run_folder)
    [index] = found["indexes"]
    assert "give it by --data" in index["problem"]
    assert "samples" not in index
    assert found["runs"][0]["plan"]["columns"]["pool_size"][0] < 606


@contextmanager
def browser(tmp_path, *, width=1400, dark=False, complains=False):
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("Chromium or its driver is not installed")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    service = pytest.importorskip("selenium.webdriver.chrome.service")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for switch in (*SWITCHES, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(switch)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=service.Service(DRIVER))
    try:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        yield driver
        complaints = [line["message"] for line in driver.get_log("browser")]
        assert complains or complaints == []
    finally:
        driver.quit()


def wait_for(driver, script, wanted=True):
    """What a script gives, once it is what is wanted."""
    until = time.monotonic() + SECONDS
    while (found := driver.execute_script(f"return {script}")) != wanted:
        assert time.monotonic() < until, f"{script} is {found!r}, not {wanted!r}"
        time.sleep(0.1)


DRAWN = "Number(document.documentElement.dataset.drawn || 0) >= 1"
FITS = "document.documentElement.scrollWidth <= window.innerWidth"
CHARTS_IN_CARDS = """[...document.querySelectorAll('figure')].every((figure) =>
    figure.querySelector('.main-svg').getBoundingClientRect().right <= figure.getBoundingClientRect().right)"""


def states(driver):
    return driver.execute_script(
        "return [...document.querySelectorAll('#runs .state')].map((one) => one.textContent)"
    )


@contextmanager
def served(folder, *data):
    runs = Runs([folder], data)
    with PageServer("127.0.0.1", 0, live_assets(folder.name), runs.snapshot) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.address
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.browser
def test_the_page_grows_with_the_run_and_bears_a_kill_and_a_resume(run_folder, tmp_path):
    """The log of a real run is written again before the page's eyes, line by line."""
    lines = (run_folder / "log.jsonl").read_text().splitlines(keepends=True)
    middle = next(place for place, line in enumerate(lines) if '"step": 10,' in line)
    folder = tmp_path / "study" / "arm" / "seed1"
    folder.mkdir(parents=True)
    log = folder / "log.jsonl"
    log.write_text("".join(lines[:middle]) + lines[middle][:40])
    with served(tmp_path / "study") as address, browser(tmp_path) as driver:
        driver.get(address)
        wait_for(driver, DRAWN)
        step = "document.querySelector('#runs [data-name=step]').textContent"
        wait_for(driver, step, "9")
        driver.execute_script(
            "window.sameDocument = true; document.querySelectorAll('#axes button')[1].click()"
        )
        assert states(driver) == ["training"]
        with log.open("a") as file:
            file.write(lines[middle][40:] + "".join(lines[middle + 1 : middle + 3]))
        wait_for(driver, step, "11")
        # Killed; the resumed run cuts its log back to the checkpoint and goes on.
        log.unlink()
        log.write_text("".join(lines[: middle - 2]) + '{"kind": "resume", "step": 8}\n')
        wait_for(driver, step, "8")
        with log.open("a") as file:
            file.write("".join(lines[middle - 2 :]))
        wait_for(driver, "document.querySelector('#runs .state').textContent", "finished")
        assert "resumed 1x" in driver.execute_script("return document.body.innerText")
        assert driver.execute_script("return window.sameDocument") is True
        axis = "document.querySelector('#axes [aria-checked=true]').textContent"
        wait_for(driver, axis, "effective tokens")
        drawn = driver.execute_script("return document.querySelector('#losses .chart').data[0].x")
        assert drawn == pytest.approx(
            [line["effective_tokens"] for line in log_lines(run_folder) if line["kind"] == "valid"],
            rel=1e-5,
        )


@pytest.mark.browser
@pytest.mark.full
def test_a_server_that_has_ended_is_told(run_folder, tmp_path):
    command = [sys.executable, "tools/watch.py", str(run_folder), "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with process, browser(tmp_path, complains=True) as driver:
        driver.get(process.stdout.readline().split()[0])
        wait_for(driver, "document.getElementById('live').textContent", "live")
        process.terminate()
        assert process.wait(SECONDS) == 143
        wait_for(driver, "document.getElementById('live').dataset.state", "lost")
        # What was there stays to be read.
        assert states(driver) == ["finished"]


@pytest.mark.browser
@pytest.mark.parametrize(
    ("width", "dark"),
    [
        (1400, False),
        pytest.param(1000, True, marks=pytest.mark.full),
        pytest.param(390, False, marks=pytest.mark.full),
    ],
)
def test_a_file_shows_everything_and_takes_odd_names_for_names(
    run_folder, workspace, tmp_path, width, dark
):
    study = tmp_path / "study"
    for arm in ("baseline", ODD_NAME.replace("/", "")):
        for seed in (1, 2):
            folder = study / arm / f"seed{seed}"
            folder.mkdir(parents=True)
            shutil.copy(run_folder / "log.jsonl", folder)
    # Beside them a run that has not begun, and a log that says next to nothing.
    for name, text in (("waits", ""), ("odd", '{"kind": "start"}\n{"kind": "valid", "step": 2}\n')):
        (study / name).mkdir()
        (study / name / "log.jsonl").write_text(text)
    snapshot = snapshot_of(study, workspace)
    (tmp_path / "page.html").write_text(static_page(ODD_NAME, snapshot, "today"))
    with browser(tmp_path, width=width, dark=dark) as driver:
        driver.get((tmp_path / "page.html").as_uri())
        wait_for(driver, DRAWN)
        assert driver.title == ODD_NAME
        text = driver.execute_script("return document.body.innerText")
        for words in (ODD_NAME, "Plan beside run", "<b>&", "hardest", "vocab_rarity"):
            assert words in text
        assert driver.execute_script("return document.documentElement.dataset.theme") == (
            "dark" if dark else "light"
        )
        counts = "return [document.images.length, document.querySelectorAll('figure').length]"
        assert driver.execute_script(counts) == [0, 9]
        wait_for(driver, CHARTS_IN_CARDS)
        wait_for(driver, FITS)
        assert {*states(driver)} == {"finished", "waiting", "training"}
        # An arm is hidden by its name, and comes back.
        traces = "document.querySelector('#losses .chart').data.length"
        both = driver.execute_script(f"return {traces}")
        driver.execute_script("document.querySelectorAll('#arms button')[1].click()")
        wait_for(driver, traces, both / 2)
        driver.execute_script("document.querySelectorAll('#arms button')[1].click()")
        wait_for(driver, traces, both)
        # The texts of an earlier step.
        last = driver.execute_script("return document.querySelector('#written').innerText")
        driver.execute_script(
            "const s = document.getElementById('writing'); s.value = 0; s.oninput()"
        )
        assert "step 8" in driver.execute_script(
            "return document.getElementById('writing-step').textContent"
        )
        assert driver.execute_script("return document.querySelector('#written').innerText") != last
        assert driver.title == ODD_NAME
