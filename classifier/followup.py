"""Bare follow-ups: turns that mean nothing without the turn before ("yes", "go on", "ja, bitte").

Rule: a turn is a bare follow-up iff it is short and every word of it is one a person uses to accept, refuse,
thank, acknowledge or ask for more; one word that carries a subject of its own ("yes, but why does the index
not help?") makes it a turn that stands on its own. So the detector errs on the side of letting the score
speak.

It does not know the session: whether there is a previous route to inherit is the policy's question. It covers
the commonest forms in English, German, French, Spanish, Italian, Portuguese, Dutch and Indonesian, and a few
in Chinese, Japanese, Korean, Russian and Arabic; other languages are scored like any turn.
"""

from __future__ import annotations

import re

MAX_CHARACTERS = 48
"""Longest bare follow-up; longer turns carry a subject even when made of small words."""

MAX_WORDS = 6
"""Most words of a bare follow-up, for the same reason."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_CORE = _words(
    # English: accept, refuse, more, again, thanks
    "yes yeah yep yup y ok okay k sure continue proceed go no nope n nah thanks thank thx ty great perfect "
    "good nice fine correct right exactly agreed done more again next retry please absolutely definitely "
    "cool awesome "
    # German
    "ja jawohl genau weiter nein danke gut gerne bitte mach nochmal passt stimmt klar "
    # French
    "oui ouais non merci continue continuez encore parfait vas allez suite exact voilà "
    # Spanish, Portuguese, Italian
    "sí si claro vale dale sigue continúa continua gracias perfecto adelante sim não nao obrigado obrigada "
    "perfeito isso va sì certo grazie perfetto avanti ancora siga otra "
    # Dutch, Indonesian, Polish, Turkish, Russian, Arabic
    "nee graag verder prima iya ya lanjut lanjutkan tidak baik terima kasih tak dalej dziękuję evet devam "
    "tamam "
    "да нет продолжай спасибо хорошо дальше نعم لا شكرا استمر تابع"
)

_FILLER = _words(
    "on ahead it that do so to you very much all the a one me keep going is sounds looks works for let s "
    "please und so sehr es schön doch noch mehr auf y por favor de acuerdo muy bien otra vez por s il te "
    "vous plait plaît "
    "bien d accord y das ist une la fois em frente per favore così maar ga door"
)

_WHOLE = frozenset(
    {
        "keep going", "tell me more", "do it", "do that", "try again", "sounds good", "looks good",
        "one more", "that works", "not that one", "the first one", "the second one", "the last one",
        "same again", "carry on", "what else", "anything else", "and then", "why", "how so", "really",
        "mach das", "mehr davon", "noch einmal", "et puis", "vas y", "y luego", "好", "好的", "是", "是的",
        "继续", "不", "谢谢", "可以", "对", "嗯", "はい", "いいえ", "続けて", "ありがとう", "お願いします",
        "네", "예", "아니요", "계속",
        "감사합니다",
    }
)  # fmt: skip

_WORD = re.compile(r"[^\W_]+")

_KNOWN = _CORE | _FILLER


def is_bare_follow_up(text: str) -> bool:
    """Whether `text` is a turn that only continues the one before.

    Args:
        text: The user's own text of the turn. Empty text is not a follow-up (a turn of tool results or
            media).
    """
    if not text or len(text) > MAX_CHARACTERS:
        return False
    words = _WORD.findall(text.lower())
    if not words:
        return text.strip() in {"?", "??", "👍", "👌", "✅", "🙏", "..."}
    if len(words) > MAX_WORDS:
        return False
    if _KNOWN.issuperset(words):
        return not _CORE.isdisjoint(words) or " ".join(words) in _WHOLE
    return " ".join(words) in _WHOLE
