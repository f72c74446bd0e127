"""Curriculum and random-LTD in the training loops of others: one file a host, imported when asked for."""
