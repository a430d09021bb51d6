"""The direct methods against each other and against PPO, at equal CPU seconds."""
