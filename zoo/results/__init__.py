"""Recorded runs, beside the papers' figures (results.csv, published.csv); what additions are worth (ablations.csv)."""
