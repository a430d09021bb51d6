"""A reward behind HTTP: the client that runs use, and a server for any reward of ours."""

from lit_rlhf.rewards.remote.client import RemoteReward

__all__ = ["RemoteReward"]
