"""Building blocks without opinions: networks, input normalisation, saving and loading of modules."""
