"""GPT and BERT in plain PyTorch."""
