"""btor beside other clients on the same work: `python -m tools.bench`, described in docs/performance.md."""
