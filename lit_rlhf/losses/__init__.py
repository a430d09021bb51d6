"""Objectives: one published objective, one pure function of tensors. Torch only."""
