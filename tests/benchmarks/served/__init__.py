"""What runs inside the measured processes: applications, the floor, and launchers."""
