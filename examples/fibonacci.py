"""Call tasks recursively: Fibonacci numbers, as they are defined.

python examples/fibonacci.py [N]
"""

import sys

import toilfn as toil


@toil.task(memory="50M")
def fibonacci(n: int) -> int:
    return n if n < 2 else add(fibonacci(n - 1), fibonacci(n - 2))


@toil.task(memory="50M")
def add(a: int, b: int) -> int:
    return a + b


if __name__ == "__main__":
    print(toil.compute(fibonacci(int(sys.argv[1]) if len(sys.argv) > 1 else 10)))
