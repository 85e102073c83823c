"""Opens detectors that were not trained here, checks a user's own, and knows one by what decides its numbers."""
