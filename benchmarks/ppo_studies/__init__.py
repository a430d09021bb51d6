"""Studies of PPO: against other methods, against a weak reward model, what it forgets, and which detail matters."""
