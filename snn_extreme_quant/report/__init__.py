"""Figures of spiking language models; matplotlib is loaded when one is drawn."""
