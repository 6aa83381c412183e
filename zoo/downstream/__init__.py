"""What people do with a trained model: `clustering` of its objects, their `embedding`, `comparison` of runs."""
