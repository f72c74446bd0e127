from dataclasses import fields

from megatron.config import FilesConfig, SourceConfig


def test_every_run_is_read_from_a_file_and_a_json_and_pretraining_from_models_too():
    own = {one.name for one in fields(FilesConfig)} - {one.name for one in fields(SourceConfig)}
    assert own == {"model", "scale_down", "print_analysis"}
    assert FilesConfig() == FilesConfig(config=None, deepspeed_config=None, scale_down=False)
