"""Six depth renders to one closed mesh."""
