"""BrainSCM: counterfactual brain MRI from raw scans, one package per stage of the workflow.

Data flows one way: (simulation) → cohort → preprocess → autoencoder → latents → scm → counterfactuals →
evaluation → report. A later stage may import an earlier one, never the reverse.
"""

__version__ = "0.1.0"
