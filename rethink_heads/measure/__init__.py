"""Put predefined proposals through heads and keep what came out as measurements."""
