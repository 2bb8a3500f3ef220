"""SpikeGPT: read ``spike_gpt.py`` first, from top to bottom."""
