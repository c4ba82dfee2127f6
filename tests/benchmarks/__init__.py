"""What the product costs, measured beside its peers: ``python -m tests.benchmarks.decode`` and ``….memory``.

The figures depend on the machine and on what else runs on it, so nothing here is a test and no test reads them.
"""
