"""Language models of tokens in files: SpikeGPT, with its state as inputs and outputs."""
