"""(prompt, response) to score: the protocol, a trained model, Python functions."""
