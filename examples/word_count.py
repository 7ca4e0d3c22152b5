"""Map and reduce: count the words of each text file in a task of its own, and print the commonest words.

python examples/word_count.py FILE...
"""

import re
import sys
from collections import Counter

import toilfn as toil


@toil.task
def count(text: toil.File) -> Counter[str]:
    with text.open("r") as lines:
        return Counter(word for line in lines for word in re.findall(r"\w+", line.lower()))


@toil.task
def total(counts: list[Counter[str]]) -> Counter[str]:
    return sum(counts, Counter())


if __name__ == "__main__":
    files = [toil.import_file(name) for name in sys.argv[1:] or [__file__]]
    for word, times in toil.compute(total(count.map(files))).most_common(10):
        print(f"{times:8} {word}")
