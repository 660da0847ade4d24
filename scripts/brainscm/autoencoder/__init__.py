"""Learn a compact latent of the preprocessed brains: a VQ-VAE, or PCA behind the same interface."""
