"""Phonemes to mouth shapes: the rule table that makes the truth the pocket model learns.

A mouth shape is ten numbers in 0..1 (MOUTH_CHANNELS). Consonants come as viseme classes, vowels as
(jaw, rounding, spreading). The figures were chosen by trying on rendered faces; they are rules, not
measurements of people. Phone sets of other synthesisers are mapped to IPA first.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import numpy as np

MOUTH_CHANNELS = (
    *("jaw", "close", "pucker", "funnel", "spread"),
    *("lower_down", "upper_up", "roll_lower", "press", "tongue_out"),
)

# viseme: its IPA members, then the ten channels
CONSONANT_VISEMES: dict[str, tuple[tuple[str, ...], tuple[float, ...]]] = {
    "PP": (("p", "b", "m", "ɓ", "ɱ", "ɸ", "β"), (0.05, 0.05, 0, 0, 0, 0, 0, 0.10, 0.35, 0)),
    "FF": (("f", "v", "ʋ"), (0.09, 0, 0, 0.05, 0.05, 0, 0.15, 0.40, 0, 0)),
    "TH": (("θ", "ð"), (0.14, 0, 0, 0, 0.08, 0.18, 0.05, 0, 0, 0.25)),
    "DD": (
        ("t", "d", "n", "l", "ɾ", "r", "ʈ", "ɖ", "ɳ", "ɭ", "ɽ", "ɫ", "ɬ", "ʎ", "ɲ", "ř"),
        (0.11, 0, 0, 0, 0.12, 0.16, 0.05, 0, 0, 0.05),
    ),
    "SS": (("s", "z", "ts", "dz"), (0.05, 0, 0, 0, 0.22, 0.22, 0.10, 0, 0, 0)),
    "CH": (
        ("ʃ", "ʒ", "tʃ", "dʒ", "ɕ", "ʑ", "ʂ", "ʐ", "tɕ", "dʑ", "tʂ", "dʐ"),
        (0.08, 0, 0.25, 0.45, 0, 0.15, 0.12, 0, 0, 0),
    ),
    "kk": (
        ("k", "g", "ɡ", "ŋ", "x", "q", "c", "ɟ", "ç", "ʁ", "ɣ", "χ"),
        (0.17, 0, 0, 0, 0.08, 0.10, 0.04, 0, 0, 0),
    ),
    "RR": (("ɹ", "ɻ", "ɚ", "ɝ"), (0.13, 0, 0.28, 0.28, 0, 0.08, 0.04, 0, 0, 0)),
    "WW": (("w", "ɥ", "ʍ"), (0.08, 0, 0.75, 0.20, 0, 0, 0, 0, 0, 0)),
    "YY": (("j", "ʝ"), (0.11, 0, 0, 0, 0.30, 0.12, 0.05, 0, 0, 0)),
    "hh": (("h", "ɦ", "ʔ", "ʕ", "ħ"), (0.22, 0, 0, 0, 0.03, 0.08, 0.03, 0, 0, 0)),
}

# vowel: (jaw, rounding, spreading)
VOWELS: dict[str, tuple[float, float, float]] = {
    "i": (0.12, 0, 0.38),
    "ɪ": (0.19, 0, 0.25),
    "ɨ": (0.17, 0, 0.20),
    "y": (0.12, 0.90, 0),
    "ʏ": (0.18, 0.75, 0),
    "u": (0.12, 1.0, 0),
    "ʉ": (0.13, 0.85, 0),
    "ɯ": (0.14, 0.10, 0.10),
    "ʊ": (0.19, 0.75, 0),
    "e": (0.28, 0, 0.26),
    "ø": (0.27, 0.75, 0),
    "o": (0.29, 0.85, 0),
    "ɵ": (0.26, 0.70, 0),
    "ɤ": (0.30, 0.10, 0.05),
    "ə": (0.24, 0, 0.05),
    "ɜ": (0.32, 0.10, 0.03),
    "ɛ": (0.40, 0, 0.18),
    "œ": (0.38, 0.60, 0),
    "ʌ": (0.43, 0, 0),
    "ɔ": (0.42, 0.60, 0),
    "æ": (0.50, 0, 0.15),
    "ɐ": (0.46, 0, 0),
    "a": (0.58, 0, 0.06),
    "ɑ": (0.60, 0, 0),
    "ɒ": (0.52, 0.45, 0),
}

SILENCE = "sil"
PHONE_CLASSES: tuple[str, ...] = (SILENCE, *CONSONANT_VISEMES, *VOWELS)
"""Classes of the auxiliary phone classifier, and the vocabulary of `Phone.symbol`."""

PHONE_CLASS_INDEX = {name: index for index, name in enumerate(PHONE_CLASSES)}
_VISEME_OF = {ipa: name for name, (members, _) in CONSONANT_VISEMES.items() for ipa in members}
BILABIAL = "PP"


@dataclass(frozen=True)
class Phone:
    """One mouth gesture: `symbol` of PHONE_CLASSES, from `start` to `end` seconds."""

    symbol: str
    start: float
    end: float
    bilabial_stop: bool = False
    """Whether it is one of p, b, m, whose lips must touch."""


def vowel_shape(vowel: str) -> np.ndarray:
    """Return the ten mouth channels of a vowel, (10,) float32."""
    jaw, rounding, spread = VOWELS[vowel]
    pucker = 0.75 * rounding * (0.6 if jaw >= 0.25 else 1.0)
    funnel = 0.35 * rounding + (0.25 * rounding if jaw > 0.25 else 0.0)
    lower_down = 0.15 + 0.25 * jaw * (1 - 0.5 * rounding)
    return np.array([jaw, 0, pucker, funnel, spread, lower_down, 0.1 * jaw + 0.04, 0, 0, 0], np.float32)


def mouth_shape(symbol: str) -> np.ndarray:
    """Return the ten mouth channels of a phone class, (10,) float32."""
    if symbol == SILENCE:
        return np.zeros(len(MOUTH_CHANNELS), np.float32)
    if symbol in VOWELS:
        return vowel_shape(symbol)
    return np.array(CONSONANT_VISEMES[symbol][1], np.float32)


def split_ipa(text: str) -> list[str]:
    """Return the phone classes an IPA string stands for: diphthongs split, affricates kept whole.

    Length, stress, tone and diacritics are dropped; unknown letters too.
    """
    letters = [c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c)]
    letters = [c for c in letters if c.isalpha() and c not in "ːˑˈˌʲʰʷˠˤⁿʼ"]
    symbols, index = [], 0
    while index < len(letters):
        pair = "".join(letters[index : index + 2])
        piece = pair if pair in _VISEME_OF and len(pair) == 2 else letters[index]
        index += len(piece)
        if piece in _VISEME_OF:
            symbols.append(_VISEME_OF[piece])
        elif piece in VOWELS:
            symbols.append(piece)
    return symbols


def phone_table(text: str) -> dict[str, str]:
    """Return {phone: IPA} for text such as "aa=ɑ pau=" (nothing after the sign is a pause)."""
    return dict(entry.split("=") for entry in text.split())


ARPABET = phone_table(
    "aa=ɑ ae=æ ah=ʌ ao=ɔ aw=aʊ ax=ə axr=ɚ ay=aɪ b=b ch=tʃ d=d dh=ð dx=ɾ eh=ɛ el=l em=m en=n er=ɝ "
    "ey=eɪ f=f g=g hh=h hv=h ih=ɪ iy=i jh=dʒ k=k l=l m=m n=n nx=n ng=ŋ ow=oʊ oy=ɔɪ p=p r=ɹ s=s sh=ʃ "
    "t=t th=θ uh=ʊ uw=u v=v w=w y=j z=z zh=ʒ pau= h#= brth= "
)
CZECH = phone_table(
    "a=a a:=a e=ɛ e:=ɛ i=ɪ i:=i o=o o:=o u=u u:=u b=b c=ts c~=tʃ ch=x d=d d~=ɟ dz=dz dz~=dʒ f=f g=g "
    "h=h j=j k=k l=l m=m mg=m n=n n*=ŋ n~=ɲ ng=ŋ p=p r=r r~=ř rsz=ř s=s s~=ʃ sz=ʃ t=t t~=c v=v z=z "
    "z~=ʒ zh=ʒ #= 0= oU=oʊ aU=aʊ eU=ɛʊ _= "
)
FINNISH = phone_table(
    "##= T=t D=d a=ɑ e=e i=i o=o u=u y=y @=æ 7=ø ä=æ ö=ø b=b d=d f=f g=g h=h j=j k=k l=l m=m n=n N=ŋ p=p r=r s=s "
    "S=ʃ t=t v=ʋ #= "
)
RUSSIAN = phone_table(
    "pau= i=ɪ ii=i y=ɨ yy=ɨ u=u uu=u e=ɛ ee=ɛ a=ə aa=a ae=ə ay=ə o=o oo=o ur=ʊ ir=ɪ b=b bb=b v=v vv=v "
    "g=g gg=g d=d dd=d zh=ʒ z=z zz=z j=j k=k kk=k l=l ll=l m=m mm=m n=n nn=n p=p pp=p r=r rr=r s=s "
    "ss=s t=t tt=t f=f ff=f h=x hh=x c=ts ch=tɕ sh=ʃ sch=ɕ "
)
CATALAN = phone_table(
    "pau= a=a e=e E=ɛ i=i o=o O=ɔ u=u ax=ə y=j w=w uw=w j=j b=b d=d f=f g=g k=k l=l L=ʎ m=m n=n N=ŋ "
    "J=ɲ p=p r=ɾ rr=r s=s S=ʃ t=t v=v z=z Z=ʒ B=b D=d G=g ts=ts tS=tʃ dZ=dʒ dz=dz h=h x=x "
)
"""Phone sets of recorded-voice synthesisers, each mapped to IPA."""


def phone_to_symbols(phone: str, phone_set: dict[str, str]) -> list[str]:
    """Return the phone classes of a synthesiser's phone; a pause gives an empty list.

    Length marks (`i::`) and stress digits (`a1`) are tried without when the phone itself is unknown.
    Raises KeyError for a phone the set does not hold, so that a wrong table is noticed.
    """
    if phone not in phone_set:
        phone = phone.rstrip(":0123456789")
    return split_ipa(phone_set[phone])


def spread_over(symbols: list[str], start: float, end: float, bilabial: bool) -> list[Phone]:
    """Return `symbols` sharing the time from `start` to `end` equally; none means silence."""
    symbols = symbols or [SILENCE]
    edges = np.linspace(start, end, len(symbols) + 1)
    return [
        Phone(symbol, float(a), float(b), bilabial and symbol == BILABIAL)
        for symbol, a, b in zip(symbols, edges[:-1], edges[1:], strict=True)
    ]
