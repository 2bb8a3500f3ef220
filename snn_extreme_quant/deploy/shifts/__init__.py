"""Norm and softmax by shifts."""
