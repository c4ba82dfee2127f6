"""Rules of texts for both halves: characters that may be shown, and the forms of names, amounts and dates.

They belong to no party.
"""
