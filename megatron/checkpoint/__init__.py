"""Checkpoints: files, what guards a resume, saving and going on."""
