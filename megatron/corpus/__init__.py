"""Corpora made offline: texts read, split, tokenized, merged and verified."""
