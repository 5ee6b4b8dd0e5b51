"""Programs that make, measure and attack: run each as `python -m tools.NAME` from the project folder."""
