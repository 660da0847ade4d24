"""Encode every scan once with the trained autoencoder."""
