"""What runs on the GPU box and nowhere else."""
