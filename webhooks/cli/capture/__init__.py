"""`webhook-listener capture`: record deliveries as they arrive, and analyze their signatures."""
