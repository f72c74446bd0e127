"""GPT in plain PyTorch."""
