"""Mail addresses, also with their signs in words, links that lead to a person, and handles."""

from __future__ import annotations

import re

from llama.privacy.recognisers.recogniser import PatternRecogniser, Recogniser, without_trailing

_EMAIL = re.compile(
    r"(?<![\w.!#$%&'*+/=?^`{|}~-])[\w.!#$%&'*+/=?^`{|}~-]{1,64}\s?(?:@|\[at\]|\(at\))\s?"
    r"(?:[\w-]+(?:\.|\s?\[dot\]\s?|\s?\(dot\)\s?))+[a-z]{2,}"
)
_URL = re.compile(
    r"(?:https?://|www\.)[^\s<>\"']+|(?<![\w@.-])(?:[\w-]{1,63}\.){1,8}(?:com|id|co|me|net|org|io|app|link|ly|uk|gg|tv|"
    r"shop|info)/[^\s<>\"']+"
)
_HANDLE = re.compile(r"(?<![\w@./])@[A-Za-z_][\w.]{2,29}")

_PROFILE_HOST = re.compile(
    r"(?:instagram|facebook|fb|twitter|x|tiktok|linkedin|t|wa|github|line|threads|youtube|linktr)\.(?:com|me|ee)\b"
)
_ID_IN_PATH = re.compile(r"\d{3}|[a-z]\d|\d[a-z]")
_PROFILE_PATH = re.compile(r"(?:^|/)(?:u|user|users|in|profile|member|~)/")


def is_personal_link(url: str) -> bool:
    """Return whether a folded link contains a person's id or leads to a profile; ``shop.example/gifts`` does not."""
    host, _, path = re.sub(r"^https?://", "", url).partition("/")
    has_id = "@" in url or "=" in path or _ID_IN_PATH.search(path)
    return bool(has_id or (path and _PROFILE_HOST.search(host)) or _PROFILE_PATH.search(path))


RECOGNISERS: tuple[Recogniser, ...] = (
    PatternRecogniser("EMAIL", _EMAIL, folded=True),
    PatternRecogniser("URL", _URL, folded=True, narrow=without_trailing(".,;:!?)]}"), validators=(is_personal_link,)),
    PatternRecogniser("URL", _HANDLE),
)
