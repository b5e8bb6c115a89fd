"""MLflow's model registry as a source of submissions: what an alias names becomes a release."""
