"""Documents and values that are larger than anybody writes by hand."""

from __future__ import annotations

import json

from tests.wdl.running import run


def wdl(folder, source, *words, inline=True):
    (folder / "document.wdl").write_text(source)
    return run(["document.wdl", "--container", "none", *words], folder, inline=inline)


def test_long_sums_and_chains_of_declarations(tmp_path):
    chain = "".join(f"  Int x{number + 1} = x{number} + 1\n" for number in range(600))
    total = " + ".join(["1"] * 500)
    source = f"version 1.1\nworkflow w {{\n  Int x0 = {total}\n{chain}  output {{ Int y = x600 }}\n}}\n"
    done = wdl(tmp_path, source, "--workers", "1", inline=False)
    assert done.status == 0, done.stderr
    assert json.loads(done.stdout) == {"w.y": 1100}


def test_a_value_that_is_nested_too_deeply_is_reported(tmp_path):
    done = wdl(tmp_path, f"version 1.1\nworkflow w {{ Int x = {' + '.join(['1'] * 3000)} }}\n")
    assert done.status == 2
    assert "document.wdl: an expression is nested too deeply" in done.stderr


def test_a_long_wrong_value_is_cut_in_the_message(tmp_path):
    done = wdl(tmp_path, "version 1.1\nworkflow w { input { Array[Int] x } }\n", json.dumps({"w.x": ["ö"] * 10**5}))
    assert done.status == 2
    assert 'input w.x cannot be ["ö", "ö", ' in done.stderr
    assert len(done.stderr) < 600
