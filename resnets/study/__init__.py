"""Studies of the paper's argument: each measures, and writes a page that explains itself."""
