"""One paper, one page: each method reads like its algorithm box and calls phases in the paper's order."""
