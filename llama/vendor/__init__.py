"""The vendor's program: publishes its sheets, and collects its copies of the runs that used them."""
