"""Policies: from an observation to a chunk of actions, and the score of a given action."""
