from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest

from cbir_lite.retrieval import evaluate_codes
from cbir_lite.retrieval.parallel import launch

from .twins import random_codes


@pytest.mark.parametrize(("work", "threads"), [(10, 1), (10**9, numba.config.NUMBA_NUM_THREADS)])
def test_small_work_stays_on_one_thread_and_the_setting_is_restored(
    work: int, threads: int
) -> None:
    seen: list[int] = []
    given = numba.get_num_threads()
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)
    try:
        launch(lambda: seen.append(numba.get_num_threads()), work)
        assert seen == [threads]
        with pytest.raises(ZeroDivisionError):
            launch(lambda: 1 // 0, work)
        assert numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS
    finally:
        numba.set_num_threads(given)


def test_evaluations_from_several_threads_agree_with_one() -> None:
    rng = np.random.default_rng(0)
    codes, labels = random_codes(rng, 3000, 32), rng.integers(0, 10, 3000)

    def score(_: int) -> dict[str, float]:
        return evaluate_codes(codes[:100], codes, labels[:100], labels, (500, None)).columns()

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(score, range(8)))
    assert all(result == results[0] for result in results)
    assert results[0] == score(0)
