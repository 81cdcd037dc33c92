"""Meta-World v3: fifty manipulation tasks of one simulated arm.

``tasks`` and ``behaviours`` say what there is, ``environment`` is what Gymnasium makes, ``simulation``
is what has to be known about the upstream package to make it repeatable.
"""
