"""Prompts to responses to experience. No gradients, no Lightning."""
