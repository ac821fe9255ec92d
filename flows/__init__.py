"""Prefect flows: the only rooms that have effects on the MLflow registry."""
