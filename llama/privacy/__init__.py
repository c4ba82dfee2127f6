"""The privacy boundary: who may hold what, and the sanitised prompt that is all that leaves the device."""
