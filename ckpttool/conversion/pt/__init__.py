"""A checkpoint as ``torch.save`` writes it."""
