"""What device, vendor and operator share: the connection to a cloud, its retries, and what is told of them."""
