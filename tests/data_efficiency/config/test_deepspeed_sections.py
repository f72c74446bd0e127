from data_efficiency.config import load_config
from data_efficiency.config.deepspeed_sections import DEEPSPEED_SECTIONS


def test_the_sections_of_the_engine_are_kept_for_it():
    for section in DEEPSPEED_SECTIONS:
        assert load_config({section: {}}).engine_sections == {section: {}}
