"""The privacy boundary: the policy on data, and the sanitised prompt, which is the only text that leaves the device."""
