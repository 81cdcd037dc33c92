"""Other people's formats: robomimic HDF5, Minari and LeRobotDataset v3, to and from the trajectory store."""
