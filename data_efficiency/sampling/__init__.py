"""Curriculum sampling: which samples are drawn at a step, in what order, and how long they are."""
