"""Finetuning: one loop for a BERT on GLUE and for models that are not ours; the sizes and plans of such runs."""
