import json

import pytest

from data_efficiency.command import main
from data_efficiency.command.parser import command_parser
from data_efficiency.command.plan_command import add_model_flags, model_shape, read_decay_end
from tests.data_efficiency.test_plan import config, length_metric
from tests.json_sections import metric, random_ltd

FLAGS = "--num-layers 4 --hidden-size 8 --seq-length 32 --train-steps 20 --num-samples 950"


@pytest.fixture
def path(tmp_path):
    content = config({"voc": metric(), "seqlen_truncate": length_metric()}, random_ltd())
    (tmp_path / "config.json").write_text(json.dumps(content))
    return str(tmp_path / "config.json")


def test_table_saving_and_picture(path, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "plan.png"
    assert main(["plan", path, *FLAGS.split(), "--rows", "3", "--picture", str(picture)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["1", "10", "20"]
    assert lines[5].split() == ["20", "steps", "this", "plan", "baseline", "saved"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_picture_over_the_file_that_is_read(path, refused):
    assert "config.json" in refused(main, ["plan", path, *FLAGS.split(), "--picture", path])


@pytest.mark.parametrize("bytes_of_it", ["-5", "0", "nan", "inf"])
def test_a_device_has_some_memory(path, refused, bytes_of_it):
    words = ["plan", path, *FLAGS.split(), "--device-memory", bytes_of_it]
    assert "--device-memory is" in refused(main, words)


def shape(words):
    parser = command_parser("")
    add_model_flags(parser)
    return model_shape(parser.parse_args(words.split()))


def test_what_the_model_flags_leave_out_follows_from_the_others():
    plain = shape("--num-layers 2 --hidden-size 8")
    assert (plain.query_size, plain.key_value_size, plain.ffn_size) == (8, 8, 32)
    assert (plain.num_ffn_matrices, plain.vocab_size) == (2, 50304)
    own = shape(
        "--num-layers 2 --hidden-size 8 --query-size 16 --ffn-hidden-size 9 --swiglu --vocab-size 5"
    )
    assert (own.query_size, own.key_value_size, own.ffn_size) == (16, 16, 9)
    assert (own.num_ffn_matrices, own.vocab_size) == (3, 5)


def test_where_the_learning_rate_ends():
    found = read_decay_end("3e9=effective")
    assert found is not None
    assert (found.amount, found.unit) == (3e9, "effective")
    for wrong in ("5=miles", "many=steps", "nan=steps", "0=steps", "-1=steps", "inf=loss", "5", ""):
        with pytest.raises(ValueError, match=f"--lr-decay is {wrong!r}: must be AMOUNT=UNIT"):
            read_decay_end(wrong)
