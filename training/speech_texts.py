"""Sentences to speak: random words of installed hunspell lists, or made-up syllables where there is no list."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

HUNSPELL_FOLDER = Path("/usr/share/hunspell")
DICTIONARY_OF = {
    "en": "en_US",
    "de": "de_DE",
    "fr": "fr_FR",
    "es": "es_ES",
    "it": "it_IT",
    "pl": "pl_PL",
    "ru": "ru_RU",
    "pt": "pt_BR",
    "sv": "sv_SE",
}
FUNCTION_WORDS = {
    "en": "the a of to and in is you that it for on with as was we be this have or by but my me him people maybe",
    "de": "der die das und in zu ein ist nicht mit auf für wir ihr aber bei mehr beim",
    "fr": "le la les de et un une pour pas plus mais par vous nous avec bien",
    "es": "el la los de y un una por para más pero muy como también siempre",
    "it": "il la di e un una per non più ma come con anche sempre bene",
    "pl": "i w na nie to z że jest ale po przez bardzo może",
    "ru": "и в не на я быть он с что по но мы можно уже пока",
    "pt": "o a de e um uma para mais mas por bem como também",
    "sv": "och i att en det som på är men med bara mycket",
}
ENDINGS = (".", ".", ".", "?", "!", ", ")
ONSETS = (*"pbmtdkgfvszlrnhj", "sh", "ch", "th", "w", "p", "b", "m", "br", "pl")
NUCLEI = ["a", "e", "i", "o", "u", "a", "o", "ai", "au", "ei"]
CODAS = ["", "", "", "n", "m", "s", "t", "k", "l", "r", "p"]
MIN_LETTERS, MAX_LETTERS = 2, 12


@functools.cache
def dictionary_words(language: str) -> tuple[str, ...]:
    """Return the plain words of a language's hunspell list; empty when the list is not installed."""
    name = DICTIONARY_OF.get(language)
    paths = sorted(HUNSPELL_FOLDER.glob(f"{name}.dic")) if name else []
    if not paths:
        return ()
    encoding = "utf-8"
    affixes = paths[0].with_suffix(".aff")
    if affixes.exists():
        first = affixes.read_bytes()[:4000].decode("latin-1").split("SET ", 1)
        encoding = first[1].split()[0] if len(first) == 2 else "latin-1"
    text = paths[0].read_bytes().decode(encoding, "ignore")
    words = (line.split("/")[0].split("\t")[0].strip() for line in text.splitlines()[1:])
    return tuple(w.lower() for w in words if MIN_LETTERS <= len(w) <= MAX_LETTERS and w.isalpha())


def made_up_word(rng: np.random.Generator) -> str:
    """Return one to three consonant-vowel syllables."""
    count = int(rng.integers(1, 4))
    return "".join(rng.choice(ONSETS) + rng.choice(NUCLEI) for _ in range(count)) + str(rng.choice(CODAS))


def sentence(language: str, rng: np.random.Generator, made_up_share: float = 0.15) -> str:
    """Return 5 to 15 words with punctuation."""
    words = dictionary_words(language)
    function_words = FUNCTION_WORDS.get(language, "").split()
    spoken = []
    for _ in range(int(rng.integers(5, 15))):
        draw = rng.random()
        if not words or draw < made_up_share:
            spoken.append(made_up_word(rng))
        elif function_words and draw < made_up_share + 0.3:
            spoken.append(str(rng.choice(function_words)))
        else:
            spoken.append(words[int(rng.integers(len(words)))])
        if rng.random() < 0.08:
            spoken[-1] += ","
    return " ".join(spoken) + str(rng.choice(ENDINGS))
