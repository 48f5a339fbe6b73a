"""Whether a checkpoint loads into its model, and the loaded model is right."""
