"""From run directories to one table in the terminal and one self-contained HTML page.

``gather`` reads, ``groups`` pools runs that differ only in their seed, ``table`` and ``page`` show.
"""
