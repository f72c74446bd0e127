from benchmarks.targets import Target, missed

TARGETS = {"speed": Target(10, True, "users wait"), "memory": Target(2, False, "it is shared")}


def test_a_missed_target_is_named_with_its_reason():
    assert missed(TARGETS, {"speed": 10, "memory": 2}) == []
    assert missed(TARGETS, {"speed": 9, "memory": 1.9}) == [
        "speed is 9, must be at least 10: users wait"
    ]
    assert missed(TARGETS, {"memory": 2.2, "others": 7}) == [
        "memory is 2.2, must be at most 2: it is shared"
    ]
