"""Models of synchronous neurons: over counts in one pass, or spike by spike."""
