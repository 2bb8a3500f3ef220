"""Folders that classify texts: made from a trained model, read without torch."""
