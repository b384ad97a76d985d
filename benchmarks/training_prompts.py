"""Prompts to train drafts on, of the kinds a chat model does not ask itself for: copying, rewriting, translating.

    python benchmarks/training_prompts.py CONVERSATIONS.jsonl --pair smollm2-135m --count 1000 > PROMPTS.jsonl
    specctl train kangaroo --data PROMPTS.jsonl …

CONVERSATIONS is what `specctl train kangaroo --data self` wrote (token ids): its answers are the passages that
the tasks are about, so that no data set is needed. Sums and programs are put together from lists. Nothing here is
of a benchmark's text. The same arguments give the same prompts.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable
from pathlib import Path

from specctl.models.load import load_tokenizer
from specctl.store import fetch
from specctl.store.progress import SilentProgress

SUMMARISE = (
    "Summarize the following text in {n} sentences.\n\n{passage}",
    "Give a short summary of this text:\n\n{passage}",
    "{passage}\n\nWhat are the main points of the text above?",
    "Sum this article up in one paragraph: {passage}",
    "TL;DR of the following, please.\n\n{passage}",
)
REWRITE = (
    "Rewrite the following text in a more formal tone:\n\n{passage}",
    "Fix any spelling and grammar mistakes in this text and return the corrected text.\n\n{passage}",
    "Rewrite this in simpler words:\n\n{passage}",
    "Change the following to the past tense:\n\n{passage}",
    "Make this text shorter without losing its meaning:\n\n{passage}",
    "Turn the following text into a numbered list:\n\n{passage}",
    "Repeat the following text, word for word:\n\n{passage}",
)
TRANSLATE = (
    "Translate the following sentence into {language}: {sentence}",
    "Translate English to {language}: {sentence}",
    'How do you say this in {language}? "{sentence}"',
    "Translate this {language} text to English: {sentence}",
)
EXTRACT = (
    "List all the names and places that are mentioned in this text:\n\n{passage}",
    "Extract the key facts of the following text as bullet points.\n\n{passage}",
    "Read the text and return a JSON object with its topic, its people and its keywords.\n\n{passage}",
    "Which numbers and dates are in the following text?\n\n{passage}",
    "Extract five keywords from this text: {passage}",
)
ANSWER = (
    "{passage}\n\nUsing only the text above, answer the question: what does it say about {word}?",
    "Context: {passage}\n\nQuestion: What is said about {word}?\nAnswer:",
    "Here is some context.\n\n{passage}\n\n{more}\n\nNow answer: why is {word} important?",
)
SUMS = (
    "{name} has {a} {thing}. They buy {b} more and give {c} away. How many {thing} does {name} have now?",
    "A box holds {a} {thing}. How many {thing} are in {b} boxes?",
    "{name} reads {a} pages a day. How many days does a book of {d} pages take?",
    "If {a} {thing} cost {d} dollars, how much do {b} {thing} cost? Explain each step.",
    "What is {a} times {b}, plus {c}? Show your work.",
    "Solve for x: {a}x + {b} = {d}.",
)
CODE = (
    "Write a {code} function that {task}.",
    "Write a {code} program that {task}, and explain how it works.",
    "How would you write code in {code} that {task}?",
    "Implement a {code} function which {task}. Add comments and an example of its use.",
)
ASK = (
    "What is {topic}?", "How does {topic} work?", "Who invented {topic}, and when?", "Why is {topic} important?",
    "Explain {topic} to a child.", "What are the advantages and disadvantages of {topic}?",
)  # fmt: skip
LANGUAGES = ("French", "German", "Spanish", "Italian", "Portuguese", "Dutch")
CODES = ("Python", "Python", "JavaScript", "C", "Java", "SQL", "Go")
NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Farid", "Grace", "Hiro", "Ines", "Jonas")
THINGS = ("apples", "books", "marbles", "pencils", "stamps", "tickets", "cookies", "shells", "coins", "cards")
TASKS = (
    "reverses a string", "counts the vowels of a word", "finds the largest number in a list",
    "sorts a list of words by length", "checks whether a number is prime",
    "adds up the digits of a number", "removes duplicates from a list",
    "prints the first n Fibonacci numbers", "computes a factorial", "merges two dictionaries",
    "reads a file line by line", "counts how often each word occurs",
    "checks whether a string is a palindrome", "converts Celsius to Fahrenheit",
    "finds the common elements of two lists", "flattens a nested list", "rotates a list by k places",
    "computes the average of a list", "finds the second largest number", "multiplies two matrices",
    "validates an email address", "draws a triangle of stars", "implements a stack",
    "implements a queue", "computes the greatest common divisor", "counts down from ten",
    "groups people by age", "finds the longest word",
)  # fmt: skip
TOPICS = (
    "the steam engine", "photosynthesis", "a black hole", "the printing press", "inflation",
    "the water cycle", "a vaccine", "the telephone", "gravity", "an earthquake", "democracy",
    "the compass", "a rainbow", "electricity", "a volcano", "the internet", "chess", "bread", "paper",
    "the moon", "a battery", "the heart", "sleep", "music", "a satellite", "glass", "the Roman Empire",
    "recycling", "an electric car", "a nuclear reactor", "evolution", "a solar panel",
)  # fmt: skip


class Prompts:
    """Passages of the model's own, and one maker of prompts a kind."""

    def __init__(self, texts: list[str], seed: int) -> None:
        self._random = random.Random(seed)
        self._texts = [
            text for text in texts if len(text.split()) > 25 and "```" not in text and varied(text)
        ]
        self.makers: dict[str, Callable[[], str]] = {
            "summarisation": lambda: self._about(SUMMARISE, 160),
            "rewriting": lambda: self._about(REWRITE, 70),
            "translation": lambda: self._about(TRANSLATE, 40),
            "extraction": lambda: self._about(EXTRACT, 110),
            "qa in a text": lambda: self._about(ANSWER, 130),
            "math": lambda: self._listed(SUMS),
            "coding": lambda: self._listed(CODE),
            "qa": lambda: self._listed(ASK),
        }

    def _passage(self, words: int) -> str:
        """Whole sentences, about so many words."""
        found: list[str] = []
        for sentence in sentences(self._random.choice(self._texts)):
            if found and sum(len(one.split()) for one in found) + len(sentence.split()) > words:
                break
            found.append(sentence)
        return " ".join(found)

    def _about(self, forms: tuple[str, ...], words: int) -> str:
        passage = self._passage(words)
        whole = [one for one in sentences(passage) if len(one.split()) > 4]
        long = [one for one in re.findall(r"[A-Za-z]+", passage) if len(one) > 6]
        return self._random.choice(forms).format(
            passage=passage,
            more=self._passage(words),
            sentence=whole[0] if whole else passage,
            word=self._random.choice(long or ["it"]).lower(),
            language=self._random.choice(LANGUAGES),
            n=self._random.randint(1, 4),
        )

    def _listed(self, forms: tuple[str, ...]) -> str:
        a, b, c = (self._random.randint(2, 30) for _ in range(3))
        return self._random.choice(forms).format(
            name=self._random.choice(NAMES), thing=self._random.choice(THINGS), a=a, b=b, c=c, d=a * b,
            code=self._random.choice(CODES), task=self._random.choice(TASKS), topic=self._random.choice(TOPICS),
        )  # fmt: skip


def varied(text: str) -> bool:
    """Small models end in loops, and nobody asks about those."""
    parts = sentences(text)
    return len(set(parts)) > 0.8 * len(parts)


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("conversations", type=Path)
    parser.add_argument("--pair", default="smollm2-135m")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tokenizer = load_tokenizer(fetch.fetch_pair(options.pair, offline=True, progress=SilentProgress()).target)
    lines = options.conversations.read_text(encoding="utf-8").splitlines()
    texts = [tokenizer.decode(json.loads(line)["answer"], skip_special_tokens=True) for line in lines]
    prompts = Prompts(texts, options.seed)
    kinds = list(prompts.makers)
    for number in range(options.count):
        kind = kinds[number % len(kinds)]
        print(json.dumps({"category": kind, "prompt": prompts.makers[kind]()}))


if __name__ == "__main__":
    main()
