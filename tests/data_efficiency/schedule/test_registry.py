import pytest

from data_efficiency.schedule import RootSchedule, register_schedule


def test_kinds_that_cannot_be_registered():
    with pytest.raises(ValueError, match="'fixed_root' is taken"):
        register_schedule("fixed_root", RootSchedule)
    with pytest.raises(ValueError, match="dict cannot be schedule_type 'own': must be a frozen"):
        register_schedule("own", dict)
