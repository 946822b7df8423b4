"""What makes the load: wrk where it can, small clients of our own where it cannot."""
