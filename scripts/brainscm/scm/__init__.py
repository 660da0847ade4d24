"""The structural causal model: a declared graph of nodes and the image latent, fitted by generalised linear models."""
