from data_efficiency.config import Config, load_config
from data_efficiency.json_keys import DEEPSPEED_SECTIONS, JSON_KEYS


def test_every_documented_top_level_key_is_accepted():
    top_level = {key for key in JSON_KEYS if "." not in key}
    assert top_level <= set(Config.__dataclass_fields__)
    for section in DEEPSPEED_SECTIONS:
        assert load_config({section: {}}).engine_sections == {section: {}}


def test_meanings_are_sentences():
    assert all(meaning.endswith(".") for meaning in JSON_KEYS.values())
