"""Reward models: they learn a reward for each step from preferences between segments."""
