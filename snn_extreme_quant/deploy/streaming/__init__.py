"""Files of a single time step, with the states as inputs and outputs."""
