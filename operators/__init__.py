"""One package per stage of the chain, in the order in which data flows through them."""
