"""Sentences to run a model of film reviews on where nobody gives others; written for this package."""

from __future__ import annotations

__all__ = ["SENTENCES"]

SENTENCES = (
    "a gorgeous, witty film",
    "the plot goes nowhere and takes two hours to do so",
    "funny in places, but it never quite comes together",
    "an actor at the height of his powers",
    "i have seen better dialogue on a box of cereal",
    "quiet, patient and deeply moving",
    "it wants to be a thriller and ends up as a lecture",
    "not a single scene that you have not seen before, done better",
    "the songs alone are worth the ticket",
    "warm without being sentimental, clever without showing off",
    "so badly edited that it is hard to tell who is who",
    "a small film with a large heart",
)
