"""Names of the plots, for who draws them and for who shows them without drawing."""

SIZES, LOADS = "rate-by-batch-size.svg", "latency-by-load.svg"
