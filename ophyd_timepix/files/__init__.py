"""Files of a run: the event file (HDF5, readable while it grows) and the NeXus master, written afterwards."""
