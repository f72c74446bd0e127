"""Corpora on disk and the datasets cut from them."""
