"""VocabTrim: which part of the vocabulary a target really uses, and a drafter's head cut down to it."""
