"""Which study is current, which is prior, and which series has which role, with the reason."""
