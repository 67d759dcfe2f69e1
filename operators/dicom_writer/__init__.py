"""SEG, SR, preview, PDF and results.json of a follow-up."""
