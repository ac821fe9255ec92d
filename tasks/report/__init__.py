"""Stage report: one self-contained page for people, and a model card for whoever gets the model."""
