"""Opening and running files, with native kernels where there are any. Needs no torch."""
