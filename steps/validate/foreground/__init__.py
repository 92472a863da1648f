"""Which pixels are the object, by transparency, depth and colour."""
