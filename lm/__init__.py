"""A compact Llama-shaped language model: model, training, generation."""
