"""Files that compute with integers only, the golden model they are held against, and the proof of both."""
