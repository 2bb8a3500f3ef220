"""Models that take token ids."""
