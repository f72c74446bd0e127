"""Models between our checkpoints and Hugging Face or Megatron-DeepSpeed folders."""
