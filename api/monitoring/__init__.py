"""What Prometheus is told: the service in numbers, and the requests of each server process."""
