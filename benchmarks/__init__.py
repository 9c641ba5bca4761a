"""Side-by-side measurements; they print tables and decide nothing."""
