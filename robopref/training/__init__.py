"""Training: one loop for every learner, where it runs, what it saves, and how a policy is tried."""
