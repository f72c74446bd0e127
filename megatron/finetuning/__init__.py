"""GLUE: a pretrained BERT finetuned on its tasks."""
