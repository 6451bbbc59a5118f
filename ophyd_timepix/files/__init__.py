"""Files of a run: the event file (HDF5, readable while it is written) and the NeXus master that is written afterwards."""
