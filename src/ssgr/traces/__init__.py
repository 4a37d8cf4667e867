"""From problems to a store of the model's own traces, and from the store to the traces that a cell calibrates on."""
