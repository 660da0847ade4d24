"""Counterfactual volumes: queries, decoding strategies, synthesis in batches and the manifest."""
