"""What the manager tells of itself: numbers for Prometheus, and whether it is alive and ready."""
