"""The page: what it may ask for, what it is sent, and its server on this machine's loopback."""
