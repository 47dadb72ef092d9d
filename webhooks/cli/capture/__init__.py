"""`webhook-listener capture`: the first deliveries of a vendor, kept as they arrived, and how each of them reads."""
