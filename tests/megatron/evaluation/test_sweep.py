import pytest

from megatron.evaluation.sweep import (
    evaluations,
    find_checkpoints,
    rows_and_examples,
    rows_of,
)


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_a_checkpoint_a_run_or_a_folder_of_runs(tmp_path):
    for name in ("one", "two/seed_1", "two/seed_2"):
        touch(tmp_path / name / "latest")
    touch(tmp_path / "replaced" / "one_1" / "latest")
    for step in (5, 40, 100):
        touch(tmp_path / "one" / f"global_step{step}" / "manifest.json")
    (tmp_path / "one" / "global_step40.damaged").mkdir()
    assert list(find_checkpoints(tmp_path)) == ["one", "two/seed_1", "two/seed_2"]
    steps = find_checkpoints(tmp_path / "one")
    assert list(steps) == ["global_step5", "global_step40", "global_step100"]
    assert find_checkpoints(steps["global_step40"]) == {"global_step40": steps["global_step40"]}
    assert find_checkpoints(tmp_path / "one", latest=True) == {"one": tmp_path / "one"}
    assert list(find_checkpoints(tmp_path / "two", latest=True)) == ["two/seed_1", "two/seed_2"]
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "two").symlink_to(tmp_path / "two")
    assert list(find_checkpoints(tmp_path / "link")) == ["two/seed_1", "two/seed_2"]
    with pytest.raises(ValueError, match="no run and no checkpoint in it"):
        find_checkpoints(tmp_path / "nowhere")


def test_each_checkpoint_has_each_row(tmp_path):
    for name in ("one", "two/seed_1", "two/seed_2"):
        touch(tmp_path / name / "latest")
    rows = rows_and_examples("local", "rte,wsc copa", 5)
    found = evaluations(find_checkpoints(tmp_path), tmp_path / "r", rows)
    assert len(found) == 3 * (7 + 2)
    assert found[2].output == tmp_path / "r/one/0shot/local_boolq+local_copa.json"
    assert found[-1].output == tmp_path / "r/two/seed_2/5shot/copa.json"
    assert found[-2].title == "two/seed_2, 5 examples: rte,wsc"
    assert [found[place].model for place in (0, -1)] == ["one", "two"]
    assert len(rows_of("published_few_shot")) == 16
    with pytest.raises(ValueError, match="nothing to evaluate"):
        rows_and_examples("none", "none", 5)
