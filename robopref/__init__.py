"""Robot preference learning: say which of two behaviours is better, and the robot learns from it."""
