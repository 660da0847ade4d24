"""Deformable alignment of each preprocessed scan to the template: where its anatomy lies."""
