import pytest

from megatron.run_page.found_runs import find_runs


def make_runs(folder, *names):
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "log.jsonl").touch()


def found(*folders):
    return [(run.name, run.arm, run.seed) for run in find_runs(folders)]


def test_a_studys_runs_are_arms_and_seeds_the_baseline_first(tmp_path):
    make_runs(tmp_path, "a/seed10", "a/seed9", "a/seed9_budget0.5", "baseline/seed9", "b/seed1")
    assert found(tmp_path) == [
        ("baseline/seed9", "baseline", 9),
        ("a/seed9", "a", 9),
        ("a/seed9_budget0.5", "a x0.5", 9),
        ("a/seed10", "a", 10),
        ("b/seed1", "b", 1),
    ]


def test_lone_runs_are_called_by_their_folders(tmp_path):
    make_runs(tmp_path, "x", "y/seed3", "deep/er/z")
    assert found(tmp_path / "x") == [("x", "x", None)]
    assert found(tmp_path / "x", tmp_path / "deep" / "er" / "z") == [
        ("deep/er/z", "deep/er/z", None),
        ("x", "x", None),
    ]
    assert found(tmp_path / "y" / "seed3") == [("seed3", "seed3", None)]


def test_a_case_of_a_study_stands_before_the_arm(tmp_path):
    make_runs(tmp_path, "RTE/baseline/seed1", "CoLA/baseline/seed1", "CoLA/a/seed1")
    assert [run.arm for run in find_runs([tmp_path])] == ["CoLA/baseline", "RTE/baseline", "CoLA/a"]


def test_a_folder_given_twice_or_with_another_has_its_runs_once(tmp_path):
    make_runs(tmp_path, "a", "b")
    assert len(found(tmp_path, tmp_path / "a", tmp_path)) == 2


def test_checkpoints_replaced_runs_and_links_are_not_looked_into(tmp_path):
    make_runs(tmp_path / "given", "a", "replaced/a", ".hidden/a", "global_step10/a")
    make_runs(tmp_path, "outside/b")
    (tmp_path / "given" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "given" / "round").symlink_to(tmp_path / "given")
    assert [name for name, _, _ in found(tmp_path / "given")] == ["a"]


def test_no_runs_yet(tmp_path):
    assert find_runs([tmp_path]) == []


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for name in ("gone", "file"):
        with pytest.raises(FileNotFoundError, match=f"{name} is no folder: give a run's"):
            find_runs([tmp_path / name])
