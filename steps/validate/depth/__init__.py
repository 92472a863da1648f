"""What the stored depth means, where the cameras are known."""
