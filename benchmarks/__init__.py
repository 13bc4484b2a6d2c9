"""One script per published figure; each prints a table. Results are kept in RESULTS.md."""
