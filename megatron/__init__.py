"""A small, readable Megatron-style trainer for transformers, built on `data_efficiency`."""
