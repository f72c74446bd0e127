"""What a trained model scores: evaluation tasks, generation, result tables."""
