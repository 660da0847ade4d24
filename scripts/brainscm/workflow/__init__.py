"""What the Snakefile itself calls: it checks a whole study before any work starts, and sums up its run."""
