"""Any mesh into the frame of the six cameras."""
