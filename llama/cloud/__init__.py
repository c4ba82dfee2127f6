"""The program on the GPU box, and only there."""
