"""From the folder that nnU-Net left (v1 or v2) to a model package."""
