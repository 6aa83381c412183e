"""Trained models as files, folders and hub repositories: what their records say, and how older ones are read."""
