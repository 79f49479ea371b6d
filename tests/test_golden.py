"""Today's bits are yesterday's: the outputs of 2,000 seeded cases, by their hashes."""

import golden


def test_bits_are_those_of_the_engine_before(pytestconfig):
    found = golden.compute(pytestconfig.cache.mkdir("golden"))
    assert golden.differences(found) == [], "remake them by `python tests/golden.py --write`?"
    assert len(golden.stored()) == golden.COUNT


def test_cases_are_not_all_alike():
    digests = list(golden.stored().values())
    assert len(set(digests)) > 0.98 * golden.COUNT
    errors = [golden.digest(f"{name}Error") for name in ("Convolution", "Config", "Unsupported")]
    assert sum(map(digests.count, errors)) < 0.02 * golden.COUNT
