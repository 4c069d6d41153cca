"""Chat models behind an OpenAI-compatible endpoint: requests, batches, what a server refused, prices."""
