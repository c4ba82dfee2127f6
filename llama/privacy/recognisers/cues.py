"""Cues of names, as parts of patterns: titles, kin, phrases before a name, verbs and data after it.

Indonesian and English. ``names`` decides which cues stand where.
"""

from __future__ import annotations

import re

TITLE = (
    r"(?i:bpk|bapak|pak|ibu|bu|sdri?|saudar[ai]|tuan|nyonya|tn|ny|mas|mba[kh]?|kak|bang|om|tante|nenek|kakek|eyang|dek|"
    r"mr|mrs|ms|miss|mx|dr|prof|aunt|auntie|uncle|grandma|grandpa|sir|h|hj)\.?"
)

KIN_EN = (
    r"(?:wife|husband|partner|friend|colleague|coworker|co-worker|boss|manager|brother|sister|son|daughter|niece|"
    r"nephew|cousin|mom|mum|mother|dad|father|grandmother|grandfather|neighbou?r|girlfriend|boyfriend|fianc[eé]e?|"
    r"roommate|flatmate|teacher|assistant|client|uncle|aunt|godson|goddaughter|stepson|stepdaughter|kid|in-law)"
)
KIN_ID = (
    r"(?:istri|suami|pacar|teman|sahabat|temen|rekan|kolega|bos|atasan|kakak|adik|anak|keponakan|sepupu|mama|mami|ibu|"
    r"papa|papi|ayah|bapak|nenek|kakek|tetangga|mertua|tunangan|guru|klien|pelanggan|dosen|calon|mantan|ponakan|bokap|"
    r"nyokap|menantu|cucu|bunda|abang|mbak|mas|sopir|asisten|direktur|manajer|karyawan|penerima|pengirim|pemesan|"
    r"pelapor|nasabah)"
)
KIN = re.compile(rf"(?:{KIN_EN}|{KIN_ID})(?:ku|mu|nya|s)?")

SAYS_ID = (
    r"nama\s?(?:saya|ku|gue|gw|aku|lengkap|panggilan|beliau|dia|nya|penerima|pengirim|pemesan|pelapor|anak|istri|suami|"
    r"ibu)?(?:\s?(?:adalah|:|=|ialah|itu|yaitu))?|namaku|namanya|panggil (?:saya|aku)|perkenalkan,?(?: saya|"
    r" nama saya)?|atas nama|a\.?\s?n\.?|an\.|a/n|bernama|dipanggil|kepada(?: yth\.?)?|yth\.?|u\.?p\.?|penerima|"
    r"pengirim|pemesan|hormat saya|salam|ttd|dari|buat|kirim ke|hubungi|tertanda|wassalam|terima kasih|menurut|kata|"
    r"ulang tahun,?|kemarin|tadi|kalau|titip ke|undang|cari"
)
SAYS_EN = (
    r"my name(?:'s| is)|name\s?[:=]|full name\s?[:=]?|(?:recipient|sender|customer|contact|client|holder|insured|"
    r"guest)(?: name)?\s?[:=]|i'm|i am|this is|call me|called|named|known as|attn\.?:?|c/o|dear|hi|hello|hey|regards|"
    r"sincerely|cheers|best|love|thanks|thank you|yours(?: truly| sincerely| faithfully)?|signed|from|to|for|with|by|"
    r"ask for|contact|addressed to|deliver to|behalf of|met|and|tell|reach|email|phone|text|according to|"
    r"in the name of|name of|invite|ask"
)
SAYS_ONE_EN = (
    r"my name(?:'s| is)|name\s?[:=]|i'm|this is|call me|called|named|dear|hi|hello|hey|attn\.?:?|c/o|ask|tell|"
    r"birthday,?|anniversary,?|congratulations,?|love,|xoxo,?|cheers,|(?:regards|sincerely|cheers|best|love|thanks|"
    r"thank you|yours truly)[,!.]?\n"
)
"""Cues of :data:`SAYS_EN`, and more, that also announce a name of one word."""

DOES = (
    r"birthday|address|phone|number|email|house|desk|account|wife|husband|turns|lives|works|loves|likes|said|called|"
    r"wrote|will|is|was|has|ordered|bought|paid|wants|prefers|adalah|tinggal|suka|ulang tahun|bekerja|kerja|sudah|"
    r"pesan|memesan|bilang|mau|ingin|lahir|akan|baru"
)
DATA = r"hp|wa|nik|telp|tlp|tel|phone|mobile|born|lahir|umur|usia|aged?\b|\d{3,}|\+\d|email|e-mail|nip|ktp"
