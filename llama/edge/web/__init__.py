"""The page: its requests, its data, and its server on this machine's loopback address."""
