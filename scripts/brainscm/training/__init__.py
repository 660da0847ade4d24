"""Find the autoencoder's weights on the training split, so that nothing is lost when a job stops."""
