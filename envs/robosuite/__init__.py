"""robosuite 1.5.2: Lift, Can and Square of robomimic's data, a Panda arm under operational space control.

``tasks`` says what there is and needs no robosuite, ``environment`` is what Gymnasium makes, ``simulation``
is what has to be known about the upstream package to make it repeatable, ``control`` makes it fast.
"""
