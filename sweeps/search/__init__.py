"""What is tried: spaces, configurations, plans and schedulers."""
