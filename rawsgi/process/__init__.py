"""Processes and signals: where the parts are joined."""
