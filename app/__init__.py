"""The doors people come through."""
