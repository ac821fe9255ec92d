"""One module per stage of `dvc.yaml`: a pure function on values, and a shell that maps paths to values."""
