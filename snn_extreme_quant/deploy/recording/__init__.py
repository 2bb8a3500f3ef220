"""From a model to the graph of what it computes: recorded, folded over time, and proved bit for bit."""
