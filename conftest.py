"""Modules whose docstrings pytest does not read where the host that they adapt to is not installed."""

from importlib.util import find_spec

HOSTS = {
    "composer_plugin": "composer",
    "datatrove_blocks": "datatrove",
    "lightning_plugin": "lightning",
}
collect_ignore = [
    f"data_efficiency/adapters/{module}.py"
    for module, host in HOSTS.items()
    if find_spec(host) is None
]
