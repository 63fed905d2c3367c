"""Networks, and two stand-ins for one that need no training or hardly any (toy)."""
