"""What papers compare their models with, scored by the same metrics: `ConnComp`, connected components."""
