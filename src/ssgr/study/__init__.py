"""A study: the cells of a sweep, which of them stand, and how the others are run, on one machine or many."""
