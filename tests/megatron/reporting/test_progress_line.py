from megatron.reporting import progress_line

RECORD = {
    "step": 120,
    "loss": 5.43219,
    "learning_rate": 3e-4,
    "sequence_length": 256,
    "kept_length": None,
    "effective_tokens": 1_234_567,
    "tokens_per_second": 5_678.0,
    "flops_per_second": 61.5e9,
    "seconds": 90.0,
}


def test_line_says_all():
    assert progress_line(RECORD, fraction_done=0.25, total_steps=480) == (
        "step 120/480 |  25% | loss 5.4322 | lr 3.00e-04 | length 256 | "
        "effective tokens 1.23M | 5.68k tokens/s | 61.5GFLOP/s | 4m 30s left"
    )


def test_line_names_the_kept_length_under_dropping():
    line = progress_line({**RECORD, "kept_length": 96}, fraction_done=0.25)
    assert "| length 256 | kept 96 |" in line
    assert line.startswith("step 120 |")


def test_line_bears_the_ends_of_a_run():
    assert progress_line(RECORD, fraction_done=1.0).endswith("0s left")
    assert "left" not in progress_line(RECORD, fraction_done=0.0)
    assert "loss nan" in progress_line({**RECORD, "loss": None}, fraction_done=1.0)
