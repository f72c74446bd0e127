"""Difficulty analysis: metrics, map-reduce over a dataset, and what an index looks like."""
