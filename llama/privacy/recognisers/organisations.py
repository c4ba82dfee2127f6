"""Companies and foundations, by the legal form that stands before or after the name: *PT*, *Yayasan*, *Ltd*."""

from __future__ import annotations

import re

from llama.privacy.recognisers.names import WORD
from llama.privacy.recognisers.recogniser import PatternRecogniser, Recogniser

_COMPANY = re.compile(
    rf"(?<!\w)(?:PT|CV|UD|Yayasan|Koperasi)\.?\s{WORD}(?:\s{WORD}){{0,4}}"
    rf"|(?<!\w){WORD}(?:[ ,&]{{1,3}}(?:and\s)?{WORD}){{0,3}},?\s(?:Inc|Ltd|LLC|PLC|Corp|GmbH|Tbk|Group)\b\.?"
)

RECOGNISERS: tuple[Recogniser, ...] = (PatternRecogniser("ORG", _COMPANY),)
