"""The command `sixview`."""
