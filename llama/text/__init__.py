"""Texts: which characters may be shown, how names, amounts and dates are written; of both halves, and of no party."""
