"""SpikingBERT: read ``spiking_bert.py`` first, from top to bottom."""
