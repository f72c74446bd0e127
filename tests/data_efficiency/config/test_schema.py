import copy
import json
from pathlib import Path

import pytest

from data_efficiency.config import Curriculum, DataEfficiencyConfig, RandomLTD, section_of
from data_efficiency.config.schema import config_schema
from tests.data_efficiency.config.test_file import LEGACY, METRICS, PUBLISHED, changed
from tests.data_efficiency.config.test_written import CONTENTS
from tests.json_sections import curriculum_config, metric

jsonschema = pytest.importorskip("jsonschema")
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def validator():
    schema = json.loads(json.dumps(config_schema()))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_every_file_that_is_read_is_right(validator):
    for content in CONTENTS:
        validator.validate(content)
    lines = Curriculum("seqlen", start=8, steps=9), RandomLTD(start=8, steps=9)
    validator.validate({"data_efficiency": section_of(DataEfficiencyConfig.of(*lines))})
    (block,) = (ROOT / "README.md").read_text().split("```json\n")[1:]
    validator.validate(json.loads(block.split("```")[0]))


RANDOM_LTD = "data_efficiency.data_routing.random_ltd"


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("gradient_cliping", 1.0, "'gradient_cliping' was unexpected"),
        ("train_batch_size", 0, "0 is not valid"),
        ("data_efficiency.seed", "x", "'x' is not of type 'integer'"),
        ("data_efficiency.seed", -1, "less than the minimum"),
        (f"{METRICS}.voc.difficulty_type", "percent", "'percent' is not one of"),
        (f"{METRICS}.voc.schedule_type", "fixed_rot", "'fixed_rot' is not one of"),
        (f"{METRICS}.voc.min_difficulty", None, "'min_difficulty' is a required property"),
        (f"{METRICS}.voc.schedule_config", {"difficulty_step": 1}, "'root_degree' is a required"),
        (f"{METRICS}.voc.schedule_config.stepp", 1, "'stepp' was unexpected"),
        (f"{RANDOM_LTD}.random_ltd_layer_id", [1.5], "is not valid"),
        (f"{RANDOM_LTD}.model_type", "coder", "is not valid"),
        (f"{RANDOM_LTD}.random_ltd_schedule.min_value", 0, "less than the minimum"),
        (f"{RANDOM_LTD}.random_ltd_schedule.schedule_config.seq_per_stepp", 1, "was unexpected"),
        ("curriculum_learning", {"enabled": True}, "'curriculum_type' is a required property"),
        ("curriculum_learning", LEGACY | {"index_path": "x"}, "'index_path' was unexpected"),
    ],
)
def test_what_is_wrong_is_told(validator, path, value, told):
    messages = [error.message for error in validator.iter_errors(changed(path, value))]
    assert any(told in message for message in messages), messages


def test_what_is_off_need_not_be_whole(validator):
    content = copy.deepcopy(PUBLISHED)
    content["data_efficiency"]["data_routing"]["random_ltd"] = {"enabled": False}
    validator.validate(content | {"curriculum_learning": {"enabled": False}})


def test_a_kind_that_needs_nothing(validator):
    validator.validate(curriculum_config({"a": metric(schedule_type="custom", schedule_config={})}))
