"""``ampsweep doctor``: what this machine and cluster have, and what to do about each problem found."""
