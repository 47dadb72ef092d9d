"""Ways for deliveries to come in."""
