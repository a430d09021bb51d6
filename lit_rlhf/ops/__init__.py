"""Tensor building blocks: masking, log-probabilities, KL estimators, advantages. Torch only."""
