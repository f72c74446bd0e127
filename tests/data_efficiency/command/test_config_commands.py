import copy
import json

from data_efficiency.command import main
from data_efficiency.config import load_config
from tests.data_efficiency.config.test_file import LEGACY, PUBLISHED


def test_the_schema_is_printed(capsys):
    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["properties"]["train_batch_size"]["description"].startswith("Samples of a global")


def migrated(content, tmp_path, capsys, caplog):
    """What is printed, and the notes."""
    (tmp_path / "old.json").write_text(json.dumps(content))
    caplog.clear()
    assert main(["migrate", str(tmp_path / "old.json")]) == 0
    return json.loads(capsys.readouterr().out), caplog.messages


def test_a_published_file_is_said_in_todays_words(tmp_path, capsys, caplog):
    content = copy.deepcopy(PUBLISHED)
    content["data_efficiency"]["data_routing"]["random_ltd"]["micro_batch_size"] = 8
    new, notes = migrated(content, tmp_path, capsys, caplog)
    assert load_config(new).data_efficiency == load_config(PUBLISHED).data_efficiency
    assert new["fp16"] == PUBLISHED["fp16"]
    metrics = new["data_efficiency"]["data_sampling"]["curriculum_learning"]["curriculum_metrics"]
    assert metrics["voc"]["index_path"] == "/data/index_to_sample_percentile_merged"
    assert any("metric voc reads" in note and "say trust_order" in note for note in notes)
    (unused,) = [note for note in notes if "not used, and left out" in note]
    assert "data_efficiency.data_routing.random_ltd.micro_batch_size" in unused
    again, _ = migrated(new, tmp_path, capsys, caplog)
    assert again == new


def test_the_older_section_becomes_a_metric(tmp_path, capsys, caplog):
    new, notes = migrated({"curriculum_learning": LEGACY}, tmp_path, capsys, caplog)
    assert "curriculum_learning" not in new
    assert any("is the metric seqlen_truncate now" in note for note in notes)
    found = load_config(new).data_efficiency
    assert found == load_config({"curriculum_learning": LEGACY}).data_efficiency


def test_all_that_is_not_understood_is_told(tmp_path, refused):
    content = {"data_efficiency": {"sed": 1}, "optimiser": {}}
    (tmp_path / "old.json").write_text(json.dumps(content))
    line = refused(main, ["migrate", tmp_path / "old.json"])
    assert "data_efficiency.sed is not a known key" in line
    assert "optimiser is not a known key" in line
