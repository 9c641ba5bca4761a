"""Tasks that come with ampsweep."""
