"""Objectives: pure functions of scores and labels. No modules, no state."""
