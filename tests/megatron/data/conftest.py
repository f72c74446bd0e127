# Runs in an environment of its own, where it finds the other package named megatron.
collect_ignore = ["megatron_core_peer.py"]
