"""The client code that device, vendor and operator share: the connection to a cloud, its retries and their notices."""
