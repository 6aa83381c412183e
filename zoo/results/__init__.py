"""Recorded runs (results.csv), the papers' figures (published.csv), and the table that sets them side by side."""
