import json
from dataclasses import asdict

import pytest

from data_efficiency.differences import differing_fields
from data_efficiency.sampling.sampler_state import SamplerIdentity, SamplerState

IDENTITY = SamplerIdentity(
    seed=1, dataset="da7a", metrics={"rarity": {"values": "f00d"}}, part_weights=None
)


def test_a_run_begins_with_nothing_drawn():
    one, other = SamplerState(), SamplerState()
    assert (one.step, one.positions.tolist()) == (0, [])
    assert one.positions is not other.positions


def test_an_identity_is_plain_data_and_names_its_indexes():
    assert json.loads(json.dumps(asdict(IDENTITY))) == asdict(IDENTITY)
    assert IDENTITY.index_checksums == {"rarity": "f00d"}


@pytest.mark.parametrize("name", ["feedback"])
def test_states_from_before_a_field_fit_where_it_is_not_used(name):
    older = {key: value for key, value in asdict(IDENTITY).items() if key != name}
    assert differing_fields(older, asdict(IDENTITY)) == []
