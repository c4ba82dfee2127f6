"""What runs on the person's device and nowhere else."""
