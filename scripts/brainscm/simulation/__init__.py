"""The simulator: raw heads whose causal model is known, and their true counterfactuals."""
