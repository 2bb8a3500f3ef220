"""Whether a file gives the spikes of the model it was made from."""
