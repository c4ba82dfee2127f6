"""The vendor's program: publish the vendor's sheets, and collect the copies of the runs that used them."""
