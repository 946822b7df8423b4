"""Messages to the application: PEP 3333, without a socket in sight."""
